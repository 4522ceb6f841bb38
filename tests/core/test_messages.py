"""What reaches a terminal: controls are shown, long values are cut."""

import ast
from pathlib import Path

import pytest

from recipes.core.config.registry import ROOT
from recipes.core.errors import UserError
from recipes.core.messages import duration_text, printable, shorten


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é ✓ 漢字", "plain é ✓ 漢字"),
        ("a\x1b[31mred", "a\\x1b[31mred"),
        ("a\x00\x07\x9b", "a\\x00\\x07\\x9b"),
        ("zero\u200bwidth \u202eback", "zero\\u200bwidth \\u202eback"),
        ("lines\nand\ttabs", "lines\nand\ttabs"),
        ("over\rwritten", "over\\rwritten"),
        ("half \ud800", "half \\ud800"),
    ],
)
def test_controls_are_written_as_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (40.4, "40 s"),
        (99.4, "99 s"),
        (99.6, "1 min 40 s"),
        (480, "8 min"),
        (500, "8 min 20 s"),
        (599.6, "10 min"),
        (3110, "52 min"),
        (3599, "1 h"),
        (15098, "4 h 12 min"),
        (7200, "2 h"),
        (200_000, "2 d 8 h"),
    ],
)
def test_durations_have_one_or_two_units(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_long_values_lose_their_middle() -> None:
    assert shorten("a" * 80) == "a" * 80
    cut = shorten("begin" + "-" * 200 + "end")
    assert len(cut) == 80 and cut.startswith("begin") and cut.endswith("end") and "..." in cut
    assert shorten("two\nlines") == "two\\nlines"


def test_an_error_shows_no_controls_and_no_endless_place() -> None:
    error = UserError("line 3: \x1b[2Jgone", where="data.path=" + "x" * 1000, hint="type\x07 this\nor that")
    text = str(error)
    assert "\x1b" not in text and "\x07" not in text
    assert "line 3: \\x1b[2Jgone\n  type\\x07 this\n  or that" in text
    assert len(text) < 400


def test_what_is_printed_goes_through_one_place() -> None:
    # A file's name in a warning would otherwise reach the terminal as it is.
    allowed = {"recipes/core/messages.py", "cli/console.py"}
    code = [path for folder in ("recipes", "cli") for path in (ROOT / folder).rglob("*.py")]
    assert {str(path.relative_to(ROOT)) for path in code if _prints(path)} == allowed


def _prints(path: Path) -> bool:
    """Whether code calls print; not where it writes code that does."""
    calls = (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call))
    return any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls)
