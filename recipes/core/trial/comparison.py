"""Comparison of a trial: every arm beside the baseline on its paired seeds, corrected for the number of arms."""

from collections.abc import Collection, Sequence

from recipes.core.runs.folder import DONE
from recipes.core.runs.records import RunRecord
from recipes.core.statistics.compare import Comparison, compare_measurements, corrected_over_arms
from recipes.core.statistics.measured import Measured, read_measurements


def compare_trial(
    runs: Sequence[RunRecord],
    baseline: str,
    *,
    arm_keys: set[str],
    main_metric: str | None,
    named: Collection[tuple[str, str]] = (),
    over_examples: Collection[str] = (),
    level: float = 0.95,
) -> list[Comparison]:
    """Compare every arm of a trial with its baseline, over all seeds that both have finished.

    Runs are paired by seed alone: a trial's cells share their config but for what the arms choose.

    Args:
        runs: The runs of the trial's cells; unfinished ones are left out.
        baseline: Name of the baseline arm.
        arm_keys: Dotted prefixes that arms are free to change.
        main_metric: The metric named in advance, shown first.
        named: (arm, metric) of the claims, which `corrected_over_arms` leaves out.
        over_examples: Metrics of claims that are judged over examples.
        level: Nominal coverage.

    Returns:
        One comparison per arm, in the order of `runs`: over seeds, or over the examples of the only seed that pairs.
        An arm without a pair is absent.

    Raises:
        UserError: an arm shares no example with the baseline.
    """
    finished = [run for run in runs if run.state == DONE]
    others = {run.seed: read_measurements(run) for run in finished if run.arm == baseline}
    comparisons = []
    for arm in dict.fromkeys(run.arm for run in finished if run.arm != baseline):
        pairs = _pairs([run for run in finished if run.arm == arm], others)
        if pairs:
            one = compare_measurements(
                pairs, arm_keys=arm_keys, main_metric=main_metric, over_examples=over_examples, level=level
            )
            comparisons.append(one)
    return corrected_over_arms(comparisons, named)


def _pairs(runs: Sequence[RunRecord], others: dict[int, Measured]) -> list[tuple[Measured, Measured]]:
    return [(read_measurements(run), others[run.seed]) for run in runs if run.seed in others]
