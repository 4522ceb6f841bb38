"""Forest plots of a trial: one row per arm, its difference to the baseline, in per cent of the plot's width.

Per cent, because then the plot stretches with the page while its marks and texts keep their size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from recipes.core.report.charts import axis
from recipes.core.statistics.compare import MetricRow
from recipes.core.statistics.texts import number_text
from recipes.core.trial.report.arms import Arm, Metric, best_first

REACH = 1.0  # an interval may pass the estimates, the dots and the band by this many times their range
EDGE = 2.5  # per cent of the width that stays free at both sides


@dataclass(frozen=True)
class ForestRow:
    """One arm. `dots` are (x, seed, difference); a cut end of the interval lies outside the plot."""

    arm: Arm
    row: MetricRow
    middle: float
    low: float
    high: float
    cut_low: bool
    cut_high: bool
    dots: list[tuple[float, int, float]]

    @cached_property
    def of_seed(self) -> dict[int, float]:
        """Difference by seed."""
        return {seed: value for _, seed, value in self.dots}


@dataclass(frozen=True)
class ForestPlot:
    """One metric over the arms.

    Attributes:
        metric: The metric.
        unit: What the intervals are taken over: "seeds" or "examples".
        zero: x of no difference.
        band: (x, width) of the differences too small to matter; None where none is known.
        minimal: Half of the band, in the metric's unit; 0 without one.
        limits: Differences at the left and the right edge.
        ticks: (x, label) along the axis.
        rows: The arms, the claim's first.
    """

    metric: Metric
    unit: str
    zero: float
    band: tuple[float, float] | None
    minimal: float
    limits: tuple[float, float]
    ticks: list[tuple[float, str]]
    rows: list[ForestRow]

    @property
    def description(self) -> str:
        """The plot in words, for people who do not see it."""
        return "; ".join(f"{row.arm.name} {number_text(row.row.difference, True)}" for row in self.rows)


def forest_plot(arms: Sequence[Arm], metric: Metric, minimal: float, direction: int) -> ForestPlot | None:
    """The plot of one metric; None if no arm has a difference in it.

    Args:
        arms: The trial's arms.
        metric: What to show.
        minimal: Minimal effect of interest, in the metric's unit; 0 for no band.
        direction: +1 if larger values of the metric are wanted, -1 if smaller: sorts the arms.
    """
    shown = [(arm, row) for arm in best_first(arms, metric.name, direction) if (row := arm.row(metric.name))]
    if not shown:
        return None
    low, high = _limits([row for _, row in shown], minimal)

    def x_of(value: float) -> float:
        return round(EDGE + (value - low) / (high - low) * (100 - 2 * EDGE), 2)

    rows = []
    for arm, row in shown:
        seeds = arm.comparison.seeds if arm.comparison else ()
        dots = [(x_of(value), seed, value) for seed, value in zip(seeds, row.differences, strict=False)]
        ends = (row.interval.low, row.interval.high) if row.interval else (row.difference, row.difference)
        left, right = x_of(max(ends[0], low)), x_of(min(ends[1], high))
        rows.append(ForestRow(arm, row, x_of(row.difference), left, right, ends[0] < low, ends[1] > high, dots))
    _, _, marks = axis(low, high, 5)
    ticks = [(x_of(mark), tick_text(mark)) for mark in marks if low <= mark <= high]
    band = (x_of(-minimal), round(x_of(minimal) - x_of(-minimal), 2)) if minimal > 0 else None
    unit = "examples" if shown[0][1].examples else shown[0][0].comparison.unit if shown[0][0].comparison else "seeds"
    return ForestPlot(metric, unit, x_of(0), band, minimal, (low, high), ticks, rows)


def _limits(rows: Sequence[MetricRow], minimal: float) -> tuple[float, float]:
    """Everything but the far ends of very wide intervals, which would press all else together."""
    points = [0.0, -minimal, minimal]
    for row in rows:
        points += [row.difference, *row.differences]
    low, high = min(points), max(points)
    slack = REACH * (high - low)
    for row in rows:
        if row.interval:
            low = min(low, max(row.interval.low, min(points) - slack))
            high = max(high, min(row.interval.high, max(points) + slack))
    return (low, high) if high > low else (low - 1, high + 1)


def tick_text(mark: float) -> str:
    """A round difference with its sign."""
    text = f"{mark:+.6g}" if mark else "0"
    return text.replace("-", "\N{MINUS SIGN}")
