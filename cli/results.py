"""What `--json` prints: one object on stdout, the same frame for every command; docs/json.md describes it."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer

from cli.console import print_json
from recipes.core.errors import SteelyardError

FORMAT = 1  # rises when an entry changes its meaning or goes
FLAG = "--json"
JSON: Any = typer.Option(False, FLAG, help="Print the result as one JSON object; progress and notes go to stderr.")


def print_result(command: str, result: Any) -> None:
    """Print the result of a command.

    Args:
        command: Its name ("runs").
        result: Plain values; NaN and infinities become null.
    """
    print_json({"steelyard": FORMAT, "command": command, "result": result})


def print_error(command: str, error: SteelyardError | str) -> None:
    """Print what a command refused or failed at; a text is a defect of ours."""
    if isinstance(error, str):
        failed: dict[str, Any] = {"what": error, "where": "", "hint": "", "exit_code": 1}
    else:
        failed = {"what": error.what, "where": error.where, "hint": error.hint, "exit_code": error.exit_code}
    print_json({"steelyard": FORMAT, "command": command, "error": failed})


def as_files(files: Iterable[tuple[str, Path]]) -> list[dict[str, str]]:
    """Written files as {"kind", "path"}."""
    return [{"kind": kind, "path": str(path)} for kind, path in files]


@contextlib.contextmanager
def only_the_result(wanted: bool) -> Iterator[None]:
    """Send what the block prints to stderr, what libraries print from C and child processes print included.

    Args:
        wanted: Whether `--json` was typed; else nothing changes.
    """
    if not wanted:
        yield
        return
    with contextlib.ExitStack() as stack:
        if _has_descriptor():
            sys.stdout.flush()
            kept = os.dup(1)
            os.dup2(2, 1)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, 1)
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


def _has_descriptor() -> bool:
    """Whether stdout and stderr are those of the process, and no test's."""
    try:
        return (sys.stdout.fileno(), sys.stderr.fileno()) == (1, 2)
    except (OSError, AttributeError, ValueError):
        return False
