"""Comparison of a trial: every arm beside the baseline on its paired seeds, corrected for the number of arms."""

from collections.abc import Collection, Sequence

from recipes.core.statistics.compare import Comparison, compare_measurements, correct_over_arms, pairs_by_seed
from recipes.core.statistics.measured import Measured


def compare_trial(
    measured: Sequence[Measured],
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
        measured: What the finished runs of the trial's cells measured.
        baseline: Name of the baseline arm.
        arm_keys: Dotted prefixes that arms are free to change.
        main_metric: The metric named in advance, shown first.
        named: (arm, metric) of the claims, which `correct_over_arms` leaves out.
        over_examples: Metrics of claims that are judged over examples.
        level: Nominal coverage.

    Returns:
        One comparison per arm, in the order of `measured`: over seeds, or over the examples of the only seed that
        pairs. An arm without a pair is absent.

    Raises:
        UserError: an arm shares no example with the baseline.
    """
    by_arm = measured_by_arm(measured)
    others, comparisons = by_arm.pop(baseline, []), []
    for runs in by_arm.values():
        if pairs := pairs_by_seed(runs, others):
            one = compare_measurements(
                pairs, arm_keys=arm_keys, main_metric=main_metric, over_examples=over_examples, level=level
            )
            comparisons.append(one)
    return correct_over_arms(comparisons, named)


def measured_by_arm(measured: Sequence[Measured]) -> dict[str, list[Measured]]:
    """Arm -> what its runs measured."""
    by_arm: dict[str, list[Measured]] = {}
    for one in measured:
        by_arm.setdefault(one.run.arm, []).append(one)
    return by_arm
