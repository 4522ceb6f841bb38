"""Text for people: what may be sent to a terminal, how long it may be, and in columns."""

import sys
import unicodedata
from collections.abc import Sequence
from typing import Any

WIDE, WIDEST = 80, 300  # characters of a value, of a path


def note(text: str) -> None:
    """Print to stderr what is not the command's result: a warning, what is being done."""
    print(printable(text), file=sys.stderr, flush=True)


def duration_text(seconds: float) -> str:
    """How long something takes, in one or two units: 40 s, 8 min 20 s, 52 min, 4 h 12 min, 3 d 4 h."""
    whole = max(0, round(seconds))
    if whole < 100:
        return f"{whole} s"
    if whole < 600:
        return _in_two(whole, 60, "min", "s")
    if (minutes := round(whole / 60)) < 60:
        return f"{minutes} min"
    return _in_two(minutes, 60, "h", "min") if minutes < 48 * 60 else _in_two(round(minutes / 60), 24, "d", "h")


def _in_two(count: int, size: int, large: str, small: str) -> str:
    many, few = divmod(count, size)
    return f"{many} {large}" + (f" {few} {small}" if few else "")


def printable(text: str) -> str:
    """A text as it may be sent to a terminal: what would control it, or could not be seen, is written as an escape.

    Line ends and tabs stay. A file's name or a caption may hold the escape sequences of a terminal.
    """
    if all(line.isprintable() for line in text.split("\n")):
        return text
    return "".join(sign if sign in "\n\t" or not _is_hidden(sign) else _escape(sign) for sign in text)


def shorten(value: Any, width: int = WIDE) -> str:
    """A value on one line of at most `width` characters, its middle left out where it is longer."""
    text = printable(str(value)).replace("\n", "\\n")
    if len(text) <= width:
        return text
    head = (width - 3) * 2 // 3
    return f"{text[:head]}...{text[len(text) - (width - 3 - head) :]}"


def _is_hidden(sign: str) -> bool:
    # Controls, formats (zero width, direction), surrogates, separators of lines; blanks of other widths are seen.
    return unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp", "Cn")


def _escape(sign: str) -> str:
    return sign.encode("unicode_escape", "surrogatepass").decode("ascii")


def align(lines: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    """Columns two blanks apart, each as wide as its widest cell; nothing is wrapped or cut."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(right))]
    texts = []
    for line in lines:
        cells = [
            cell.rjust(width) if flush_right else cell.ljust(width)
            for cell, width, flush_right in zip(line, widths, right, strict=True)
        ]
        texts.append("  ".join(cells).rstrip())
    return "\n".join(texts)
