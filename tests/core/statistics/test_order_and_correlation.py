"""Claims about more than a pair: the order of several arms, the correlation of two metrics."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from recipes.core.config.settings import Claim
from recipes.core.runs.records import load_run
from recipes.core.statistics.correlation import (
    correlation_interval,
    judge_correlation,
    permutation_p,
    rank_correlations,
)
from recipes.core.statistics.measured import Examples, read_measurements
from recipes.core.statistics.order import judge_order
from recipes.core.statistics.texts import expectation, subject
from recipes.core.statistics.verdict import more_seeds

ARMS = tuple("abcdef")
ORDER = Claim("falls", "accuracy", "a", "c", 1, "as published", 0.02, kind="order", arms=("a", "b", "c"))
OVER_ITEMS = Claim(
    "go together", "gain", "a", "b", 1, "as published", 0.2, unit="examples", kind="correlation", beside="score"
)
OVER_ARMS = Claim("go together", "gain", "a", "b", 1, "", 0.2, kind="correlation", beside="score", arms=ARMS)
C = [0.60, 0.61, 0.62]


@pytest.fixture
def measure(make_run):
    """`measure({arm: finals of each seed})`: arm -> what its runs measured."""
    base = read_measurements(load_run(make_run("a", 0)))

    def make(finals, examples=None):
        return {
            arm: [
                replace(base, run=replace(base.run, arm=arm, seed=seed), final=final, examples=examples or {})
                for seed, final in enumerate(seeds)
            ]
            for arm, seeds in finals.items()
        }

    return make


def accuracies(**arms):
    return {arm: [{"accuracy": value} for value in values] for arm, values in arms.items()}


def column(values, groups=None):
    ids = np.array([f"item-{place:04d}" for place in range(len(values))])
    return Examples(ids, ids if groups is None else np.asarray(groups), np.asarray(values, float), np.ones(len(values)))


@pytest.mark.parametrize(
    ("b", "word", "reason"),
    [
        # Steps of 0.11 and 0.1, whose standard deviations are 0.01 and 0: 0.11 -+ 4.303 * 0.01 / 1.732.
        ([0.70, 0.71, 0.73], "supported", "every step of the order holds: a - b +0.107 [+0.092, +0.121], b - c +0.103"),
        # At 97.5%, t = 6.205: -0.16 -+ 6.205 * 0.00577 / 1.732.
        (
            [0.95, 0.96, 0.98],
            "contradicted",
            "a - b contradicts it at 97.5%: the opposite holds: the interval [-0.164, -0.123]",
        ),
        ([0.70, 0.78, 0.86], "inconclusive", "a - b: the difference of +0.040 is at least the minimal effect of"),
    ],
)
def test_an_order_holds_if_each_of_its_steps_does(measure, b, word, reason):
    outcome = judge_order(ORDER, measure(accuracies(a=[0.81, 0.82, 0.83], b=b, c=C)))
    assert (outcome.word, outcome.seeds) == (word, 3)
    assert outcome.reason.startswith(reason), outcome.reason


def test_a_step_that_would_not_survive_the_correction_leaves_an_order_open(measure):
    """-0.02 -+ 4.303 * 0.007 / 1.732 lies below zero, -0.02 -+ 6.205 * 0.007 / 1.732 does not."""
    b = [0.81 + 0.013, 0.82 + 0.02, 0.83 + 0.027]
    outcome = judge_order(replace(ORDER, minimal_effect=0.0), measure(accuracies(a=[0.81, 0.82, 0.83], b=b, c=C)))
    assert outcome.word == "inconclusive"
    assert outcome.reason.startswith("a - b: the difference of -0.020 is short of the minimal effect of interest, 0,")


@pytest.mark.parametrize("other_step", [(0.05, 0.06, 0.055), (0.09, -0.06, 0.05)])
def test_more_seeds_are_those_after_which_one_step_contradicts_an_order(measure, other_step):
    """Of a step of .01, -.02, .02 that is short of .02: at the widened level, whatever the other step still needs."""
    c = np.array(C)
    b = c + other_step
    outcome = judge_order(ORDER, measure(accuracies(a=b + (0.01, -0.02, 0.02), b=b, c=c)))
    short = replace(ORDER, kind="difference", arms=())
    assert outcome.word == "inconclusive"
    assert outcome.more_seeds == more_seeds(short, np.array([0.01, -0.02, 0.02]), 0.975) == 15


def test_one_step_that_is_against_it_contradicts_an_order_of_which_others_are_not_measured(measure):
    outcome = judge_order(ORDER, measure(accuracies(b=[0.10, 0.12, 0.11], c=[0.90, 0.95, 0.93])))
    assert outcome.word == "contradicted" and outcome.reason.startswith("b - c contradicts it")
    assert outcome.interval.level == pytest.approx(0.975)


def test_of_an_order_all_arms_must_be_measured(measure):
    arms = measure(accuracies(a=[0.8, 0.9], b=[0.7], c=[0.6, 0.5]))
    assert judge_order(ORDER, arms).reason == "a - b: an interval over seeds needs at least two seeds, got 1"
    assert "a - b: no seed has accuracy of both a and b" in judge_order(ORDER, {}).reason


def test_in_the_other_direction_an_order_is_that_of_the_negated_metric(measure):
    values = {"a": [0.1, 0.2, 0.12], "b": [0.3, 0.5, 0.33], "c": [0.9, 1.2, 0.8]}
    down = judge_order(replace(ORDER, direction=-1), measure(accuracies(**values)))
    up = judge_order(ORDER, measure(accuracies(**{arm: [-one for one in seeds] for arm, seeds in values.items()})))
    assert (down.word, down.interval.estimate) == (up.word, pytest.approx(-up.interval.estimate))


def test_over_examples_the_steps_are_judged_over_source_items(measure):
    generator = np.random.default_rng(0)
    scores = {arm: generator.normal(mean, 0.1, 60) for arm, mean in (("a", 0.8), ("b", 0.6), ("c", 0.4))}
    arms = {arm: measure({arm: [{}]}, {"accuracy": column(values)})[arm] for arm, values in scores.items()}
    outcome = judge_order(replace(ORDER, unit="examples"), arms)
    assert (outcome.word, outcome.seeds, outcome.items) == ("supported", 1, 60)


def test_rank_correlations_are_scipys():
    left, right = np.random.default_rng(1).normal(size=(2, 4, 30)).round(1)  # with ties
    expected = [stats.spearmanr(*both).statistic for both in zip(left, right, strict=True)]
    assert rank_correlations(left, right) == pytest.approx(expected)
    assert np.isnan(rank_correlations([1, 1, 1], [1, 2, 3])).all()


@pytest.mark.parametrize("direction", [1, -1])
def test_few_items_are_permuted_in_every_way(direction):
    left, right = np.random.default_rng(2).normal(size=(2, 2, 5))
    mine = rank_correlations(left, right).mean()
    all_ = [rank_correlations(left, right[:, list(order)]).mean() for order in permutations(range(5))]
    expected = np.mean([direction * one >= direction * mine - 1e-12 for one in all_])
    assert permutation_p(left, right, direction) == pytest.approx(expected)


def test_the_permutation_p_is_uniform_where_there_is_nothing():
    generator = np.random.default_rng(3)
    p_values = [permutation_p(*generator.normal(size=(2, 1, 6)), 1) for _ in range(60)]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_the_interval_covers_the_correlation():
    """Of normal pairs with correlation r, Spearman's is 6 / pi * asin(r / 2)."""
    generator, inside = np.random.default_rng(4), 0
    true = 6 / np.pi * np.arcsin(0.6 / 2)
    for _ in range(400):
        left, right = generator.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 40).T
        interval = correlation_interval(float(rank_correlations(left, right)[0]), 40)
        inside += interval.low <= true <= interval.high
    assert 0.92 <= inside / 400 <= 0.98


