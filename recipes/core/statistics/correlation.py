"""Verdict on a claim of correlation: where one metric is large, another is too."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from recipes.core.config.settings import EXAMPLE_UNIT, Claim
from recipes.core.statistics.intervals import Array, Interval, group_means, paired_t
from recipes.core.statistics.measured import Measured, shared_rows
from recipes.core.statistics.texts import interval_text, number_text, p_text
from recipes.core.statistics.verdict import CONTRADICTED, INCONCLUSIVE, SUPPORTED, Verdict

FEWEST_ITEMS = 5
MANY_ITEMS = 1_000
PERMUTATIONS, OF_MANY_ITEMS = 9_999, 1_999  # draws; fewer above `MANY_ITEMS`, where each takes longer
LEVEL = 0.95


def judge_correlation(claim: Claim, arms: Mapping[str, Sequence[Measured]]) -> Verdict:
    """Judge Spearman's rank correlation of two metrics.

    Over examples: of the arm's source items in all seeds. Over seeds: of the claim's arms, once in each seed; the
    estimate is the mean over seeds.

    *Supported*: the interval lies above zero (below, for direction -1), the correlation is at least the minimal
    effect, and at most 2.5% of permutations of the items (arms, in all seeds alike) have one as large. *Contradicted*:
    the whole interval lies below the minimal effect. *Inconclusive*: all else.

    Args:
        claim: Of kind "correlation".
        arms: Arm -> what its finished runs measured.
    """
    if claim.unit == EXAMPLE_UNIT:
        return _over_items(claim, arms.get(claim.arm, ()))
    return _over_arms(claim, arms)


def rank_correlations(left: ArrayLike, right: ArrayLike) -> Array:
    """Spearman's rank correlation of each row.

    Args:
        left: [rows, n]
        right: [rows, n]

    Returns:
        [rows], rounded to 12 digits, so that a perfect one is 1; NaN where one of the two does not vary.
    """
    return np.round((_scores(left) * _scores(right)).sum(-1), 12)


def permutation_p(left: ArrayLike, right: ArrayLike, direction: int, seed: int = 0) -> float:
    """Share of permutations of the n, the same in every row, whose mean rank correlation is at least as large.

    All permutations if there are at most 9,999 of them; else that many random ones (1,999 above 1,000 items) and the
    observed order.

    Args:
        left: [rows, n]
        right: [rows, n]
        direction: +1 if a positive correlation is expected, -1 if a negative one.
        seed: Of the drawn permutations.

    Source:
        Phipson and Smyth, Statistical Applications in Genetics and Molecular Biology 9 (2010), 39.
    """
    from scipy.stats import permutation_test

    mine, theirs = _scores(left), _scores(right)

    def mean(order: Array) -> float:
        return float((mine * theirs[:, order.astype(int)]).sum(-1).mean())

    outcome = permutation_test(
        (np.arange(mine.shape[1]),),
        mean,
        permutation_type="pairings",
        vectorized=False,
        n_resamples=PERMUTATIONS if mine.shape[1] <= MANY_ITEMS else OF_MANY_ITEMS,
        alternative="greater" if direction > 0 else "less",
        rng=np.random.default_rng(seed),
    )
    return float(outcome.pvalue)


def correlation_interval(correlation: float, number: int, level: float = LEVEL) -> Interval:
    """Interval of a rank correlation of independent items, by Fisher's z with the variance (1 + r^2 / 2) / (n - 3).

    Args:
        correlation: Spearman's, within -1 and 1.
        number: Items, at least 4.
        level: Nominal coverage.

    Source:
        Bonett and Wright, Psychometrika 65 (2000), 23-28.
    """
    from scipy.special import ndtr, ndtri

    edge = 1 - 1e-12
    middle = np.arctanh(np.clip(correlation, -edge, edge))
    error = np.sqrt((1 + correlation**2 / 2) / (number - 3))
    half = ndtri((1 + level) / 2) * error
    p_value = float(2 * ndtr(-abs(middle) / error))
    low, high = (float(np.tanh(middle + sign * half)) for sign in (-1, 1))
    return Interval(correlation, min(low, correlation), max(high, correlation), p_value, level)


def _over_items(claim: Claim, runs: Sequence[Measured]) -> Verdict:
    columns = [both for run in runs if (both := shared_rows(run, claim.metric, claim.beside))]
    if not columns:
        return _inconclusive(claim, len(runs), f"no run of {claim.arm} has values of examples of both")
    wrong = [np.sum(~np.isfinite(one.values) & (one.counts > 0)) for both in columns for one in both]
    if any(wrong):
        return _inconclusive(claim, len(runs), f"in {sum(wrong)} examples one of them is not a finite number")
    groups = np.concatenate([left.groups for left, _ in columns])
    sides = [[both[side] for both in columns] for side in (0, 1)]
    means = [
        group_means(groups, *(np.concatenate([getattr(one, name) for one in side]) for name in ("values", "counts")))
        for side in sides
    ]
    kept = np.isfinite(means).all(0)
    left, right = (np.asarray(side)[kept][None] for side in means)
    number = left.shape[1]
    if number < FEWEST_ITEMS:
        return _inconclusive(claim, len(runs), f"it needs at least {FEWEST_ITEMS} source items, got {number}")
    correlation = float(rank_correlations(left, right)[0])
    if not np.isfinite(correlation):
        return _inconclusive(claim, len(runs), f"one of them has the same value in all {number} items")
    interval = correlation_interval(correlation, number)
    return _judge(claim, interval, permutation_p(left, right, claim.direction), len(runs), number)


def _over_arms(claim: Claim, arms: Mapping[str, Sequence[Measured]]) -> Verdict:
    finals = {arm: {one.run.seed: one.final for one in arms.get(arm, ())} for arm in claim.arms}
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in finals.values())))
    if problem := _problem(claim, finals, seeds):
        return _inconclusive(claim, len(seeds), problem)
    left, right = (
        np.array([[finals[arm][seed][name] for arm in finals] for seed in seeds])
        for name in (claim.metric, claim.beside)
    )
    correlations = rank_correlations(left, right)
    if not np.isfinite(correlations).all():
        return _inconclusive(claim, len(seeds), "in some seed one of them has the same value in all arms")
    interval = paired_t(correlations)
    interval = replace(interval, low=max(interval.low, -1.0), high=min(interval.high, 1.0))
    return _judge(claim, interval, permutation_p(left, right, claim.direction), len(seeds), 0)


def _problem(claim: Claim, finals: Mapping[str, Mapping[int, Mapping[str, float]]], seeds: Sequence[int]) -> str:
    """Why a correlation over arms cannot be taken from these final metrics by arm and seed; empty if it can."""
    if missing := [arm for arm, by_seed in finals.items() if not by_seed]:
        return f"there is no finished run of {', '.join(missing)}"
    if len(seeds) < 2:
        return f"it needs two seeds of which every arm is finished, got {len(seeds)}"
    for name in (claim.metric, claim.beside):
        for arm, by_seed in finals.items():
            if any(name not in by_seed[seed] for seed in seeds):
                return f"{arm} does not measure {name}"
            if wrong := sum(not np.isfinite(by_seed[seed][name]) for seed in seeds):
                return f"{name} of {arm} is not a finite number in {wrong} of {len(seeds)} seeds"
    return ""


def _judge(claim: Claim, interval: Interval, p_value: float, seeds: int, items: int) -> Verdict:
    over = f"{items} items" if items else f"{len(claim.arms)} arms and {seeds} seeds"
    shown = (
        f"the rank correlation over {over} is {number_text(interval.estimate, signed=True)} {interval_text(interval)}, "
        f"permutation p {p_text(p_value)}"
    )
    low, high = sorted((claim.direction * interval.low, claim.direction * interval.high))
    target = f"{claim.direction * claim.minimal_effect or 0:g}"
    if high < claim.minimal_effect and low == high:
        # Ranks are whole numbers: seeds may agree by chance. For "supported" the permutations say how likely that is.
        return Verdict(
            INCONCLUSIVE,
            interval,
            seeds,
            None,
            f"{shown}: an interval of width zero says nothing about other seeds",
            items,
        )
    if high < claim.minimal_effect:
        side = "below" if claim.direction > 0 else "above"
        return Verdict(CONTRADICTED, interval, seeds, 0, f"{shown}: all of it lies {side} {target}", items)
    if claim.direction * interval.estimate < claim.minimal_effect:
        return Verdict(
            INCONCLUSIVE, interval, seeds, None, f"{shown}: short of {target}, which the interval includes", items
        )
    if low > 0 and p_value <= (1 - LEVEL) / 2:
        bound = "at least" if claim.direction > 0 else "at most"
        return Verdict(SUPPORTED, interval, seeds, 0, f"{shown}: {bound} {target}", items)
    return Verdict(INCONCLUSIVE, interval, seeds, None, f"{shown}: it may be chance", items)


def _inconclusive(claim: Claim, seeds: int, why: str) -> Verdict:
    return Verdict(INCONCLUSIVE, None, seeds, None, f"no correlation of {claim.metric} and {claim.beside}: {why}")


def _scores(values: ArrayLike) -> Array:
    """Ranks of each row about their mean, of length 1: the product of two rows is their rank correlation."""
    from scipy.stats import rankdata

    ranks = rankdata(np.atleast_2d(np.asarray(values, dtype=float)), axis=-1)
    ranks -= ranks.mean(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(ranks / np.linalg.norm(ranks, axis=-1, keepdims=True))
