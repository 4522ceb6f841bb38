"""Verdict on a claim: each branch, worked numbers, how often it is wrong, and what more seeds would do."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from recipes.core.config.settings import Claim
from recipes.core.statistics.compare import MetricRow, OverExamples
from recipes.core.statistics.intervals import Interval, paired_t_arrays, paired_t_power, support_power
from recipes.core.statistics.verdict import judge, verdict, without_judgement

TRIALS = 1_000
WORDS = ("contradicted", "inconclusive", "supported")


def claim(minimal_effect=0.02, direction=1):
    return Claim("a helps", "accuracy", "a", "b", direction, "8% to 19%", minimal_effect)


def trials(generator, seeds, effect):
    """[trials, seeds] differences: both arms share a large effect of the seed; each has noise of its own."""
    shape = (TRIALS, seeds)
    seed_effect = generator.normal(0, 0.15, shape)
    arm = 0.6 + effect + seed_effect + generator.normal(0, 0.02, shape)
    baseline = 0.6 + seed_effect + generator.normal(0, 0.03, shape)
    return arm - baseline


def by_hand(differences, level=0.95):
    """Interval from the textbook formula: mean -+ t * s / sqrt(n)."""
    number, mean = len(differences), sum(differences) / len(differences)
    variance = sum((value - mean) ** 2 for value in differences) / (number - 1)
    half = stats.t.isf((1 - level) / 2, number - 1) * (variance / number) ** 0.5
    return mean - half, mean + half


def test_supported_by_worked_numbers():
    """Mean 0.07, s = 0.01, t(2) = 4.303: 0.07 -+ 4.303 * 0.01 / 1.732 = [0.0452, 0.0948]."""
    answer = verdict(claim(), [0.06, 0.07, 0.08])
    assert (answer.interval.low, answer.interval.high) == pytest.approx((0.0452, 0.0948), abs=5e-5)
    assert (answer.interval.low, answer.interval.high) == pytest.approx(by_hand([0.06, 0.07, 0.08]))
    assert (answer.word, answer.seeds, answer.more_seeds) == ("supported", 3, 0)
    assert answer.reason == (
        "the interval lies above zero and the difference of +0.070 is at least the minimal effect of interest, 0.02"
    )


@pytest.mark.parametrize(
    ("differences", "word", "reason"),
    [
        (
            [-0.06, -0.07, -0.08],
            "contradicted",
            "the opposite holds: the interval [-0.095, -0.045] lies below zero",
        ),
        (
            [0.002, -0.002, 0.003],
            "contradicted",
            "the difference is too small to matter: the interval [-0.006, +0.008] lies below the minimal effect of "
            "interest, 0.02",
        ),
        (
            [0.010, 0.011, 0.012],
            "contradicted",
            "the difference is too small to matter: the interval [+0.009, +0.013] lies below the minimal effect of "
            "interest, 0.02",
        ),
        (
            [0.01, 0.02, 0.09],
            "inconclusive",
            "the difference of +0.040 is at least the minimal effect of interest, 0.02, but the interval "
            "[-0.068, +0.148] includes zero",
        ),
        (
            [0.01, -0.02, 0.02],
            "inconclusive",
            "the difference of +0.003 is short of the minimal effect of interest, 0.02, which the interval "
            "[-0.048, +0.055] includes",
        ),
        (
            [0.016, 0.018, 0.020],
            "inconclusive",
            "the difference of +0.018 is short of the minimal effect of interest, 0.02, which the interval "
            "[+0.013, +0.023] includes",
        ),
    ],
)
def test_other_branches(differences, word, reason):
    answer = verdict(claim(), differences)
    assert (answer.word, answer.reason) == (word, reason)
    assert (answer.interval.low, answer.interval.high) == pytest.approx(by_hand(differences))
    assert (answer.more_seeds == 0) == (word == "contradicted")


def test_a_smaller_metric_is_judged_as_the_mirror_image():
    """Interval and text keep the metric's own sign; word and seeds do not depend on it."""
    for differences in ([0.06, 0.07, 0.08], [-0.06, -0.07, -0.08], [0.0, 0.001, 0.002], [0.01, 0.02, 0.09], [0.02] * 3):
        plain, mirrored = verdict(claim(), differences), verdict(claim(direction=-1), np.negative(differences))
        assert (mirrored.word, mirrored.more_seeds) == (plain.word, plain.more_seeds)
        assert (mirrored.interval.low, mirrored.interval.high) == (-plain.interval.high, -plain.interval.low)
    loss = claim(direction=-1)
    assert verdict(loss, [-0.06, -0.07, -0.08]).reason == (
        "the interval lies below zero and the difference of -0.070 is at most the minimal effect of interest, -0.02"
    )
    assert verdict(loss, [0.06, 0.07, 0.08]).reason == (
        "the opposite holds: the interval [+0.045, +0.095] lies above zero"
    )


