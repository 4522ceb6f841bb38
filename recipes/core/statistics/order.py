"""Verdict on a claim of order: of several arms each is better than the next."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from recipes.core.config.settings import DIFFERENCE, EXAMPLE_UNIT, Claim
from recipes.core.statistics.compare import MetricRow, compare_measurements, pairs_by_seed
from recipes.core.statistics.measured import Measured
from recipes.core.statistics.texts import interval_text, number_text
from recipes.core.statistics.verdict import CONTRADICTED, INCONCLUSIVE, SUPPORTED, Verdict, judge

LEVEL = 0.95


def judge_order(claim: Claim, arms: Mapping[str, Sequence[Measured]]) -> Verdict:
    """Judge every step of the order, each arm beside the next, by the rule for differences.

    The order is *supported* if all its steps are: no correction, since all must hold (intersection-union test). It is
    *contradicted* if one step is, by an interval widened for the number of steps (Bonferroni), since any may.

    Args:
        claim: Of kind "order".
        arms: Arm -> what its finished runs measured.

    Returns:
        The verdict with the interval of the step with the smallest effect, or the widened one of the step that
        contradicts the order. Over examples `items` is the smallest number of them.
    """
    steps = [replace(claim, kind=DIFFERENCE, arm=arm, baseline=other, arms=()) for arm, other in pairwise(claim.arms)]
    strict = 1 - (1 - LEVEL) / len(steps)
    verdicts = [judge(step, _row(step, arms, LEVEL)) for step in steps]
    strict_verdicts = [judge(step, _row(step, arms, strict), strict) for step in steps]
    seeds, items = min(one.seeds for one in verdicts), min(one.items for one in verdicts)
    shown = ", ".join(f"{_name(step)} {_numbers(one)}" for step, one in zip(steps, verdicts, strict=True))
    for step, verdict in zip(steps, strict_verdicts, strict=True):
        if verdict.word == CONTRADICTED:
            reason = f"{_name(step)} contradicts it at {100 * strict:.4g}%: {verdict.reason}; its steps: {shown}"
            return Verdict(CONTRADICTED, verdict.interval, seeds, 0, reason, items)
    for step, verdict in zip(steps, verdicts, strict=True):
        if verdict.interval is None:
            return Verdict(INCONCLUSIVE, None, seeds, None, f"{_name(step)}: {verdict.reason}", items)
    intervals = [verdict.interval for verdict in verdicts if verdict.interval]
    smallest = min(intervals, key=lambda interval: claim.direction * interval.estimate)
    if all(verdict.word == SUPPORTED for verdict in verdicts):
        return Verdict(SUPPORTED, smallest, seeds, 0, f"every step of the order holds: {shown}", items)
    # A step that is contradicted at 95% only is still open at the widened level.
    still_open = [
        by_strict if verdict.word == CONTRADICTED else verdict
        for verdict, by_strict in zip(verdicts, strict_verdicts, strict=True)
    ]
    reason = "; ".join(
        f"{_name(step)}: {verdict.reason}"
        for step, verdict in zip(steps, still_open, strict=True)
        if verdict.word != SUPPORTED
    )
    more = _more_seeds(claim, verdicts, strict_verdicts)
    return Verdict(INCONCLUSIVE, smallest, seeds, more, f"{reason}; its steps: {shown}", items)


def _more_seeds(claim: Claim, verdicts: Sequence[Verdict], strict_verdicts: Sequence[Verdict]) -> int | None:
    """How many more seeds would settle the order, if estimates and spreads stay; None if that cannot be told.

    One step short of the minimal effect contradicts it, as soon as its widened interval says so; without one, all
    steps must be supported.
    """

    def is_short(verdict: Verdict) -> bool:
        return verdict.interval is not None and claim.direction * verdict.interval.estimate < claim.minimal_effect

    short = [verdict.more_seeds for verdict in strict_verdicts if is_short(verdict)]
    if short:
        return min((number for number in short if number), default=None)
    numbers = [verdict.more_seeds for verdict in verdicts if verdict.word != SUPPORTED]
    return None if None in numbers else max((number for number in numbers if number), default=None)


def _row(claim: Claim, arms: Mapping[str, Sequence[Measured]], level: float) -> MetricRow | None:
    runs, others = ([one.only(claim.metric) for one in arms.get(name, ())] for name in (claim.arm, claim.baseline))
    pairs = pairs_by_seed(runs, others)
    if not pairs:
        return None
    over = {claim.metric} if claim.unit == EXAMPLE_UNIT else set()
    return compare_measurements(pairs, arm_keys=set(), over_examples=over, level=level).row(claim.metric)


def _name(step: Claim) -> str:
    return f"{step.arm} - {step.baseline}"


def _numbers(verdict: Verdict) -> str:
    interval = verdict.interval
    return f"{number_text(interval.estimate, signed=True)} {interval_text(interval)}" if interval else "not measured"
