"""Verdict on a claim: supported, contradicted or inconclusive, and how many more seeds would settle it."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from recipes.core.config.settings import Claim
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
    `more_seeds` would settle the claim with 80% power: 0 if it is settled, None if that cannot be told.
    `reason` is one sentence with the numbers.
    """

    word: str
    interval: Interval | None
    seeds: int
    more_seeds: int | None
    reason: str


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
    if np.ptp(sample) <= FLAT * np.abs(sample).max():
        return Verdict(INCONCLUSIVE, interval, len(sample), None, _flat_reason(interval.estimate, len(sample)))
    word, reason = _judge(claim, interval)
    more = more_seeds(claim, sample, level) if word == INCONCLUSIVE else 0
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
    place = bisect_left(numbers, POWER, key=power)
    return max(numbers[place] - len(differences), 1) if place < len(numbers) else None


def unjudged(measured: Verdict) -> Verdict:
    """The verdict of a trial that is too small to judge: its interval, and no word on the claim."""
    return replace(measured, word=NOT_JUDGED, more_seeds=None, reason=TOO_SMALL)


def with_verdicts(
    comparisons: Sequence[Comparison],
    claims: Sequence[Claim],
    judge: Callable[[Claim, Sequence[float]], Verdict] = verdict,
) -> tuple[Comparison, ...]:
    """The comparisons with the verdict of `judge` on every claim in the row that tests it."""

    def judged(comparison: Comparison, row: MetricRow) -> MetricRow:
        for claim in claims:
            if (claim.arm, claim.baseline, claim.metric) == (comparison.arm, comparison.baseline, row.metric):
                return replace(row, verdict=judge(claim, row.differences).word)
        return row

    return tuple(replace(one, rows=tuple(judged(one, row) for row in one.rows)) for one in comparisons)


def named_tests(claims: Sequence[Claim], baseline: str) -> set[tuple[str, str]]:
    """(arm, metric) of the claims beside a baseline: tests named in advance, which no correction counts."""
    return {(claim.arm, claim.metric) for claim in claims if claim.baseline == baseline}


def _flat_reason(difference: float, seeds: int) -> str:
    if difference == 0:
        return (
            f"the two arms do not differ in any of {seeds} seeds: they may be the same run, or the metric is too coarse"
        )
    text = number_text(difference, signed=True)
    return (
        f"all {seeds} seeds have the same difference of {text}: an interval of width zero knows nothing of other seeds"
    )


def _judge(claim: Claim, interval: Interval) -> tuple[str, str]:
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
