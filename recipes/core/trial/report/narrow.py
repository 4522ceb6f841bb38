"""Results as Markdown that is no wider than a page: one table for each metric."""

from recipes.core.trial.report.markdown import escape
from recipes.core.trial.report.tables import ArmRow, ResultTable, Value


def narrow_markdown(table: ResultTable) -> str:
    """For each metric its name and a table of the arms, the baseline first; then their times, then the notes.

    Args:
        table: What to show.
    """
    parts = []
    for index, metric in enumerate(table.metrics):
        head = f"**{escape(metric.title)}** (`{metric.name}`) {metric.arrow}".rstrip()
        heads = ["arm", "mean", "difference", f"{table.level} interval"]
        rows = [[escape(row.title), *_cells(row.values[index])] for row in table.rows]
        parts.append(f"{head}\n\n{_table(heads, rows)}")
    if any(row.seconds is not None for row in table.rows):
        rows = [[escape(row.title), row.time, _cost(row)] for row in table.rows]
        heads = ["arm", "time", f"over that of {escape(table.baseline)}"]
        parts.append(f"**Time of a run**\n\n{_table(heads, rows)}")
    notes = ". ".join(map(escape, table.notes))
    return f"# {escape(table.title)}\n\n" + "\n".join(parts) + f"\n{notes}.\n"


def _table(heads: list[str], rows: list[list[str]]) -> str:
    rule = [":--", *["--:"] * (len(heads) - 1)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (heads, rule, *rows))


def _cells(value: Value | None) -> list[str]:
    """Mean, difference and interval."""
    if value is None:
        return ["", "", ""]
    mean, *others = value.texts
    return [f"**{mean}**" if value.best else mean, *others]


def _cost(row: ArmRow) -> str:
    return "" if row.cost is None else f"{row.cost:.2f}"