@pytest.mark.parametrize("differences", [[], [0.07]])
def test_fewer_than_two_seeds_say_nothing(differences):
    answer = verdict(claim(), differences)
    assert (answer.word, answer.interval, answer.more_seeds) == ("inconclusive", None, None)
    assert answer.seeds == len(differences)
    assert answer.reason == f"an interval over seeds needs at least two seeds, got {len(differences)}"


def test_differences_that_are_not_finite_say_nothing():
    answer = verdict(claim(), [0.07, np.nan, -np.inf])
    assert (answer.word, answer.interval, answer.seeds, answer.more_seeds) == ("inconclusive", None, 3, None)
    assert answer.reason == "the metric is not a finite number in 2 of 3 paired seeds"


@pytest.mark.parametrize("value", [0.25, -0.25, 0.07, 1e-6])
@pytest.mark.parametrize("noise", [0.0, 1e-16])
def test_the_same_difference_in_every_seed_says_nothing_of_other_seeds(value, noise):
    """Equal differences of metrics differ by rounding; their interval has no width."""
    answer = verdict(claim(), value * (1 + noise * np.array([0, 1, -1])))
    assert (answer.word, answer.more_seeds, answer.seeds) == ("inconclusive", None, 3)
    assert answer.reason.startswith("all 3 seeds have the same difference of ")


def test_arms_that_never_differ_are_said_to():
    answer = verdict(claim(), [0.0, 0.0])
    assert (answer.word, answer.more_seeds) == ("inconclusive", None)
    assert answer.reason == (
        "the two arms do not differ in any of 2 seeds: they may be the same run, or the metric is too coarse"
    )


def test_boundaries():
    """An upper end on the minimal effect does not exclude it; a lower end on zero does not exclude zero."""
    differences = np.array([0.01, -0.02, 0.02])
    high = verdict(claim(), differences).interval.high
    assert verdict(claim(high), differences).word == "inconclusive"
    assert verdict(claim(np.nextafter(high, 1)), differences).word == "contradicted"
    supported = np.array([0.06, 0.07, 0.08])
    mean = verdict(claim(), supported).interval.estimate
    assert verdict(claim(mean), supported).word == "supported"
    assert verdict(claim(np.nextafter(mean, 1)), supported).word == "inconclusive"


def test_the_level_widens_the_interval():
    differences = [0.03, 0.05, 0.07]
    assert verdict(claim(), differences, level=0.95).word == "supported"
    strict = verdict(claim(), differences, level=0.99)
    assert (strict.word, strict.interval.level) == ("inconclusive", 0.99)
    assert (strict.interval.low, strict.interval.high) == pytest.approx(by_hand(differences, 0.99))


def settled(judged, word, mean, spread, seeds):
    """Share of simulated trials whose verdict is `word`, by the rule written out; common random numbers over means."""
    sample = mean + spread * np.random.default_rng(seeds).standard_normal((40_000, seeds))
    estimate, half, _ = paired_t_arrays(sample, 0.95)
    if word == "supported":
        return np.mean((estimate - half > 0) & (estimate >= judged.minimal_effect))
    return np.mean(estimate + half < judged.minimal_effect)


@pytest.mark.parametrize(
    ("differences", "word"),
    [
        ([0.01, 0.02, 0.09], "supported"),
        ([0.11, -0.01, 0.04, -0.02], "supported"),  # the estimate is 0.03: reaching 0.02 is what takes seeds
        ([0.09, -0.06, 0.05], "supported"),
        ([0.01, -0.02, 0.02], "contradicted"),
        ([0.03, -0.01], "contradicted"),
    ],
)
def test_more_seeds_are_the_fewest_with_enough_power_of_the_whole_rule(differences, word):
    """Brute force: trials of as many seeds with the same estimate and spread, judged by the rule."""
    judged = claim(0.02)
    answer = verdict(judged, differences)
    needed = len(differences) + answer.more_seeds
    mean, spread = np.mean(differences), np.std(differences, ddof=1)
    error = 4 * (0.8 * 0.2 / 40_000) ** 0.5
    assert settled(judged, word, mean, spread, needed) > 0.8 - error
    assert needed == 3 or settled(judged, word, mean, spread, needed - 2) < 0.8 + error


