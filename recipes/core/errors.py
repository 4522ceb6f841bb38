"""The two kinds of failure that people see: wrong input (exit code 2) and a failed run (exit code 1)."""

from recipes.core.messages import WIDEST, printable, shorten


class SteelyardError(Exception):
    """A failure, stated as what is wrong, where, and what to type instead.

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
        lines = [f"{shorten(self.where, WIDEST)}: {what}" if self.where else what]
        if self.hint:
            lines += [f"  {printable(line)}" for line in self.hint.split("\n")]
        return "\n".join(lines)


class UserError(SteelyardError):
    """The input was wrong: config, data, a missing asset, a folder another process owns. Exit code 2."""

    exit_code = 2


class RunFailed(SteelyardError):
    """The run itself failed after it had started: NaN loss, full disk. Exit code 1."""
