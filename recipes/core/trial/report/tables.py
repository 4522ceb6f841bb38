"""Tables of results for papers: every arm's mean, its difference to the baseline with the interval, time and cost."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from recipes.core.messages import duration_text
from recipes.core.runs.records import seconds_taken
from recipes.core.statistics.comparison_table import unit_of
from recipes.core.statistics.intervals import Interval, holm, paired_t
from recipes.core.statistics.texts import interval_text, number_text
from recipes.core.trial.report.arms import Arm, Metric, Summary, summaries
from recipes.core.trial.report.results import Results

CLEAR = 0.05  # largest corrected p-value of a lead that is bold


@dataclass(frozen=True)
class Value:
    """One arm's value of one metric.

    Attributes:
        mean: Mean over seeds.
        deviation: Standard deviation over seeds; None on one seed.
        difference: To the baseline; None for the baseline and where no seed has both.
        interval: Of the difference; None without one.
        number: What the interval is over: so many of `unit`; 0 without one.
        unit: "seeds" or "items".
        p_value: Of the difference, corrected over the arms; None without an interval.
        outcome: "better", "worse", "unclear", a verdict, "baseline"; empty where nothing is compared.
        best: Whether its lead over every other arm is clear, see `clear_best`.
    """

    mean: float
    deviation: float | None
    difference: float | None = None
    interval: Interval | None = None
    number: int = 0
    unit: str = ""
    p_value: float | None = None
    outcome: str = ""
    best: bool = False

    @property
    def texts(self) -> tuple[str, str, str]:
        """Mean, difference and interval; empty where there is none."""
        difference = "" if self.difference is None else number_text(self.difference, True)
        return number_text(self.mean), difference, interval_text(self.interval)


@dataclass(frozen=True)
class ArmRow:
    """One arm of a table.

    Attributes:
        arm: Its name.
        role: "baseline", "arm" (the claim's) or "other".
        seeds: Finished ones.
        seconds: Mean time of a run, of those that were not cut off; None if there is none.
        cost: That time over the baseline's; None where one of the two is not known.
        values: One for each metric of the table; None where the arm did not measure it.
    """

    arm: str
    role: str
    seeds: tuple[int, ...]
    seconds: float | None
    cost: float | None
    values: tuple[Value | None, ...]

    @property
    def title(self) -> str:
        """`ntp (baseline)`, or the arm's name alone."""
        return f"{self.arm} (baseline)" if self.role == "baseline" else self.arm

    @property
    def time(self) -> str:
        """Time of a run as text; empty where it is not known."""
        return "" if self.seconds is None else duration_text(self.seconds)


@dataclass(frozen=True)
class ResultTable:
    """Arms as rows, the baseline first, and metrics as columns.

    Attributes:
        recipe: Name of the recipe.
        title: That of its card.
        baseline: The arm that differences are to.
        metrics: The columns.
        rows: The arms.
        notes: Sentences on what the numbers are.
    """

    recipe: str
    title: str
    baseline: str
    metrics: tuple[Metric, ...]
    rows: tuple[ArmRow, ...]
    notes: tuple[str, ...]

    @property
    def level(self) -> str:
        """Coverage of the intervals: "95%"."""
        return next((f"{one.interval.level:.0%}" for one in self.values if one.interval), "95%")

    @property
    def values(self) -> list[Value]:
        """All values of the table."""
        return [value for row in self.rows for value in row.values if value]


def result_table(results: Results, metrics: Sequence[Metric]) -> ResultTable:
    """The table of some metrics.

    Args:
        results: Of a trial or run.
        metrics: The columns, in this order.
    """
    columns = [_column(results.arms, metric) for metric in metrics]
    seconds = [_mean_seconds(arm) for arm in results.arms]
    base = next((spent for arm, spent in zip(results.arms, seconds, strict=True) if arm.role == "baseline"), None)
    rows = tuple(
        ArmRow(
            arm.name,
            arm.role,
            tuple(sorted(arm.runs)),
            spent,
            spent / base if spent is not None and base else None,
            tuple(column[index] for column in columns),
        )
        for index, (arm, spent) in enumerate(zip(results.arms, seconds, strict=True))
    )
    table = ResultTable(results.recipe, results.card.title, results.baseline, tuple(metrics), rows, ())
    return ResultTable(**vars(table) | {"notes": _notes(table, results.remarks)})


def clear_best(arms: Sequence[Arm], metric: Metric) -> str:
    """The arm with the best mean, if its lead over every other arm is clear; else empty.

    Clear is a lead that the paired difference has too, with a p-value of at most 0.05, Holm-corrected over the other
    arms. Beside the baseline both are those of the comparison, beside another arm those of the paired t test over the
    seeds that both have: on one seed no arm is the best of several that are not the baseline.
    """
    measured = [(arm, one.mean) for arm, one in zip(arms, summaries(arms, metric), strict=True) if one]
    if metric.higher_is_better is None or len(measured) < 2:
        return ""
    sign = 1 if metric.higher_is_better else -1
    (best, _), *others = sorted(measured, key=lambda pair: -sign * pair[1])
    p_values = holm([_lead_p_value(best, other, metric.name, sign) for other, _ in others])
    return best.name if max(p_values) <= CLEAR else ""


def _lead_p_value(best: Arm, other: Arm, metric: str, sign: int) -> float:
    """The p-value of "the two arms are equal"; 1 where it is not known, or no lead on the seeds that both have.

    Args:
        best: The arm with the better mean, over seeds that the other may lack.
        other: The arm beside it.
        metric: Name of the metric.
        sign: +1 where a higher value is better, -1 where a lower one is.
    """
    interval = _lead(best, other, metric)
    return interval.p_value if interval and sign * interval.estimate > 0 else 1.0


def _lead(best: Arm, other: Arm, metric: str) -> Interval | None:
    """The paired difference of two arms; None without one."""
    if best.role == "baseline" and (row := other.row(metric)):
        return replace(row.interval, estimate=-row.interval.estimate) if row.interval else None
    if other.role == "baseline" and (row := best.row(metric)):
        return row.interval
    mine, theirs = best.values(metric), other.values(metric)
    differences = [mine[seed] - theirs[seed] for seed in mine if seed in theirs]
    return paired_t(differences) if len(differences) > 1 else None


def _column(arms: Sequence[Arm], metric: Metric) -> list[Value | None]:
    best = clear_best(arms, metric)
    return [
        _value(arm, one, arm.name == best) if one else None
        for arm, one in zip(arms, summaries(arms, metric), strict=True)
    ]


def _value(arm: Arm, summary: Summary, best: bool) -> Value:
    row = summary.row
    if row is None or arm.comparison is None:
        outcome = "baseline" if arm.role == "baseline" else ""
        return Value(summary.mean, summary.deviation, outcome=outcome, best=best)
    number, unit = (row.number, unit_of(row, arm.comparison.unit)) if row.interval else (0, "")
    return Value(
        summary.mean, summary.deviation, row.difference, row.interval, number, unit, row.p_holm, row.outcome, best
    )


def _mean_seconds(arm: Arm) -> float | None:
    seconds = [spent for run in arm.runs.values() if (spent := seconds_taken(run.path)) is not None]
    return fmean(seconds) if seconds else None


def _notes(table: ResultTable, remarks: Sequence[str]) -> tuple[str, ...]:
    """What the numbers are, as sentences without a full stop."""
    seeds = sorted({seed for row in table.rows for seed in row.seeds})
    over = f"seed {seeds[0]}" if len(seeds) == 1 else f"mean over {len(seeds)} seeds"
    notes = [over[:1].upper() + over[1:]]
    kinds = {value.unit for value in table.values if value.interval}
    words = {"seeds": "t intervals over seeds", "items": "bootstrap intervals over test items"}
    if kinds:
        intervals = " or ".join(words[kind] for kind in words if kind in kinds)
        notes.append(f"Differences to {table.baseline}, paired, with {table.level} {intervals}")
    if any(value.best for value in table.values):
        notes.append("Bold: better than every other arm (p at most 0.05, Holm)")
    if any(row.seconds is not None for row in table.rows):
        several = len(table.rows) > 1 and any(row.cost is not None for row in table.rows)
        notes.append("Time: of a run" + (f", and over that of {table.baseline}" if several else ""))
    return (*notes, *(remark[:1].upper() + remark[1:] for remark in remarks))