def test_the_power_of_support_is_that_of_the_interval_without_a_minimal_effect():
    for effect_size, seeds in ((0.5, 10), (1.2, 5), (3.0, 3)):
        assert support_power(effect_size, 0.0, seeds) == pytest.approx(paired_t_power(effect_size, seeds), abs=1e-6)
    assert support_power(0.5, 0.5, 400) == pytest.approx(0.5, abs=1e-3)  # the estimate reaches it in half of the trials
    assert support_power(0.5, 3.0, 400) < 1e-9


def test_more_seeds_cannot_always_be_told():
    """On the boundary no number of seeds is enough; beyond 1,000 seeds none is named."""
    assert verdict(claim(0.0), [-0.5, 0.5]).more_seeds is None
    near, far = np.array([-1, 0, 1]) + 0.09, np.array([-1, 0, 1]) + 0.088
    assert 960 < verdict(claim(), near).more_seeds < 997
    assert paired_t_power(0.088, 1_000) < 0.8
    assert verdict(claim(), far).more_seeds is None


def test_an_inconclusive_claim_needs_at_least_one_more_seed():
    """A sample whose interval just includes zero has too few seeds even where its power is above 80%."""
    differences = np.array([0.05, 0.07])
    assert verdict(claim(), differences).more_seeds == 1
    effect_size = differences.mean() / differences.std(ddof=1)
    assert paired_t_power(effect_size, 3) > 0.8


numbers = st.lists(st.integers(-10, 10), min_size=2, max_size=6)


@given(numbers, st.integers(0, 20), st.integers(0, 5), st.sampled_from([1, -1]))
def test_better_differences_never_give_a_worse_verdict(differences, shift, minimal_effect, direction):
    judged = claim(minimal_effect, direction)
    assume(len(set(differences)) > 1)
    before = verdict(judged, differences).word
    after = verdict(judged, np.array(differences) + direction * shift).word
    assert WORDS.index(after) >= WORDS.index(before)


@given(numbers, st.integers(0, 5))
def test_direction_mirrors(differences, minimal_effect):
    plain = verdict(claim(minimal_effect), differences)
    mirrored = verdict(claim(minimal_effect, -1), np.negative(differences))
    assert (mirrored.word, mirrored.more_seeds) == (plain.word, plain.more_seeds)


@given(numbers, st.integers(0, 5))
def test_a_verdict_is_settled_or_says_what_is_missing(differences, minimal_effect):
    answer = verdict(claim(minimal_effect), differences)
    assert (answer.more_seeds == 0) == (answer.word != "inconclusive")


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_t_intervals_cover_and_a_bootstrap_over_seeds_would_not(seeds):
    """Nominal 95% over a trial's seeds; the seed effect, five times the noise, cancels in the pairs."""
    effect = 0.05
    generator = np.random.default_rng([seeds, 95])
    differences = trials(generator, seeds, effect)
    mean, half, _ = paired_t_arrays(differences, 0.95)
    assert 0.93 <= np.mean(np.abs(mean - effect) <= half) <= 0.97
    shares = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=1_000) / seeds
    low, high = np.quantile(differences @ shares.T, [0.025, 0.975], axis=1)
    if seeds <= 5:
        assert np.mean((low <= effect) & (effect <= high)) < 0.90


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
@pytest.mark.parametrize(("effect", "wrong"), [(0.0, "supported"), (0.02, "contradicted")])
def test_wrong_verdicts_are_rare(seeds, effect, wrong):
    """No difference is called support, and the minimal effect itself is called excluded, in at most 5% of trials."""
    differences = trials(np.random.default_rng([seeds, 5]), seeds, effect)
    mean, half, _ = paired_t_arrays(differences, 0.95)
    words = np.where(mean + half < 0.02, WORDS[0], np.where((mean - half > 0) & (mean >= 0.02), WORDS[2], WORDS[1]))
    assert [verdict(claim(), sample).word for sample in differences[:50]] == words[:50].tolist()
    assert np.mean(words == wrong) <= 0.05


def equal(minimal_effect=0.02, unit="seeds", kind="equivalence"):
    return replace(claim(minimal_effect), unit=unit, kind=kind)


def row(differences, **changes):
    return replace(MetricRow("accuracy", "Accuracy", True, 0, 0, len(differences), differences=differences), **changes)


