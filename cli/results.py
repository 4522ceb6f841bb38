"""What `--json` prints: one object on stdout, the same frame for every command; docs/json.md describes it."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import typer

from cli.console import print_json
from recipes.core.errors import SteelyardError
from recipes.core.process.streams import forgiving_stream

FORMAT = 1  # rises when an entry changes its meaning or goes
FLAG = "--json"
_streams: list[TextIO] = []  # of `only_the_result`, the innermost last: where the result goes in place of stdout
JSON: Any = typer.Option(False, FLAG, help="Print the result as one JSON object; progress and notes go to stderr.")


def print_result(command: str, result: Any) -> None:
    """Print the result of a command.

    Args:
        command: Its name ("runs").
        result: Plain values; NaN and infinities become null.
    """
    _print({"steelyard": FORMAT, "command": command, "result": result})


def print_error(command: str, error: SteelyardError | str) -> None:
    """Print what a command refused or failed at; a text is a defect of ours."""
    if isinstance(error, str):
        failed: dict[str, Any] = {"what": error, "where": "", "hint": "", "exit_code": 1}
    else:
        failed = {"what": error.what, "where": error.where, "hint": error.hint, "exit_code": error.exit_code}
    _print({"steelyard": FORMAT, "command": command, "error": failed})


def _print(frame: dict[str, Any]) -> None:
    print_json(frame, _streams[-1] if _streams else sys.stdout)


def as_files(files: Iterable[tuple[str, Path]]) -> list[dict[str, str]]:
    """Written files as {"kind", "path"}."""
    return [{"kind": kind, "path": str(path)} for kind, path in files]


@contextlib.contextmanager
def only_the_result(wanted: bool) -> Iterator[None]:
    """Keep stdout for the result: what the block prints otherwise goes to stderr.

    That includes what libraries print from C, and child processes.

    Args:
        wanted: Whether `--json` was typed; else nothing changes.
    """
    if not wanted:
        yield
        return
    with contextlib.ExitStack() as stack:
        result = sys.stdout
        if _has_descriptor():
            result.flush()
            descriptor = os.dup(1)
            stack.callback(os.close, descriptor)
            stack.callback(os.dup2, descriptor, 1)
            os.dup2(2, 1)
            result = forgiving_stream(descriptor, result.encoding)
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        _streams.append(result)
        stack.callback(_streams.pop)
        yield


def _has_descriptor() -> bool:
    """Whether stdout and stderr are those of the process, and no test's."""
    try:
        return (sys.stdout.fileno(), sys.stderr.fileno()) == (1, 2)
    except (OSError, AttributeError, ValueError):
        return False
