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
        The verdict with the interval of the smallest step, or the widened one of the step that is against it. Over
        examples `items` is the smallest number of them.
    """
    names = list(pairwise(claim.arms))
    beside = [replace(claim, kind=DIFFERENCE, arm=arm, baseline=other, arms=()) for arm, other in names]
    strict = 1 - (1 - LEVEL) / len(beside)
    rows = {level: [_row(step, arms, level) for step in beside] for level in (LEVEL, strict)}
    words = [judge(step, row) for step, row in zip(beside, rows[LEVEL], strict=True)]
    against = [judge(step, row, strict) for step, row in zip(beside, rows[strict], strict=True)]
    seeds, items = min(one.seeds for one in words), min(one.items for one in words)
    wrong = next((place for place, one in enumerate(against) if one.word == CONTRADICTED), None)
    if wrong is not None:
        reason = f"{_step(beside[wrong])} is against it, by its {100 * strict:.4g}% interval: {against[wrong].reason}"
        return Verdict(CONTRADICTED, against[wrong].interval, seeds, 0, reason, items)
    measured = [one.interval for one in words if one.interval]
    if len(measured) < len(words):
        place = next(place for place, one in enumerate(words) if one.interval is None)
        return Verdict(INCONCLUSIVE, None, seeds, None, f"{_step(beside[place])}: {words[place].reason}", items)
    interval = min(measured, key=lambda one: claim.direction * one.estimate)
    if all(one.word == SUPPORTED for one in words):
        shown = ", ".join(f"{_step(step)} {_numbers(one)}" for step, one in zip(beside, words, strict=True))
        return Verdict(SUPPORTED, interval, seeds, 0, f"every step of the order holds: {shown}", items)
    # What is against it by its own interval only is open by the widened one.
    still_open = {
        place: against[place] if one.word == CONTRADICTED else one
        for place, one in enumerate(words)
        if one.word != SUPPORTED
    }
    more = [one.more_seeds for one in still_open.values()]
    needed = None if None in more else max(filter(None, more), default=None)
    reason = "; ".join(f"{_step(beside[place])}: {one.reason}" for place, one in still_open.items())
    return Verdict(INCONCLUSIVE, interval, seeds, needed, reason, items)


def _row(claim: Claim, arms: Mapping[str, Sequence[Measured]], level: float) -> MetricRow | None:
    pairs = pairs_by_seed(arms.get(claim.arm, ()), arms.get(claim.baseline, ()))
    if not pairs:
        return None
    over = {claim.metric} if claim.unit == EXAMPLE_UNIT else set()
    return compare_measurements(pairs, arm_keys=set(), over_examples=over, level=level).row(claim.metric)


def _step(claim: Claim) -> str:
    return f"{claim.arm} - {claim.baseline}"


def _numbers(verdict: Verdict) -> str:
    return f"{number_text(_estimate(verdict), signed=True)} {interval_text(verdict.interval)}"


def _estimate(verdict: Verdict) -> float:
    return verdict.interval.estimate if verdict.interval else float("nan")
