"""DSIR's math: the worked numbers and every invariant of its specification."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from recipes.core.data.text.ngrams import NgramHasher
from recipes.pretraining.dsir import method
from recipes.pretraining.dsir.heuristic import TargetClassifier, sparse_counts, train_classifier
from tests.pretraining.weights import log_weights

RAW = np.array([[4, 0, 0], [2, 2, 0], [0, 2, 2], [0, 0, 4]])
TARGET = np.array([0, 3, 9])


def test_worked_example() -> None:
    p, q = method.fit(TARGET), method.fit(RAW.sum(0))
    assert p.tolist() == [0, 0.25, 0.75] and q.tolist() == [0.375, 0.25, 0.375]
    assert method.log_ratio(p, q).tolist() == pytest.approx([-17.439851, 0, 0.693147], abs=1e-6)
    weights = log_weights(RAW, p, q)
    assert weights.tolist() == pytest.approx([-69.759406, -34.879703, 1.386294, 2.772589], abs=1e-6)
    normalised = np.exp(weights) / np.exp(weights).sum()
    assert normalised.tolist() == pytest.approx([2.5e-32, 3.6e-17, 0.2, 0.8], rel=0.02)
    assert log_weights(csr_matrix(RAW), p, q).tolist() == pytest.approx(weights.tolist())


def test_worked_example_with_smoothing() -> None:
    p, q = method.fit(TARGET, 1), method.fit(RAW.sum(0))
    assert p.tolist() == pytest.approx([0.066667, 0.266667, 0.666667], abs=1e-6)
    expected = [-6.908883, -3.325365, 1.279805, 2.301457]
    assert log_weights(RAW, p, q).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("rows", "expected"), [([2, 3], 0.519860), ([0, 2], -0.304099)])
def test_worked_kl_reduction(rows: list[int], expected: float) -> None:
    p, q = method.fit(TARGET), method.fit(RAW.sum(0))
    assert method.kl_divergence(p, q) == pytest.approx(0.519860, abs=1e-6)
    assert method.kl_reduction(p, q, method.fit(RAW[rows].sum(0))) == pytest.approx(expected, abs=1e-6)


def test_fitting_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no n-gram"):
        method.fit(np.zeros(3, np.int64))


matrices = st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4), min_size=1, max_size=6)


@given(matrices, st.floats(0, 10))
def test_distributions_sum_to_one(rows: list[list[int]], smoothing: float) -> None:
    counts = np.array(rows).sum(0) + [1, 0, 0, 0]
    assert method.fit(counts, smoothing).sum() == pytest.approx(1)


@given(matrices)
def test_a_target_like_the_pool_gives_no_weight(rows: list[list[int]]) -> None:
    counts = np.array(rows) + [1, 0, 0, 0]
    q = method.fit(counts.sum(0))
    assert log_weights(counts, method.fit(3 * counts.sum(0)), q).tolist() == pytest.approx([0] * len(rows))


@given(matrices, st.integers(2, 5))
def test_repeating_the_pool_leaves_weights(rows: list[list[int]], times: int) -> None:
    counts = np.array(rows) + [1, 0, 0, 0]
    p = method.fit(np.array([1, 2, 0, 5]))
    once = log_weights(counts, p, method.fit(counts.sum(0)))
    repeated = log_weights(counts, p, method.fit(times * counts.sum(0)))
    assert once.tolist() == pytest.approx(repeated.tolist())


def test_gumbel_keys_sample_without_replacement() -> None:
    draws = 400_000
    weights = np.broadcast_to(np.log([0.5, 0.3, 0.2]), (draws, 3))
    order = np.argsort(-method.gumbel_keys(weights, np.random.default_rng(0)), axis=1)[:, :2]
    counts = Counter(map(tuple, order.tolist()))
    expected = {(0, 1): 0.3, (0, 2): 0.2, (1, 0): 0.2143, (1, 2): 0.0857, (2, 0): 0.125, (2, 1): 0.075}
    assert {pair: count / draws for pair, count in counts.items()} == pytest.approx(expected, abs=0.002)


def test_temperature_goes_from_top_k_to_uniform() -> None:
    weights = np.random.default_rng(0).normal(size=200) * 50
    best = method.top_k(weights, 20).tolist()
    cold, hot = (method.gumbel_keys(weights, np.random.default_rng(1), tau) for tau in (1e-9, 1e12))
    assert method.top_k(cold, 20).tolist() == best
    noise = method.gumbel_keys(np.zeros(200), np.random.default_rng(1))
    assert method.top_k(hot, 20).tolist() == method.top_k(noise, 20).tolist()


@given(st.lists(st.integers(-3, 3)), st.data())
def test_top_k_is_the_head_of_a_stable_sort(values: list[int], data: st.DataObject) -> None:
    keys, count = np.array(values, float), data.draw(st.integers(0, len(values)))
    assert method.top_k(keys, count).tolist() == sorted(np.argsort(-keys, kind="stable")[:count].tolist())


def test_top_k_of_too_few_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot take 3 of 2"):
        method.top_k(np.zeros(2), 3)


def test_pareto_keys_keep_as_repeated_passes_do() -> None:
    scores, draws = np.array([0.0, 0.5, 0.9, 1.0]), 200_000
    keys = method.pareto_keys(np.broadcast_to(scores, (draws, 4)), np.random.default_rng(0))
    # Keys above -1 belong to documents that the first pass keeps.
    assert (keys > -1).mean(0).tolist() == pytest.approx([0.002, 0.026, 0.424, 1], abs=0.002)
    noise = np.random.default_rng(1).pareto(9, size=(draws, 4))
    assert (noise > 1 - scores).mean(0).tolist() == pytest.approx((keys > -1).mean(0).tolist(), abs=0.003)


def test_length_normalized_weights_are_per_ngram() -> None:
    weights = method.length_normalize(np.array([6.0, 0.0]), np.array([2, 0]), 2)
    assert weights.tolist() == [2.0, 0.0]


def test_ngrams_of_a_document_follow_from_its_words() -> None:
    lengths = np.array([0, 1, 2, 5])
    assert method.ngrams_in(lengths, 1).tolist() == [0, 1, 2, 5]
    assert method.ngrams_in(lengths, 2).tolist() == [0, 1, 3, 9]
    rows = sparse_counts(NgramHasher(50).occurrences([["a"] * length for length in lengths]), 50)
    assert rows.sum(1).ravel().tolist()[0] == [0, 1, 3, 9]


STOP = frozenset({"the", "of"})


@pytest.mark.parametrize(
    ("words", "good"),
    [
        (["the", "of", "a1", "b1", "."] * 10, False),  # one word in five is not below 0.2
        (["the", "of", "a1", "b1", ".", "c1"] * 10, True),
        (["the", "of", "a1", "b1", ".", "c1"] * 6, False),  # 36 words
        (["the", "of", "a1", "b1", ".", "c1"] * 84, False),  # 504 words
        (["the", "of", ".", ",", ";", ":", "a1"] * 10, False),  # too little content
        ([f"w{i}" for i in range(60)], False),  # no word repeats enough
        (["the", "of", "1", "2", "3", "a1", "b1"] * 10, False),  # too many digits
    ],
)
def test_quality_filter(words: list[str], good: bool) -> None:
    assert method.passes_quality(words, STOP) is good


def test_classifier_tells_the_target_from_the_pool() -> None:
    rng = np.random.default_rng(0)
    target, raw = rng.poisson([3, 3, 1, 1], (200, 4)), rng.poisson([1, 1, 3, 3], (200, 4))
    model = train_classifier(csr_matrix(target), csr_matrix(raw), seed=0)
    assert model.probabilities(csr_matrix([[9, 9, 0, 0]]))[0] > 0.9
    assert model.probabilities(csr_matrix([[0, 0, 9, 9]]))[0] < 0.1
    again = train_classifier(csr_matrix(target), csr_matrix(raw), seed=0)
    assert again.fingerprint() == model.fingerprint()
    assert model.fingerprint() != TargetClassifier(model.coefficients, 0.0).fingerprint()


def test_classifier_scores_occurrences() -> None:
    occurrences = NgramHasher(8).occurrences([["a", "b"], ["c"], []])
    model = TargetClassifier(np.arange(8.0), 0.5)
    assert model.scores(occurrences).tolist() == model.probabilities(sparse_counts(occurrences, 8)).tolist()
    assert model.scores(occurrences)[2] == pytest.approx(1 / (1 + np.exp(-0.5)))
