"""TILDEv2 by hand: scores, losses, likelihoods, expansions, the index and its file."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from recipes.retrieval.tildev2.index import TermIndex, largest_weights, query_terms
from recipes.retrieval.tildev2.method import (
    expand,
    likelihood_losses,
    likely_terms,
    log_likelihoods,
    missing_terms,
    score_matrix,
    term_sets,
)
from recipes.retrieval.tildev2.terms import TermLoss

CLS, SEP = 101, 102
IDS, WEIGHTS = [CLS, 7, 9, 7, 5, SEP], [0.9, 0.5, 1.2, 0.8, 0.3, 0.2]
STOP = frozenset({CLS, SEP})


def score(query: list[int], ids: list[int], weights: list[float]) -> float:
    ones = torch.ones(1, len(query), dtype=torch.float64)
    passage = torch.tensor([ids]), torch.tensor([weights], dtype=torch.float64)
    return float(score_matrix(torch.tensor([query]), ones, *passage))


def brute_force(query: list[int], ids: list[int], weights: list[float]) -> float:
    return sum(max((w for t, w in zip(ids, weights, strict=True) if t == each), default=0.0) for each in query)


def index_of(*passages: tuple[list[int], list[float]]) -> TermIndex:
    return TermIndex.build([(ids, np.array(weights)) for ids, weights in passages], STOP)


def test_the_worked_example() -> None:
    assert score([7, 5, 7, 4], IDS, WEIGHTS) == pytest.approx(1.9)
    index = index_of((IDS, WEIGHTS))
    assert index.of(0) == pytest.approx({7: 0.8, 9: 1.2, 5: 0.3}, rel=1e-3)
    terms, counts = query_terms([7, 5, 7, 4], STOP)
    assert terms.tolist() == [4, 5, 7] and counts.tolist() == [1, 1, 2]
    assert index.scores(terms, counts, np.array([0])) == pytest.approx([1.9], rel=1e-3)


def test_the_worked_loss() -> None:
    loss, ids = TermLoss(torch.zeros(2, dtype=torch.bool), queries=False), torch.tensor([[0, 1], [0, 1]])
    encoded = {"query_ids": torch.tensor([[0], [1]]), "counted": torch.ones(2, 1), "passage_ids": ids}
    encoded |= {"weights": torch.tensor([[1.9, 0.2], [0.4, 0.7]])}
    assert loss.scores(encoded).equal(torch.tensor([[1.9, 0.4], [0.2, 0.7]]))
    losses, metrics = loss.losses(encoded, torch.tensor([0, 1]), torch.zeros(2, 2, dtype=torch.bool))
    assert metrics["accuracy"].tolist() == [1, 1] and losses.tolist() == pytest.approx([0.201413, 0.474077], abs=1e-6)
    assert float(losses.mean()) == pytest.approx(0.337745, abs=1e-6)
    alone = torch.tensor([[False, True], [False, False]])
    losses, _ = loss.losses(encoded, torch.tensor([0, 1]), alone)
    assert losses.tolist() == pytest.approx([0, 0.474077], abs=1e-6)


def test_the_worked_likelihoods() -> None:
    x, y = torch.tensor([[2, -1, 0.5, 9]]), torch.tensor([[1, 0, -2, 9.0]])
    stop = torch.tensor([False, False, False, True])
    query, passage = (term_sets(torch.tensor([ids]), 4, stop) for ids in ([0, 2, 3], [0, 1, 3]))
    assert query.tolist() == [[1, 0, 1, 0]] and passage.tolist() == [[1, 1, 0, 0]]
    assert float(likelihood_losses(x, y, query, passage, ~stop)) == pytest.approx((0.9143 + 1.1333) / 6, abs=5e-5)
    assert float(log_likelihoods(x)[0, [0, 2]].sum()) == pytest.approx(-0.26101, abs=1e-5)


def test_large_logits_have_a_finite_loss() -> None:
    logits, sets = torch.tensor([[500.0, -500.0]]), torch.tensor([[0.0, 1.0]])
    assert float(likelihood_losses(logits, logits, sets, sets, torch.tensor([True, True]))) == pytest.approx(500.0)


passages = st.lists(st.tuples(st.integers(0, 6), st.floats(0, 4)), min_size=1, max_size=9)
queries = st.lists(st.integers(0, 8), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(queries=st.lists(queries, min_size=1, max_size=3), rows=st.lists(passages, min_size=1, max_size=3))
def test_scores_equal_brute_force(queries: list[list[int]], rows: list[list[tuple[int, float]]]) -> None:
    width, longest = max(map(len, queries)), max(map(len, rows))
    ids = torch.tensor([[*query, *[0] * (width - len(query))] for query in queries])
    ones = torch.tensor([[1.0] * len(query) + [0.0] * (width - len(query)) for query in queries], dtype=torch.float64)
    padded = [[*row, *[(0, 0.0)] * (longest - len(row))] for row in rows]
    scores = score_matrix(ids, ones, *(torch.tensor([[pair[i] for pair in row] for row in padded]) for i in (0,)),
                          torch.tensor([[pair[1] for pair in row] for row in padded], dtype=torch.float64))  # fmt: skip
    expected = [[brute_force(query, *map(list, zip(*row, strict=True))) for row in rows] for query in queries]
    assert torch.allclose(scores, torch.tensor(expected, dtype=torch.float64))


@settings(max_examples=60, deadline=None)
@given(query=queries, row=passages, rng=st.randoms(use_true_random=False))
def test_what_does_not_matter_and_what_never_helps(query: list[int], row: list[tuple[int, float]], rng: object) -> None:
    ids, weights = [term for term, _ in row], [weight for _, weight in row]
    value = score(query, ids, weights)
    assert value >= 0 and score(query[::-1], ids, weights) == pytest.approx(value)
    assert score(query, [*ids, ids[0]], [*weights, weights[0] / 2]) == pytest.approx(value)
    assert score(query[1:] or [99], ids, weights) <= value + 1e-12
    ones = [1.0] * len(ids)
    assert score(query, ids, ones) == sum(term in ids for term in query)
    index = index_of((ids, weights))
    terms, counts = query_terms(query, STOP)
    assert index.scores(terms, counts, np.array([0]))[0] == pytest.approx(value, rel=1e-3, abs=1e-6)


def test_gradients_of_scores() -> None:
    torch.manual_seed(0)
    query_ids, passage_ids = torch.randint(5, (2, 4)), torch.randint(7, (3, 6))
    weights = (torch.rand(3, 6, dtype=torch.float64) + torch.arange(6) / 100).requires_grad_()
    query_weights = torch.rand(2, 4, dtype=torch.float64).requires_grad_()
    targets = torch.tensor([0, 2])

    def loss(v: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return cross_entropy(score_matrix(query_ids, v, passage_ids, w), targets, reduction="sum")

    assert torch.autograd.gradcheck(loss, (query_weights, weights))
    logits = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    sets, valid = torch.randint(2, (2, 5)).double(), torch.tensor([True] * 4 + [False])
    assert torch.autograd.gradcheck(lambda x: likelihood_losses(x, x, sets, sets, valid).sum(), (logits,))


def test_expansions_lack_nothing_of_the_passage() -> None:
    logits = torch.tensor([[0.1, 3.0, 2.0, 2.0, -1.0, 0.5]])
    likely = likely_terms(logits, 4)[0].tolist()
    assert likely == [1, 2, 3, 5]  # of equal ones the first
    terms = missing_terms(likely, [3, 4], frozenset({1}))
    assert terms == [2, 5]
    assert expand([3, 4], terms, 4) == [3, 4, 2, 5] and expand([3, 4], terms, 3) == [3, 4, 2]
    assert expand([3, 4], missing_terms(likely[:0], [3, 4], frozenset()), 9) == [3, 4]


def test_an_index_of_several_passages(tmp_path: Path) -> None:
    index = index_of((IDS, WEIGHTS), ([CLS, SEP], [1, 1]), ([CLS, 5, 40_000, SEP], [1, 2, 0.5, 1]), ([9], [0.0]))
    assert len(index) == 4 and index.starts.tolist() == [0, 3, 3, 5, 5] and index.nbytes == 5 * 8 + 5 * 6
    terms, counts = query_terms([5, 40_000, 9, 9, 77], STOP)
    assert index.scores(terms, counts, np.array([2, 1, 0])) == pytest.approx([2.5, 0, 2.7], rel=1e-3)
    ranking = index.search(terms, counts, 10)
    assert ranking.passages.tolist() == [0, 2] and ranking.scores == pytest.approx([2.7, 2.5], rel=1e-3)
    assert index.search(terms, counts, 1).passages.tolist() == [0]
    index.save(tmp_path / "index.npz", ["a", "b", "c", "d"])
    again = TermIndex.load(tmp_path / "index.npz")
    assert again.of(2) == index.of(2) and again.terms.dtype == np.int32 and again.weights.dtype == np.float16
    assert np.load(tmp_path / "index.npz", allow_pickle=False)["ids"].tolist() == ["a", "b", "c", "d"]


def test_a_byte_a_weight() -> None:
    index = index_of((IDS, WEIGHTS), ([3, 4], [2.4, 0.003]))
    small = index.quantise()
    # The largest weight stands once, in another passage than the repeated terms: it decides the scale all the same.
    assert small.scale == pytest.approx(2.4 / 255, rel=1e-3) and small.weights.max() == 255
    for passage in range(2):
        for term, weight in index.of(passage).items():
            assert abs(small.of(passage)[term] - weight) <= small.scale / 2 + 1e-6
    assert small.quantise() is small and small.nbytes < index.nbytes
    empty = index_of(([CLS], [1.0])).quantise()
    assert len(empty.terms) == 0 and empty.scores(np.array([7]), np.array([1]), np.array([0])).tolist() == [0]


def test_a_query_of_stop_words_scores_nothing() -> None:
    terms, counts = query_terms([CLS, SEP], STOP)
    index = index_of((IDS, WEIGHTS))
    assert index.scores(terms, counts, np.array([0, 0])).tolist() == [0, 0] and not len(index.search(terms, counts, 5))


def test_the_largest_weight_of_each_term() -> None:
    ids, weights = largest_weights(np.array([5, 3, 5]), np.array([1.0, 2.0, 4.0], np.float32))
    assert ids.tolist() == [3, 5] and weights.tolist() == [2, 4] and math.isfinite(weights.sum())
