"""What commands print: Rich tables on a terminal, plain aligned text anywhere else."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from recipes.core.messages import align, note, printable
from recipes.core.storage.files import json_text

__all__ = ["note"]

# Exit code of what was told to stop; its state is saved.
INTERRUPTED_CODE = 130


def say(text: str = "") -> None:
    """Print one line or block to stdout."""
    print(printable(text), flush=True)


def heading(text: str) -> None:
    """Print the title of what follows, bold on a terminal."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.text import Text

        Console().print(Text(printable(text), style="bold"))
    else:
        say(text)


def table(rows: Sequence[Mapping[str, str]], columns: Sequence[str] | None = None, numbers: Sequence[str] = ()) -> None:
    """Print rows under a header.

    Args:
        rows: One mapping of column to text per row.
        columns: Which columns, in order; those of the first row if None.
        numbers: Columns set flush right.
    """
    names = list(columns if columns is not None else rows[0])
    cells = [[row[name] for name in names] for row in rows]
    if sys.stdout.isatty():
        _rich_table(names, cells, numbers)
    else:
        say(align([names, *cells], [name in numbers for name in names]))


def pairs(rows: Sequence[tuple[str, str]]) -> None:
    """Print (what, value) rows, aligned and without a header."""
    say(align([list(row) for row in rows], [False, False]))


def print_json(value: Any, file: TextIO) -> None:
    """Print a value as indented JSON; NaN and infinities become null."""
    text = json_text(value)
    print(text if text == printable(text) else json_text(value, ascii_only=True), file=file, flush=True)


def _rich_table(names: list[str], cells: list[list[str]], numbers: Sequence[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        grid.add_column(Text(name), justify="right" if name in numbers else "left", overflow="fold")
    for row in cells:
        grid.add_row(*(Text(printable(cell)) for cell in row))
    Console().print(grid)
