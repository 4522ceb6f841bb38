"""Comparison of a trial: every arm beside the baseline on its paired seeds, corrected for the number of arms."""

from collections.abc import Sequence
from dataclasses import replace

from recipes.core.compare import Comparison, MetricRow, compare_measured
from recipes.core.measured import Measured, read_measured
from recipes.core.records import RunRecord
from recipes.core.runs import DONE
from recipes.core.statistics import holm


def compare_trial(
    runs: Sequence[RunRecord],
    baseline: str,
    *,
    arm_keys: set[str],
    main_metric: str | None,
    level: float = 0.95,
) -> list[Comparison]:
    """Compare every arm of a trial with its baseline, over all seeds that both have finished.

    Runs are paired by seed alone: a trial's cells share their config but for what the arms choose. `p_holm` answers
    "does any arm differ on this metric": per metric, Holm over the arms that have an interval for it.

    Args:
        runs: The runs of the trial's cells; unfinished ones are left out.
        baseline: Name of the baseline arm.
        arm_keys: Dotted prefixes that arms are free to change.
        main_metric: The metric named in advance. It is corrected over the arms like any other.
        level: Nominal coverage.

    Returns:
        One comparison per arm, in the order of `runs`: over seeds, or over the examples of the only seed that pairs.
        An arm without a pair is absent.

    Raises:
        UserError: an arm shares no example with the baseline.
    """
    finished = [run for run in runs if run.state == DONE]
    others = {run.seed: read_measured(run) for run in finished if run.arm == baseline}
    comparisons = []
    for arm in dict.fromkeys(run.arm for run in finished if run.arm != baseline):
        pairs = _pairs([run for run in finished if run.arm == arm], others)
        if pairs:
            found = compare_measured(pairs, arm_keys=arm_keys, main_metric=main_metric, level=level)
            comparisons.append(found)
    return _corrected_over_arms(comparisons)


def _pairs(runs: Sequence[RunRecord], others: dict[int, Measured]) -> list[tuple[Measured, Measured]]:
    return [(read_measured(run), others[run.seed]) for run in runs if run.seed in others]


def _corrected_over_arms(comparisons: list[Comparison]) -> list[Comparison]:
    p_values: dict[str, dict[str, float]] = {}  # metric -> arm -> p-value
    for comparison in comparisons:
        for row in comparison.rows:
            if row.interval:
                p_values.setdefault(row.metric, {})[comparison.arm] = row.interval.p_value
    adjusted = {
        metric: dict(zip(by_arm, map(float, holm(list(by_arm.values()))), strict=True))
        for metric, by_arm in p_values.items()
    }

    def corrected(arm: str, row: MetricRow) -> MetricRow:
        return replace(row, p_holm=adjusted.get(row.metric, {}).get(arm))

    return [
        replace(comparison, rows=tuple(corrected(comparison.arm, row) for row in comparison.rows))
        for comparison in comparisons
    ]
