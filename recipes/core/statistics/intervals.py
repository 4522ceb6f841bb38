"""Paired statistics: intervals over examples and over seeds, learning-curve areas, several tests at once.

Two sources of chance, two intervals. Within one seed the test examples are a sample: `paired_bootstrap` resamples
them by their source item. Over seeds the training is a sample: `paired_t`. Neither says anything about the other.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
DRAW_MEMORY = 4_000_000
ROUNDING = 1e-12  # of the ratios that are subtracted
TAIL = 8.0  # standard deviations beyond which a normal density counts as 0


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval and the two-sided p-value of "it is zero"."""

    estimate: float
    low: float
    high: float
    p_value: float
    level: float


def ratio_mean(values: ArrayLike, counts: ArrayLike) -> float:
    """`sum(value * count) / sum(count)`: a metric's overall value. NaN if nothing was counted.

    Args:
        values: [examples], the metric of each example.
        counts: [examples], what it was averaged over (tokens, questions).
    """
    numbers, weights = np.asarray(values, dtype=float), np.asarray(counts, dtype=float)
    total = weights.sum()
    return float((np.where(weights > 0, numbers, 0) * weights).sum() / total) if total > 0 else float("nan")


def paired_bootstrap(
    values: ArrayLike,
    counts: ArrayLike,
    baseline_values: ArrayLike,
    baseline_counts: ArrayLike,
    groups: ArrayLike,
    *,
    draws: int = 4_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval (BCa) of the difference of two ratio metrics on the same examples.

    Whole groups are resampled, for both arms alike: examples of one source item are not independent.
    Nominal 95% intervals of a skewed ratio covered 94% at 100 groups, 92% at 30 and 88% at 10.

    Args:
        values: [examples], the metric of the arm.
        counts: [examples], what each value was averaged over.
        baseline_values: [examples], the metric of the baseline on the same examples.
        baseline_counts: [examples], the baseline's counts.
        groups: [examples], the source item of each example.
        draws: Bootstrap resamples.
        level: Nominal coverage.
        seed: Seed of the resampling: the same input gives the same interval.

    Returns:
        The interval of `ratio_mean(values) - ratio_mean(baseline_values)`; its p-value inverts the interval.

    Raises:
        ValueError: fewer than two groups, or nothing counted.

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 14.3 (BCa), cluster version.
    """
    sums = group_sums(groups, values, counts, baseline_values, baseline_counts)
    if len(sums) < 2:
        raise ValueError(f"a bootstrap needs at least two groups, got {len(sums)}")
    totals = sums.sum(axis=0)
    if totals[1] <= 0 or totals[3] <= 0:
        raise ValueError("nothing was counted in one of the arms")
    estimate = float(_difference(totals))
    resampled = bootstrap_differences(sums, draws=draws, seed=seed)
    resampled = resampled[np.isfinite(resampled)]
    # Ties with the estimate and with zero are counted: differences that are equal but for rounding must be equal.
    rounding = ROUNDING * max(abs(totals[0] / totals[1]), abs(totals[2] / totals[3]))
    estimate = 0.0 if abs(estimate) <= rounding else estimate
    for point in (0.0, estimate):
        resampled = np.where(np.abs(resampled - point) <= rounding, point, resampled)
    return _bca(estimate, resampled, _difference(totals - sums), level)


def group_sums(
    groups: ArrayLike, values: ArrayLike, counts: ArrayLike, baseline_values: ArrayLike, baseline_counts: ArrayLike
) -> Array:
    """Numerators and denominators of both arms, summed within each group.

    Returns:
        [groups, 4]: arm numerator, arm denominator, baseline numerator, baseline denominator.
    """
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    columns = []
    for value, count in ((values, counts), (baseline_values, baseline_counts)):
        weight = np.asarray(count, dtype=float)
        columns += [np.where(weight > 0, np.asarray(value, dtype=float), 0) * weight, weight]
    return np.stack([np.bincount(index, weights=column) for column in columns], axis=1)


def group_means(groups: ArrayLike, values: ArrayLike, counts: ArrayLike) -> Array:
    """`ratio_mean` of each group of examples.

    Returns:
        [groups], in the order of their sorted names; NaN where nothing was counted.
    """
    sums = group_sums(groups, values, counts, values, counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums[:, 0] / sums[:, 1])


def bootstrap_differences(sums: Array, *, draws: int, seed: int) -> Array:
    """The difference of the two ratios in every resample of the groups.

    Args:
        sums: [groups, 4], as of `group_sums`.
        draws: Resamples.
        seed: Seed of the multinomial counts.

    Returns:
        [draws]; not finite where a resample counted nothing in one arm.
    """
    number = len(sums)
    if draws * number <= DRAW_MEMORY:
        return _difference(_resample_counts(number, draws, seed) @ sums)
    generator = np.random.default_rng(seed)
    chunk = max(1, DRAW_MEMORY // number)
    sizes = [min(chunk, draws - start) for start in range(0, draws, chunk)]
    return np.concatenate([_difference(_times_drawn(generator, number, size) @ sums) for size in sizes])


@lru_cache(maxsize=1)
def _resample_counts(number: int, draws: int, seed: int) -> Array:
    """`_times_drawn` from a seed; kept, because all metrics of a comparison have the same groups."""
    return _times_drawn(np.random.default_rng(seed), number, draws)


def _times_drawn(generator: np.random.Generator, number: int, draws: int) -> Array:
    """[draws, number]: how often each group is drawn in every resample."""
    return generator.multinomial(number, np.full(number, 1 / number), size=draws).astype(float)


def _difference(totals: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(totals[..., 0] / totals[..., 1] - totals[..., 2] / totals[..., 3])


def _bca(estimate: float, resampled: Array, jackknife: Array, level: float) -> Interval:
    """BCa interval and the p-value at which it would just touch zero.

    Args:
        estimate: The difference on all groups.
        resampled: [draws], finite.
        jackknife: [groups], the difference without each group.
        level: Nominal coverage.
    """
    if np.ptp(resampled) == 0:
        return Interval(estimate, estimate, estimate, 1.0 if estimate == 0 else 0.0, level)
    bias = _normal_score(resampled, estimate)
    left = jackknife[np.isfinite(jackknife)]
    left = left.mean() - left
    spread = np.sqrt((left**2).sum())
    skew = float((left**3).sum() / (6 * spread**3)) if spread > 0 else 0.0
    tails = bias + scipy.special.ndtri([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(resampled, scipy.special.ndtr(bias + tails / (1 - skew * tails)))
    # Resamples at zero count on its far side: an interval that ends at zero has not left it.
    shifted = _normal_score(resampled, 0.0, (1 + np.sign(estimate)) / 2) - bias
    tail = scipy.special.ndtr(-abs(shifted / (1 + skew * shifted) - bias))
    return Interval(estimate, float(low), float(high), float(min(1.0, 2 * max(tail, 1 / len(resampled)))), level)


def _normal_score(resampled: Array, point: float, ties: float = 0.5) -> float:
    """Normal quantile of the share of resamples below `point`, of equal ones the share `ties`, kept finite."""
    share = (np.sum(resampled < point) + ties * np.sum(resampled == point)) / len(resampled)
    edge = 0.5 / len(resampled)
    return float(scipy.special.ndtri(np.clip(share, edge, 1 - edge)))


def paired_t(differences: ArrayLike, level: float = 0.95) -> Interval:
    """Paired t interval of the mean difference over seeds.

    Args:
        differences: [seeds], arm minus baseline of the same seed.
        level: Nominal coverage.

    Raises:
        ValueError: fewer than two seeds.
    """
    sample = np.asarray(differences, dtype=float)
    mean, half, p_value = paired_t_arrays(sample, level)
    return Interval(float(mean), float(mean - half), float(mean + half), float(p_value), level)


def paired_t_arrays(differences: Array, level: float) -> tuple[Array, Array, Array]:
    """`paired_t` for many experiments at once.

    Args:
        differences: [..., seeds].
        level: Nominal coverage.

    Returns:
        Mean, half width of the interval and two-sided p-value, each [...].
    """
    number = differences.shape[-1]
    if number < 2:
        raise ValueError(f"an interval over seeds needs at least two seeds, got {number}")
    mean = differences.mean(axis=-1)
    error = differences.std(axis=-1, ddof=1) / np.sqrt(number)
    half = scipy.special.stdtrit(number - 1, (1 + level) / 2) * error
    with np.errstate(divide="ignore", invalid="ignore"):
        score = np.where(mean == 0, 0.0, np.abs(mean) / error)
    return mean, half, np.asarray(2 * scipy.special.stdtr(number - 1, -score))


def paired_t_power(effect_size: float, seeds: int, level: float = 0.95) -> float:
    """Probability that the `paired_t` interval excludes zero on the side of the true effect.

    Args:
        effect_size: True mean difference over its standard deviation, positive.
        seeds: Number of seeds, at least two.
        level: Nominal coverage of the two-sided interval.

    Source:
        Cohen, Statistical Power Analysis for the Behavioral Sciences (1988), chapter 2: noncentral t.
    """
    critical = scipy.special.stdtrit(seeds - 1, (1 + level) / 2)
    return float(1 - scipy.special.nctdtr(seeds - 1, effect_size * np.sqrt(seeds), critical))


def support_power(effect_size: float, minimal: float, seeds: int, level: float = 0.95) -> float:
    """Probability that the `paired_t` interval lies above zero and the estimate reaches a minimal effect.

    Both in units of the standard deviation of the differences. Mean m ~ N(effect, 1/n) and deviation S of a sample are
    independent, so that it is the integral of the density of m over m >= minimal times P(S < m sqrt(n) / t).

    Args:
        effect_size: True mean difference over its standard deviation.
        minimal: Minimal effect over the same deviation, at least 0.
        seeds: Number of seeds, at least two.
        level: Nominal coverage of the two-sided interval.
    """
    root, freedom = np.sqrt(seeds), seeds - 1
    low = max((minimal - effect_size) * root, -effect_size * root, -TAIL)
    if low >= TAIL:
        return 0.0
    nodes, weights = _legendre()
    score = low + (TAIL - low) * (nodes + 1) / 2
    critical = scipy.special.stdtrit(freedom, (1 + level) / 2)
    narrow = scipy.special.chdtr(freedom, freedom * (np.maximum(effect_size * root + score, 0) / critical) ** 2)
    return float((TAIL - low) / 2 * np.sum(weights * np.exp(-(score**2) / 2) / np.sqrt(2 * np.pi) * narrow))


@lru_cache(maxsize=1)
def _legendre() -> tuple[Array, Array]:
    """Nodes and weights of Gauss-Legendre quadrature on [-1, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    return nodes, weights


def paired_effect_size(differences: ArrayLike) -> float:
    """Cohen's d_z: mean difference over its standard deviation; 0 for no difference, +-inf if it never varies."""
    sample = np.asarray(differences, dtype=float)
    mean, deviation = sample.mean(), sample.std(ddof=1)
    if mean == 0:
        return 0.0
    return float(mean / deviation) if deviation > 0 else float(np.copysign(np.inf, mean))


def holm(p_values: ArrayLike) -> Array:
    """Holm's step-down adjusted p-values: control of any false alarm among several tests.

    Args:
        p_values: [tests].

    Returns:
        [tests], in the order given; compare with the level directly.

    Source:
        Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    raw = np.asarray(p_values, dtype=float)
    order = np.argsort(raw)
    scaled = raw[order] * np.arange(len(raw), 0, -1)
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted
