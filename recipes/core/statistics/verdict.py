"""Verdict on a claim: supported, contradicted or inconclusive, and how many more seeds would settle it."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from recipes.core.config.settings import DIFFERENCE, EQUIVALENCE, EXACT, EXAMPLE_UNIT, SEED_UNIT, SMOKE, Claim
from recipes.core.statistics.claims import TOO_SMALL
from recipes.core.statistics.compare import Comparison, MetricRow
from recipes.core.statistics.intervals import Array, Interval, paired_t, paired_t_power, support_power
from recipes.core.statistics.texts import interval_text, number_text

SUPPORTED = "supported"
CONTRADICTED = "contradicted"
INCONCLUSIVE = "inconclusive"
NOT_JUDGED = "not judged"
POWER = 0.8
MAX_SEEDS = 1_000
FLAT = 1e-9  # differences that vary by less than this share of themselves are equal but for rounding


@dataclass(frozen=True)
class Verdict:
    """What a trial says about a claim: supported, contradicted, inconclusive, or not judged.

    `interval` is that of arm minus baseline over `seeds` seeds, in the metric's own units and sign; None without one.
    Where `items` is not 0 it is over that many source items of these seeds' examples.
    `more_seeds` would settle the claim with 80% power: 0 if it is settled, None if that cannot be told.
    `reason` is one sentence with the numbers.
    """

    word: str
    interval: Interval | None
    seeds: int
    more_seeds: int | None
    reason: str
    items: int = 0


def judge(claim: Claim, row: MetricRow | None, level: float = 0.95) -> Verdict:
    """Judge a claim about a pair of arms, over its unit.

    Args:
        claim: The claim.
        row: Its metric, of its arm beside its baseline; of `over_examples` if that is the claim's unit. None
            if no seed has both.
        level: Nominal coverage of intervals over seeds; those over examples have that of `row`.

    Returns:
        Of a claim of "difference" see `verdict`; over examples the same rule with the bootstrap interval of `row`.
        "equivalence" is supported if the whole interval lies within the minimal effect on both sides of zero (two
        one-sided tests at half of what the interval leaves out), contradicted if it lies outside, else inconclusive.
        "exact" is supported if no example (seed) differs by more than the minimal effect, else contradicted.
    """
    if row is None:
        reason = (
            f"no seed has {claim.metric} of both {claim.arm} and {claim.baseline}: "
            "runs are missing, or these data or this model do not give it"
        )
        return Verdict(INCONCLUSIVE, None, 0, None, reason)
    if claim.unit == EXAMPLE_UNIT and row.examples is None:
        return Verdict(INCONCLUSIVE, None, len(row.differences), None, f"{claim.metric} has no values of examples")
    if claim.kind == EXACT:
        return _exact(claim, row)
    if claim.unit == SEED_UNIT:
        return verdict(claim, row.differences, level)
    number = len(row.differences)
    if row.interval is None:
        reason = f"an interval over examples needs at least two source items, got {row.number}"
        if row.number > 1:
            reason = f"{claim.metric} was not measured as a finite number in both arms"
        return Verdict(INCONCLUSIVE, None, number, None, reason)
    if row.examples and row.examples.unequal == 0 and claim.kind == DIFFERENCE:
        reason = f"the two arms do not differ in any of {row.examples.number} examples"
        return Verdict(INCONCLUSIVE, row.interval, number, None, reason, row.number)
    word, reason = _word_and_reason(claim, row.interval)
    return Verdict(word, row.interval, number, None if word == INCONCLUSIVE else 0, reason, row.number)


def verdict(claim: Claim, differences: ArrayLike, level: float = 0.95) -> Verdict:
    """Judge a claim by the paired t interval over seeds.

    With differences counted in the claim's direction, the claim is *contradicted* if the whole interval lies below
    the minimal effect of interest, *supported* if the whole interval lies above zero and the estimate reaches the
    minimal effect, and *inconclusive* otherwise. If the arms do not differ and the minimal effect is positive,
    `supported` comes out in at most (1 - level) / 2 of the trials; so does `contradicted` if they differ by it.

    Args:
        claim: Direction and minimal effect (in the metric's units, at least 0).
        differences: [seeds], arm minus baseline of the claim's metric.
        level: Nominal coverage of the interval.

    Returns:
        The verdict; inconclusive without an interval for fewer than two seeds or a difference that is not finite, and
        where all seeds have the same difference: an interval of width zero knows nothing of other seeds.
    """
    sample = np.asarray(differences, dtype=float)
    missing = int(np.sum(~np.isfinite(sample)))
    if len(sample) < 2 or missing:
        reason = f"an interval over seeds needs at least two seeds, got {len(sample)}"
        if missing:
            reason = f"the metric is not a finite number in {missing} of {len(sample)} paired seeds"
        return Verdict(INCONCLUSIVE, None, len(sample), None, reason)
    interval = paired_t(sample, level)
    equal = claim.kind == EQUIVALENCE and not sample.any()  # what the claim says, in every seed
    if not equal and np.ptp(sample) <= FLAT * np.abs(sample).max():
        return Verdict(INCONCLUSIVE, interval, len(sample), None, _flat_reason(interval.estimate, len(sample)))
    word, reason = _word_and_reason(claim, interval)
    more: int | None = 0
    if word == INCONCLUSIVE:
        more = more_seeds(claim, sample, level) if claim.kind == DIFFERENCE else None
    return Verdict(word, interval, len(sample), more, reason)


def more_seeds(claim: Claim, differences: Array, level: float = 0.95) -> int | None:
    """How many more seeds would settle an inconclusive claim with 80% power, if estimate and spread stay as they are.

    The power is that of the whole rule in a trial of that many seeds: `supported` (interval above zero *and* estimate
    at least the minimal effect) if the estimate reaches the minimal effect, else `contradicted` (whole interval below
    it).

    Args:
        claim: Direction and minimal effect.
        differences: [seeds], arm minus baseline, at least two, not all equal.
        level: Nominal coverage of the interval.

    Returns:
        At least 1; None if more than 1,000 seeds in all would be needed, as where the estimate lies on the boundary.
    """
    spread = differences.std(ddof=1)
    effect_size, minimal = claim.direction * differences.mean() / spread, claim.minimal_effect / spread

    def power(number: int) -> float:
        if effect_size >= minimal:
            return support_power(effect_size, minimal, number, level)
        return paired_t_power(minimal - effect_size, number, level)

    numbers = range(2, MAX_SEEDS + 1)
    index = bisect_left(numbers, POWER, key=power)
    return max(numbers[index] - len(differences), 1) if index < len(numbers) else None


def without_judgement(measured: Verdict) -> Verdict:
    """The verdict of a trial that is too small to judge: its interval, and no word on the claim."""
    # Where nothing was measured, no larger trial would judge either.
    reason = TOO_SMALL if measured.seeds else measured.reason
    return replace(measured, word=NOT_JUDGED, more_seeds=None, reason=reason)


Judge = Callable[[Claim, MetricRow | None], Verdict]


def judge_at(budget: str) -> Judge:
    """How claims are judged: at `budget=smoke` not at all."""
    return (lambda claim, row: without_judgement(judge(claim, row))) if budget == SMOKE else judge


def with_verdicts(
    comparisons: Sequence[Comparison],
    claims: Sequence[Claim],
    answer: Judge = judge,
) -> tuple[Comparison, ...]:
    """The comparisons with the verdict of `answer` on every claim in the row that tests it."""

    def judge_row(comparison: Comparison, row: MetricRow) -> MetricRow:
        for claim in claims:
            tested = (claim.arm, claim.baseline, claim.metric) == (comparison.arm, comparison.baseline, row.metric)
            if tested and claim.of_a_pair:
                return replace(row, verdict=answer(claim, row).word)
        return row

    return tuple(replace(one, rows=tuple(judge_row(one, row) for row in one.rows)) for one in comparisons)


def named_tests(claims: Sequence[Claim], baseline: str) -> set[tuple[str, str]]:
    """(arm, metric) of the claims beside a baseline: tests named in advance, which no correction counts."""
    return {(claim.arm, claim.metric) for claim in claims if claim.baseline == baseline and claim.of_a_pair}


def _flat_reason(difference: float, seeds: int) -> str:
    if difference == 0:
        return (
            f"the two arms do not differ in any of {seeds} seeds: they may be the same run, or the metric is too coarse"
        )
    text = number_text(difference, signed=True)
    return (
        f"all {seeds} seeds have the same difference of {text}: an interval of width zero knows nothing of other seeds"
    )


def _word_and_reason(claim: Claim, interval: Interval) -> tuple[str, str]:
    return _equivalent(claim, interval) if claim.kind == EQUIVALENCE else _different(claim, interval)


def _equivalent(claim: Claim, interval: Interval) -> tuple[str, str]:
    shown, margin = interval_text(interval), f"{-claim.minimal_effect:g} to {claim.minimal_effect:+g}"
    if -claim.minimal_effect < interval.low and interval.high < claim.minimal_effect:
        return SUPPORTED, f"the interval {shown} lies within {margin}, differences too small to matter"
    if interval.high < -claim.minimal_effect or interval.low > claim.minimal_effect:
        return CONTRADICTED, f"the interval {shown} lies outside {margin}, differences too small to matter"
    return INCONCLUSIVE, f"the interval {shown} reaches over an end of {margin}, differences too small to matter"


def _exact(claim: Claim, row: MetricRow) -> Verdict:
    """Whether all that was measured is equal: no interval is asked."""
    apart = np.abs(row.differences)
    number, unit, largest = len(apart), "seeds", float(np.max(apart, initial=0.0))
    if row.examples:
        number, unit, largest = row.examples.number, "examples", row.examples.largest
    equal = "equal" if claim.minimal_effect == 0 else f"within {claim.minimal_effect:g} of each other"
    items = row.number if row.examples else 0
    if not number or not np.isfinite(largest):
        reason = f"{claim.metric} was not measured as a finite number in both arms"
        return Verdict(INCONCLUSIVE, None, len(row.differences), None, reason, items)
    if largest <= claim.minimal_effect:
        return Verdict(SUPPORTED, row.interval, len(row.differences), 0, f"{equal} in all {number} {unit}", items)
    reason = f"not {equal} in all {number} {unit}: they differ by up to {number_text(largest)}"
    return Verdict(CONTRADICTED, row.interval, len(row.differences), 0, reason, items)


def _different(claim: Claim, interval: Interval) -> tuple[str, str]:
    """The word and its reason; in the text numbers have the metric's own sign."""
    ends = sorted((claim.direction * interval.low, claim.direction * interval.high))
    estimate, minimum = claim.direction * interval.estimate, claim.minimal_effect
    side, other_side = ("above", "below") if claim.direction > 0 else ("below", "above")
    shown, difference = interval_text(interval), number_text(interval.estimate, signed=True)
    target = f"the minimal effect of interest, {claim.direction * minimum or 0:g}"
    if ends[1] < 0:
        return CONTRADICTED, f"the opposite holds: the interval {shown} lies {other_side} zero"
    if ends[1] < minimum:
        return CONTRADICTED, f"the difference is too small to matter: the interval {shown} lies {other_side} {target}"
    bound = "at least" if claim.direction > 0 else "at most"
    if estimate < minimum:
        return INCONCLUSIVE, f"the difference of {difference} is short of {target}, which the interval {shown} includes"
    if ends[0] > 0:
        return SUPPORTED, f"the interval lies {side} zero and the difference of {difference} is {bound} {target}"
    return INCONCLUSIVE, f"the difference of {difference} is {bound} {target}, but the interval {shown} includes zero"
