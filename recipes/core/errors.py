"""The two kinds of failure that people see: wrong input (exit code 2) and a failed run (exit code 1)."""

import unicodedata
from typing import Any

WIDE, WIDEST = 80, 300  # characters of a value, of a path


def printable(text: str) -> str:
    """A text as it may be sent to a terminal: what would control it, or could not be seen, is written as an escape.

    Line ends and tabs stay. A file's name or a caption may hold the escape sequences of a terminal.
    """
    if text.isprintable():
        return text
    return "".join(sign if sign in "\n\t" or not _is_hidden(sign) else _escape(sign) for sign in text)


def shortened(value: Any, width: int = WIDE) -> str:
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


class SteelyardError(Exception):
    """A failure told as what is wrong, where, and what to type instead.

    Args:
        what: One sentence: what is wrong.
        where: File, dotted key or example it is about; empty if `what` says it.
        hint: What to type or do instead; empty if there is nothing better to say.
    """

    exit_code = 1

    def __init__(self, what: str, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = what, where, hint
        super().__init__(what, where, hint)

    def __str__(self) -> str:
        what = printable(self.what)
        lines = [f"{shortened(self.where, WIDEST)}: {what}" if self.where else what]
        if self.hint:
            lines += [f"  {printable(line)}" for line in self.hint.split("\n")]
        return "\n".join(lines)


class UserError(SteelyardError):
    """The input was wrong: config, data, a missing asset, a folder another process owns. Exit code 2."""

    exit_code = 2


class RunFailed(SteelyardError):
    """The run itself failed after it had started: NaN loss, full disk. Exit code 1."""