@pytest.mark.parametrize(
    ("noise", "minimal", "word"), [(0.5, 0.2, "supported"), (0.5, 0.99, "contradicted"), (8.0, 0.2, "inconclusive")]
)
def test_a_correlation_over_examples(measure, noise, minimal, word):
    generator = np.random.default_rng(5)
    score = generator.normal(size=80)
    examples = {"score": column(score), "gain": column(score + noise * generator.normal(size=80))}
    outcome = judge_correlation(replace(OVER_ITEMS, minimal_effect=minimal), measure({"a": [{}]}, examples))
    assert (outcome.word, outcome.seeds, outcome.items) == (word, 1, 80), outcome.reason
    assert outcome.reason.startswith("the rank correlation over 80 items is ")


def test_examples_of_one_source_item_are_one_point(measure):
    groups = np.repeat([f"page-{place}" for place in range(6)], 2)
    values = np.arange(12.0)
    examples = {"score": column(values, groups), "gain": column(values + np.tile([9, -9], 6), groups)}
    outcome = judge_correlation(OVER_ITEMS, measure({"a": [{}]}, examples))
    assert (outcome.items, outcome.interval.estimate) == (6, pytest.approx(1.0))


def test_a_correlation_over_arms(measure):
    """Six arms of which each seed has the same order but for noise: p of all 720 permutations."""
    generator = np.random.default_rng(6)
    finals = {
        arm: [{"gain": place + generator.normal(0, 1.0), "score": float(place)} for _ in range(3)]
        for place, arm in enumerate(ARMS)
    }
    outcome = judge_correlation(OVER_ARMS, measure(finals))
    assert (outcome.word, outcome.seeds, outcome.items) == ("supported", 3, 0)
    assert outcome.reason.startswith("the rank correlation over 6 arms and 3 seeds is +0.")
    assert -1 <= outcome.interval.low < outcome.interval.high <= 1
    against = judge_correlation(replace(OVER_ARMS, direction=-1), measure(finals))
    assert against.word == "contradicted" and against.reason.endswith("all of it lies above -0.2")


