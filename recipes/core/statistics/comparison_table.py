"""A comparison as rows of a table."""

from recipes.core.statistics.compare import CLAIM, Comparison, MetricRow
from recipes.core.statistics.texts import interval_text, number_text, p_text


def comparison_table(comparison: Comparison) -> list[dict[str, str]]:
    """One dict of texts per metric, the main metric first: what the command line prints and the report shows."""
    rows = sorted(comparison.rows, key=lambda row: row.metric != comparison.main_metric)
    return [
        {
            "metric": row.metric,
            "title": row.title,
            comparison_column(comparison.arm): number_text(row.value),
            comparison_column(comparison.baseline): number_text(row.baseline),
            "difference": number_text(row.difference, signed=True),
            "interval": interval_text(row.interval),
            "p (Holm)": CLAIM if row.verdict else "" if row.p_holm is None else p_text(row.p_holm),
            "d_z": "" if row.effect_size is None else number_text(row.effect_size, signed=True),
            "n": f"{row.number} {unit_of(row, comparison.unit)}" if row.interval else "",
            "outcome": row.outcome,
        }
        for row in rows
    ]


def unit_of(row: MetricRow, unit: str) -> str:
    """What a row's interval is over, in one word, where `unit` is what those of the comparison are over."""
    return "seeds" if unit == "seeds" and row.examples is None else "items"


def comparison_column(arm: str) -> str:
    """Heading of an arm's column."""
    return f"arm {arm}"