@pytest.mark.parametrize(
    ("differences", "word", "reason"),
    [
        # 0.001 -+ 4.303 * 0.001 / 1.732 = [-0.0015, 0.0035]
        ((0.0, 0.001, 0.002), "supported", "the interval [-0.001, +0.003] lies within -0.02 to +0.02, differences"),
        ((0.06, 0.07, 0.08), "contradicted", "the interval [+0.045, +0.095] lies outside -0.02 to +0.02, differences"),
        ((-0.06, -0.07, -0.08), "contradicted", "the interval [-0.095, -0.045] lies outside -0.02 to +0.02"),
        ((0.01, 0.02, 0.03), "inconclusive", "the interval [-0.005, +0.045] reaches over an end of -0.02 to +0.02"),
        ((0.01, 0.01, 0.01), "inconclusive", "all 3 seeds have the same difference of +0.010"),
        ((0.0, 0.0, 0.0), "supported", "the interval [0.000, 0.000] lies within -0.02 to +0.02"),
    ],
)
def test_arms_are_equivalent_within_the_minimal_effect(differences, word, reason):
    answer = judge(equal(), row(differences))
    assert answer.word == word and answer.reason.startswith(reason), answer
    assert answer.more_seeds == (None if word == "inconclusive" else 0)


def test_equivalence_is_wrong_no_more_often_than_the_interval_allows():
    """Arms that differ by the minimal effect exactly come out as equal in at most 2.5% of trials."""
    generator = np.random.default_rng(0)
    sample = 0.02 + generator.normal(0, 0.005, (TRIALS, 5))
    words = [judge(equal(), row(tuple(differences))).word for differences in sample]
    assert words.count("supported") / TRIALS < 0.025 + 3 * np.sqrt(0.025 * 0.975 / TRIALS)


@pytest.mark.parametrize(
    ("examples", "tolerance", "word", "reason"),
    [
        (OverExamples(240, 0, 0.0), 0, "supported", "equal in all 240 examples"),
        (OverExamples(240, 1, 1e-7), 0, "contradicted", "not equal in all 240 examples: they differ by up to 1.0e-07"),
        (OverExamples(240, 9, 1e-7), 1e-6, "supported", "within 1e-06 of each other in all 240 examples"),
        (OverExamples(240, 1, float("nan")), 0, "inconclusive", "accuracy was not measured as a finite number"),
    ],
)
def test_exact_claims_allow_no_example_to_differ(examples, tolerance, word, reason):
    answer = judge(equal(tolerance, "examples", "exact"), row((0.0,), number=60, examples=examples))
    assert answer.word == word and answer.reason.startswith(reason), answer
    assert (answer.seeds, answer.items) == (1, 60)


def test_exact_claims_over_seeds_need_one_seed():
    assert judge(equal(0, kind="exact"), row((0.0,))).reason == "equal in all 1 seeds"
    assert judge(equal(0, kind="exact"), row((0.0, 0.5))).word == "contradicted"


def test_over_examples_the_interval_is_that_of_the_row_and_no_seed_would_help():
    examples = OverExamples(240, 80, 1.0)
    over = replace(claim(), unit="examples")
    settled = judge(
        over, row((0.05, 0.07), number=60, interval=Interval(0.06, 0.03, 0.09, 0.001, 0.95), examples=examples)
    )
    assert (settled.word, settled.items, settled.seeds, settled.more_seeds) == ("supported", 60, 2, 0)
    open_ = judge(over, row((0.05,), number=60, interval=Interval(0.06, -0.01, 0.13, 0.1, 0.95), examples=examples))
    assert (open_.word, open_.more_seeds) == ("inconclusive", None)
    assert judge(over, row((0.05,))).reason == "accuracy has no values of examples"
    same = judge(over, row((0.0,), number=60, interval=Interval(0, 0, 0, 1, 0.95), examples=OverExamples(240, 0, 0.0)))
    assert (same.word, same.reason) == ("inconclusive", "the two arms do not differ in any of 240 examples")


def test_a_claim_of_no_known_kind_or_without_a_margin_is_refused():
    with pytest.raises(ValueError, match="no such unit or kind of a claim: prompts, difference"):
        replace(claim(), unit="prompts")
    with pytest.raises(ValueError, match="needs a minimal effect above 0"):
        equal(0)


def test_a_small_trial_says_why_a_larger_one_would_not_judge_either():
    assert "no seed has accuracy of both" in without_judgement(judge(claim(), None)).reason
    assert without_judgement(judge(claim(), row((0.1, 0.2)))).reason.startswith(
        "a trial at budget=smoke shows that everything"
    )
