"""Statistics: worked numbers, brute force on small n, agreement with SciPy, coverage by simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from recipes.core.statistics import intervals as own


def ones(values):
    return np.ones(len(values))


def test_ratio_mean_weights_by_count():
    assert own.ratio_mean([1.0, 0.0, 0.5], [1, 3, 4]) == pytest.approx(3 / 8)
    assert own.ratio_mean([math.nan, 0.5], [0, 2]) == 0.5
    assert math.isnan(own.ratio_mean([1.0], [0.0]))


def test_bootstrap_draws_match_all_resamples():
    """Four groups have 4^4 equally likely resamples: the draws must follow their exact distribution."""
    generator = np.random.default_rng(3)
    groups = np.repeat(np.arange(4), [1, 2, 3, 2])
    values, baseline = generator.random(8), generator.random(8)
    counts, baseline_counts = generator.integers(1, 6, 8), generator.integers(1, 6, 8)
    exact = []
    for chosen in itertools.product(range(4), repeat=4):
        rows = np.concatenate([np.flatnonzero(groups == group) for group in chosen])
        exact.append(own.ratio_mean(values[rows], counts[rows]) - own.ratio_mean(baseline[rows], baseline_counts[rows]))
    sums = own.group_sums(groups, values, counts, baseline, baseline_counts)
    drawn = own.bootstrap_differences(sums, draws=40_000, seed=0)
    assert drawn.mean() == pytest.approx(np.mean(exact), abs=4 * np.std(exact) / 200)
    assert drawn.std() == pytest.approx(np.std(exact), rel=0.02)
    for point in np.quantile(exact, [0.05, 0.25, 0.5, 0.75, 0.95]) + 1e-9:
        assert np.mean(drawn < point) == pytest.approx(np.mean(np.array(exact) < point), abs=0.012)


def test_interval_agrees_with_scipy_bca():
    generator = np.random.default_rng(5)
    difference = generator.exponential(size=60) - 0.6
    zeros = np.zeros(60)
    mine = own.paired_bootstrap(difference, ones(zeros), zeros, ones(zeros), np.arange(60), draws=20_000)
    theirs = stats.bootstrap((difference,), np.mean, n_resamples=20_000, method="BCa", rng=1).confidence_interval
    assert mine.low == pytest.approx(theirs.low, abs=0.012)
    assert mine.high == pytest.approx(theirs.high, abs=0.012)
    assert mine.estimate == pytest.approx(difference.mean())


@pytest.mark.parametrize("shift", [0.1, 0.26, 0.35])
def test_p_value_inverts_the_interval(shift):
    generator = np.random.default_rng(7)
    difference = generator.exponential(size=50) - 1 + shift
    zeros = np.zeros(50)
    arguments = (difference, ones(zeros), zeros, ones(zeros), np.arange(50))
    p_value = own.paired_bootstrap(*arguments, draws=20_000).p_value
    touching = own.paired_bootstrap(*arguments, draws=20_000, level=1 - p_value)
    assert min(abs(touching.low), abs(touching.high)) < 0.01


@pytest.mark.parametrize("wrong", [1, 2, 3, 4, 6, 8, 12])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_interval_that_touches_zero_is_not_significant(wrong, sign):
    """Right or wrong answers: few items differ, and many resamples come to exactly zero."""
    zeros, difference = np.zeros(60), np.zeros(60)
    difference[:wrong] = sign
    interval = own.paired_bootstrap(difference, ones(zeros), zeros, ones(zeros), np.arange(60), draws=4_000)
    assert (interval.p_value < 0.05) == (interval.low > 0 or interval.high < 0)
    assert wrong > 1 or interval.p_value > 0.05


@pytest.mark.parametrize("worse", [1, 2, 4])
def test_how_many_items_both_arms_get_right_changes_nothing(worse):
    """The differences are the same; only their last bits are not, on which ties with the estimate once depended."""
    intervals = set()
    for right in range(worse, 58):
        baseline = np.arange(60) < right
        arm = baseline & (np.arange(60) >= worse)
        outcome = own.paired_bootstrap(arm, ones(arm), baseline, ones(arm), np.arange(60))
        intervals.add(tuple(np.round([outcome.low, outcome.high, outcome.p_value], 9)))
    assert len(intervals) == 1


def test_bootstrap_is_seeded_and_ignores_example_order():
    generator = np.random.default_rng(0)
    columns = [generator.random(30), ones(range(30)), generator.random(30), ones(range(30)), np.arange(30) // 3]
    order = generator.permutation(30)
    first = own.paired_bootstrap(*columns, draws=500)
    assert own.paired_bootstrap(*[column[order] for column in columns], draws=500).low == pytest.approx(first.low)
    assert own.paired_bootstrap(*columns, draws=500, seed=1) != first


def test_draws_in_chunks_cover_all_draws(monkeypatch):
    sums = np.random.default_rng(0).random((10, 4)) + 1
    monkeypatch.setattr(own, "DRAW_MEMORY", 70)
    assert own.bootstrap_differences(sums, draws=50, seed=0).shape == (50,)


def test_pairing_cancels_what_both_arms_share():
    """A difficulty shared by both arms widens neither side of the paired interval."""
    generator = np.random.default_rng(2)
    difficulty = generator.normal(0, 10, 200)
    noise = generator.normal(0, 0.1, 200)
    paired = own.paired_bootstrap(
        difficulty + 0.2 + noise, ones(noise), difficulty, ones(noise), np.arange(200), draws=2_000
    )
    assert 0.1 < paired.low < 0.2 < paired.high < 0.3
    assert paired.p_value < 0.01


def test_equal_arms_give_an_interval_of_zero_width():
    values = np.random.default_rng(0).random(20)
    interval = own.paired_bootstrap(values, ones(values), values, ones(values), np.arange(20), draws=200)
    assert (interval.estimate, interval.low, interval.high, interval.p_value) == (0, 0, 0, 1)


def test_resamples_that_count_nothing_are_left_out():
    values, counts = np.array([0.3, 0.7, 0.0, 0.0]), np.array([1.0, 1.0, 0.0, 0.0])
    interval = own.paired_bootstrap(values, counts, values * 0.5, counts, np.arange(4), draws=2_000)
    assert np.isfinite([interval.low, interval.high]).all()
    with pytest.raises(ValueError, match="nothing was counted"):
        own.paired_bootstrap(values, counts * 0, values, counts, np.arange(4))
    with pytest.raises(ValueError, match="two groups, got 1"):
        own.paired_bootstrap(values, counts, values, counts, np.zeros(4))


def test_only_the_grouped_bootstrap_covers_grouped_examples():
    """Five captions of one image share its luck; treating them as independent makes intervals too short."""
    generator = np.random.default_rng(11)
    covered = {"grouped": 0, "single": 0}
    images, captions, rounds = 60, 5, 250
    index = np.repeat(np.arange(images), captions)
    for _ in range(rounds):
        shared = generator.normal(0.3, 1, images)[index]
        values = shared + generator.normal(0, 0.5, images * captions)
        zeros = np.zeros_like(values)
        for name, groups in (("grouped", index), ("single", np.arange(len(values)))):
            interval = own.paired_bootstrap(values, ones(zeros), zeros, ones(zeros), groups, draws=400)
            covered[name] += interval.low <= 0.3 <= interval.high
    assert 0.91 <= covered["grouped"] / rounds <= 0.985
    assert covered["single"] / rounds < 0.8


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_t_interval_covers_what_it_says(seeds):
    """Nominal 95% over few seeds: arms share a seed effect, accuracies are bounded and rounded to examples."""
    generator = np.random.default_rng(seeds)
    shape = (40_000, seeds)
    shared = generator.normal(0, 0.5, shape)
    accuracy = [
        generator.binomial(400, 1 / (1 + np.exp(-(shared + level + generator.normal(0, 0.2, shape))))) / 400
        for level in (0.8, 1.0)
    ]
    difference = accuracy[1] - accuracy[0]
    mean, half, p_value = own.paired_t_arrays(difference, 0.95)
    covered = np.mean(np.abs(mean - difference.mean()) <= half)
    assert 0.93 <= covered <= 0.97
    assert np.array_equal(p_value < 0.05, np.abs(mean) > half)


def test_percentile_bootstrap_over_three_seeds_would_not_cover():
    """Why seeds get a t interval: the largest and smallest of three differences are all a bootstrap can reach."""
    difference = np.random.default_rng(0).normal(size=(2_000, 3))
    resampled = difference[:, np.array(list(itertools.product(range(3), repeat=3)))].mean(axis=-1)
    low, high = np.quantile(resampled, [0.025, 0.975], axis=1)
    assert np.mean((low <= 0) & (high >= 0)) < 0.85


def test_paired_t_agrees_with_scipy():
    difference = [0.111, 0.007, 0.104, 0.05, -0.02]
    mine, theirs = own.paired_t(difference), stats.ttest_1samp(difference, 0)
    interval = theirs.confidence_interval(0.95)
    assert (mine.low, mine.high, mine.p_value) == pytest.approx((interval.low, interval.high, theirs.pvalue))


def test_paired_t_edges():
    assert own.paired_t([0.0, 0.0]).p_value == 1
    assert own.paired_t([0.2, 0.2]) == own.Interval(0.2, 0.2, 0.2, 0.0, 0.95)
    with pytest.raises(ValueError, match="at least two seeds, got 1"):
        own.paired_t([0.1])


def test_power_by_published_numbers():
    """As G*Power has it: an effect size of 0.5 needs 34 pairs for 80% power at two-sided 5%; one of 0.8 needs 15."""
    assert own.paired_t_power(0.5, 34) >= 0.8 > own.paired_t_power(0.5, 33)
    assert own.paired_t_power(0.8, 15) >= 0.8 > own.paired_t_power(0.8, 14)
    assert own.paired_t_power(0.0, 5) == pytest.approx(0.025)


def test_effect_size():
    assert own.paired_effect_size([1.0, 2.0, 3.0]) == pytest.approx(2.0)
    assert own.paired_effect_size([0.0, 0.0]) == 0
    assert own.paired_effect_size([-0.5, -0.5]) == -math.inf


def test_holm_worked_example():
    assert own.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_monotone_and_between_raw_and_bonferroni(p_values):
    raw, adjusted = np.array(p_values), own.holm(p_values)
    assert np.all(adjusted >= raw - 1e-12)
    assert np.all(adjusted <= np.minimum(raw * len(raw), 1) + 1e-12)
    order = np.argsort(raw)
    assert np.all(np.diff(adjusted[order]) >= 0)