def test_values_that_are_no_numbers_are_not_left_out(measure):
    """A seed that diverged, and examples without a value, are no reason to judge by the others."""
    finals = {
        arm: [{"gain": place + 0.1 * seed, "score": float(place)} for seed in range(10)]
        for place, arm in enumerate(ARMS)
    }
    finals["d"][3]["gain"] = finals["d"][5]["gain"] = float("nan")
    outcome = judge_correlation(OVER_ARMS, measure(finals))
    assert outcome.word == "inconclusive"
    assert outcome.reason.endswith("gain of d is not a finite number in 2 of 10 seeds")
    del finals["d"][3]["gain"]
    assert judge_correlation(OVER_ARMS, measure(finals)).reason.endswith("d does not measure gain")
    assert judge_correlation(OVER_ARMS, measure(finals | {"f": []})).reason.endswith("no finished run of f")
    examples = {"score": column(range(80)), "gain": column([*range(75), *[float("nan")] * 5])}
    outcome = judge_correlation(OVER_ITEMS, measure({"a": [{}]}, examples))
    assert outcome.reason.endswith("in 5 examples one of them is not a finite number")


def test_a_perfect_correlation_reaches_an_effect_of_1(measure):
    examples = {"score": column(range(30)), "gain": column(range(30))}
    outcome = judge_correlation(replace(OVER_ITEMS, minimal_effect=1.0), measure({"a": [{}]}, examples))
    assert (outcome.word, outcome.interval.high) == ("supported", 1.0)
    finals = {arm: [{"gain": float(place), "score": float(place)}] * 3 for place, arm in enumerate(ARMS)}
    assert judge_correlation(replace(OVER_ARMS, minimal_effect=1.0), measure(finals)).word == "supported"


def test_what_cannot_be_correlated_says_why(measure):
    def reason(claim, *measured):
        outcome = judge_correlation(claim, measure(*measured))
        assert (outcome.word, outcome.interval) == ("inconclusive", None)
        return outcome.reason

    head = "no correlation of gain and score: "
    assert reason(OVER_ITEMS, {"a": [{}]}) == head + "no run of a has values of examples of both"
    few = {"score": column(range(4)), "gain": column(range(4))}
    assert reason(OVER_ITEMS, {"a": [{}]}, few) == head + "it needs at least 5 source items, got 4"
    flat = {"score": column([1] * 9), "gain": column(range(9))}
    assert reason(OVER_ITEMS, {"a": [{}]}, flat) == head + "one of them has the same value in all 9 items"
    both = [{"gain": 1.0, "score": 1.0}] * 2
    assert reason(OVER_ARMS, dict.fromkeys(ARMS, both[:1])) == (
        head + "it needs two seeds of which every arm is finished, got 1"
    )
    assert reason(OVER_ARMS, dict.fromkeys(ARMS, both)) == (
        head + "in some seed one of them has the same value in all arms"
    )


def test_claims_say_in_words_what_they_are_about():
    assert subject(ORDER) == "each of a, b, c minus the next on accuracy"
    assert expectation(ORDER) == "accuracy higher in each of a, b, c than in the next"
    assert expectation(OVER_ITEMS) == "rank correlation of gain and score over the examples of a at least 0.2"
    assert subject(OVER_ARMS) == "rank correlation of gain and score over the arms a, b, c, d, e, f"


def test_claims_that_cannot_be_judged_are_refused():
    with pytest.raises(ValueError, match="order needs at least three arms"):
        replace(ORDER, arms=("a", "c"))
    with pytest.raises(ValueError, match="the first its arm, the last its baseline"):
        replace(ORDER, arms=("b", "a", "c"))
    with pytest.raises(ValueError, match="needs a second metric, .beside., and an effect of at most 1"):
        replace(OVER_ITEMS, beside="")
    with pytest.raises(ValueError, match="needs a second metric"):
        replace(OVER_ITEMS, beside=OVER_ITEMS.metric)
    with pytest.raises(ValueError, match="each of its arms once"):
        replace(ORDER, arms=("a", "b", "b", "c"))
    with pytest.raises(ValueError, match="at least 0, and a direction of 1 or -1"):
        replace(ORDER, minimal_effect=float("nan"))
    with pytest.raises(ValueError, match="at least 5 arms"):
        replace(OVER_ARMS, arms=ARMS[:4])
    with pytest.raises(ValueError, match="over seeds needs the arms it is over"):
        replace(OVER_ITEMS, unit="seeds")
