"""Scores from returned tokens: worked numbers, invariants, brute force, gradients."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from recipes.core.models.nearest import Nearest, nearest
from recipes.retrieval.encoders import TokenVectors
from recipes.retrieval.xtr.config import IMPUTATIONS, ObjectiveConfig, SearchConfig
from recipes.retrieval.xtr.method import (
    Scored,
    impute,
    retrieved_max,
    score_all,
    score_retrieved,
    similarities,
    sum_of_max,
)
from recipes.retrieval.xtr.model import PassageLoss
from recipes.retrieval.xtr.search import TokenIndex, _without_gaps, score, score_exhaustively, score_fully, searches
from recipes.retrieval.xtr.tokens import measure_tokens

# The specification's example: tokens of D1, D1, D2, D2, D3, and their similarities to two query tokens.
OWNERS = torch.tensor([0, 0, 1, 1, 2])
ROWS = torch.tensor([[0.9, 0.2, 0.8, 0.1, 0.7], [0.1, 0.3, 0.6, 0.5, 0.2]], dtype=torch.float64)
MASK = torch.tensor([[True, True], [True, True], [True, False]])
QUERY = torch.ones(1, 2, dtype=torch.bool)


def worked() -> torch.Tensor:
    """[1, 2, 3, 2] the same, with a padding token of D3 that nothing must return."""
    padded = torch.full((2, 6), 5.0, dtype=torch.float64)
    padded[:, :5] = ROWS
    return padded.view(1, 2, 3, 2)


@pytest.mark.parametrize(
    ("k", "scores", "loss"),
    [
        (1, [0.9, 0.6, 0.0], 0.764252),
        (2, [0.9, 0.7, 0.0], 0.799892),
        (3, [0.6, 0.7, 0.7], 1.166377),
        (5, [0.6, 0.7, 0.45], 1.087173),
        (6, [0.6, 0.7, 0.45], 1.087173),
    ],
)
def test_worked_training_scores(k: int, scores: list[float], loss: float) -> None:
    values = retrieved_max(worked(), QUERY, MASK, k)
    np.testing.assert_allclose(values[0], scores, atol=1e-12)
    assert float(cross_entropy(values, torch.tensor([0]))) == pytest.approx(loss, abs=1e-6)


def test_worked_loss_of_a_batch() -> None:
    """Passages are unit vectors, so that queries are the rows of similarities; what is left out is no negative."""
    passages = torch.zeros(3, 2, 5)
    passages.view(6, 5)[:5] = torch.eye(5)
    batch = {"query": ROWS[None].float(), "query_mask": QUERY.long(), "passage": passages, "passage_mask": MASK.long()}
    loss, nothing = PassageLoss(ObjectiveConfig(k_train=1, temperature=1.0)), torch.zeros(1, 3, dtype=torch.bool)
    losses, metrics = loss.losses(batch, torch.tensor([0]), nothing)
    assert losses.tolist() == pytest.approx([0.764252], abs=1e-6) and metrics["accuracy"].tolist() == [1]
    without_second = loss.losses(batch, torch.tensor([0]), torch.tensor([[False, True, False]]))[0]
    assert without_second.tolist() == pytest.approx([np.log(1 + np.exp(-0.9))], abs=1e-6)
    sharper = PassageLoss(ObjectiveConfig(train_score="colbert", temperature=0.5))
    by_all, metrics = sharper.losses(batch, torch.tensor([0]), nothing)
    expected = np.log(np.exp([1.2, 1.4, 0.9]).sum()) - 1.2
    assert by_all.tolist() == pytest.approx([expected], abs=1e-6) and metrics["accuracy"].tolist() == [0]


def test_worked_sum_of_max_and_the_other_divisor() -> None:
    np.testing.assert_allclose(sum_of_max(worked(), QUERY, MASK)[0], [0.6, 0.7, 0.45])
    np.testing.assert_allclose(retrieved_max(worked(), QUERY, MASK, 1, over_all=True)[0], [0.45, 0.3, 0.0])


def returned(k: int) -> tuple[torch.Tensor, torch.Tensor]:
    top = ROWS.topk(k, 1)
    return top.values, OWNERS[top.indices]


def by_passage(scored: Scored) -> dict[int, float]:
    return dict(zip(scored.passages.tolist(), np.round(scored.scores.numpy(), 9).tolist(), strict=True))


@pytest.mark.parametrize(
    ("k", "how", "scores"),
    [
        (2, "topk_min", {0: 0.7, 1: 0.7}),
        (2, "zero", {0: 0.45, 1: 0.7}),
        (2, "const", {0: 0.55, 1: 0.7}),
        (2, "none", {0: 0.9, 1: 0.7}),
        (3, "topk_min", {0: 0.6, 1: 0.7, 2: 0.5}),
        (3, "zero", {0: 0.6, 1: 0.7, 2: 0.35}),
        (5, "topk_min", {0: 0.6, 1: 0.7, 2: 0.45}),
    ],
)
def test_worked_inference(k: int, how: str, scores: dict[int, float]) -> None:
    values, owners = returned(k)
    scored = score_retrieved(values, owners, impute(values, how, 0.2))
    assert by_passage(scored) == pytest.approx(scores)
    if (k, how) == (2, "topk_min"):
        assert scored.tokens.tolist() == [1, 3]


def vectors(seed: int, texts: int, width: int = 8) -> TokenVectors:
    """Token vectors of texts of one to seven tokens."""
    rng = np.random.default_rng(seed)
    ends = np.cumsum(rng.integers(1, 8, texts))
    values = normalize(torch.from_numpy(rng.normal(size=(int(ends[-1]), width))), dim=1)
    return TokenVectors(values.numpy().astype(np.float32), ends)


def brute_force(query: np.ndarray, passages: TokenVectors, k: int, how: str) -> dict[int, float]:
    """The definition, one query token and passage at a time."""
    products, owners = query @ passages.values.T, passages.owners()
    scores = dict[int, float]()
    kept = [np.argsort(-row, kind="stable")[:k] for row in products]
    for passage in sorted({int(owners[place]) for places in kept for place in places}):
        values = []
        for row, places in zip(products, kept, strict=True):
            mine = [row[place] for place in places if owners[place] == passage]
            missing = {"topk_min": row[places[-1]], "zero": 0.0, "const": 0.2, "none": None}[how]
            values.append(max(mine) if mine else missing)
        counted = [value for value in values if value is not None]
        scores[passage] = float(np.mean(counted))
    return scores


@pytest.mark.parametrize(("seed", "k", "how"), itertools.product(range(3), (1, 4, 20), IMPUTATIONS))
def test_scores_are_those_of_the_definition(seed: int, k: int, how: str) -> None:
    passages, query = vectors(seed, 12), vectors(seed + 100, 1).values
    near = nearest(query, passages.values, k)
    owners = torch.from_numpy(passages.owners())[near.indices]
    scored = score_retrieved(near.scores, owners, impute(near.scores, how, 0.2))
    assert by_passage(scored) == pytest.approx(brute_force(query, passages, k, how), abs=1e-6)


def test_all_tokens_returned_is_the_sum_of_maxima() -> None:
    passages, query = vectors(0, 9), vectors(1, 1).values
    index = TokenIndex(passages)
    near = index.search(query, len(passages.values))
    scored = score_retrieved(near.scores, index.owners[near.indices], impute(near.scores, "topk_min"))
    full = score_all(torch.from_numpy(query), torch.from_numpy(passages.values), index.owners, 9)
    np.testing.assert_allclose(scored.scores, full, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_imputed_scores_are_upper_bounds_and_candidates_grow(seed: int) -> None:
    passages, query = vectors(seed, 20), vectors(seed + 50, 1).values
    index, before = TokenIndex(passages), set[int]()
    full = score_all(torch.from_numpy(query), torch.from_numpy(passages.values), index.owners, 20)
    for k in (1, 3, 10, 30):
        near = index.search(query, k)
        owners = index.owners[near.indices]
        scored = score_retrieved(near.scores, owners, impute(near.scores, "topk_min"))
        assert bool((scored.scores >= full[scored.passages] - 1e-6).all())
        if bool((near.scores[:, -1] >= 0).all()):
            zero = score_retrieved(near.scores, owners, impute(near.scores, "zero"))
            assert bool((zero.scores <= scored.scores + 1e-6).all())
        assert before <= set(scored.passages.tolist())
        before = set(scored.passages.tolist())


def test_identical_passages_tie() -> None:
    one = vectors(3, 1)
    both = TokenVectors(np.concatenate([one.values, one.values]), np.array([one.ends[0], 2 * one.ends[0]]))
    index = TokenIndex(both)
    near = index.search(vectors(4, 1).values, len(both.values))
    scored = score_retrieved(near.scores, index.owners[near.indices], impute(near.scores, "topk_min"))
    assert scored.scores[0] == pytest.approx(float(scored.scores[1]), abs=1e-7)


def batch(seed: int) -> tuple[Any, Any, Any, Any]:
    """Vectors of two queries and three passages in float64, with padding."""
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    passages = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    query_mask = torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    passage_mask = torch.arange(5) < torch.tensor([[5], [2], [4]])
    return queries, passages, query_mask, passage_mask


def test_as_many_tokens_as_there_are_give_sums_of_maxima_and_their_gradient() -> None:
    queries, passages, query_mask, passage_mask = batch(0)
    values = similarities(queries, passages)
    by_search, by_all = (
        retrieved_max(values, query_mask, passage_mask, 15),
        sum_of_max(values, query_mask, passage_mask),
    )
    torch.testing.assert_close(by_search, by_all)
    weights = torch.randn(2, 3, dtype=torch.float64)
    one = torch.autograd.grad((by_search * weights).sum(), (queries, passages), retain_graph=True)
    other = torch.autograd.grad((by_all * weights).sum(), (queries, passages))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("k", [1, 3, 15])
def test_padding_changes_nothing(k: int) -> None:
    queries, passages, query_mask, passage_mask = batch(1)
    before = retrieved_max(similarities(queries, passages), query_mask, passage_mask, k)
    wide = torch.cat([passages, torch.full((3, 4, 4), 9.0, dtype=torch.float64)], 1)
    more = torch.cat([passage_mask, torch.zeros(3, 4, dtype=torch.bool)], 1)
    long = torch.cat([queries, torch.full((2, 2, 4), 9.0, dtype=torch.float64)], 1)
    asked = torch.cat([query_mask, torch.zeros(2, 2, dtype=torch.bool)], 1)
    torch.testing.assert_close(retrieved_max(similarities(long, wide), asked, more, k), before)


def test_a_passage_without_a_returned_token_has_score_and_gradient_zero() -> None:
    values = worked().requires_grad_()
    scores = retrieved_max(values, QUERY, MASK, 2)
    scores[0, 2].backward()
    assert scores[0, 2].item() == 0 and values.grad is not None and float(values.grad.abs().sum()) == 0


@pytest.mark.parametrize("over_all", [False, True])
def test_gradients_of_the_training_score(over_all: bool) -> None:
    queries, passages, query_mask, passage_mask = batch(2)

    def score(queries: Any, passages: Any) -> Any:
        return retrieved_max(similarities(queries, passages), query_mask, passage_mask, 6, over_all)

    assert torch.autograd.gradcheck(score, (queries, passages))


def test_selected_similarities_below_zero_count_as_they_are() -> None:
    values = torch.tensor([[[[-0.2], [-0.5]]]])
    mask = torch.ones(2, 1, dtype=torch.bool)
    scores = retrieved_max(values, torch.ones(1, 1, dtype=torch.bool), mask, 2)
    np.testing.assert_allclose(scores, [[-0.2, -0.5]])


def test_tokens_of_passages_are_gathered_in_their_order() -> None:
    passages = vectors(9, 8)
    values, owners = TokenIndex(passages).gather([5, 0, 7])
    expected = [passages.of(5), passages.of(0), passages.of(7)]
    np.testing.assert_array_equal(values, np.concatenate(expected))
    assert owners.tolist() == np.repeat(range(3), [len(part) for part in expected]).tolist()


def test_candidates_and_all_passages_are_scored_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    passages, query = vectors(7, 15), vectors(8, 1).values
    index = TokenIndex(passages)
    whole = score_exhaustively(query, index)
    monkeypatch.setattr("recipes.retrieval.xtr.search.PART", 5)
    parts = score_exhaustively(query, index)
    assert whole.passages.tolist() == parts.passages.tolist()
    some = score_fully(query, index, torch.tensor([1, 4, 9]))
    scores = dict(zip(whole.passages.tolist(), whole.scores.tolist(), strict=True))
    assert [scores[p] for p in some.passages.tolist()] == pytest.approx(some.scores.tolist(), abs=1e-6)


def test_queries_are_searched_for_one_by_one_as_together(monkeypatch: pytest.MonkeyPatch) -> None:
    passages, queries = vectors(0, 10), vectors(1, 5)
    whole = list(searches(TokenIndex(passages), queries, 4))
    monkeypatch.setattr("recipes.retrieval.xtr.search.GROUP", 2)
    parts = list(searches(TokenIndex(passages), queries, 4))
    assert [len(near.scores) for near in whole] == np.diff(queries.ends, prepend=0).tolist()
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one.scores, other.scores)
        assert one.indices.equal(other.indices)


def test_one_search_gives_every_score_and_every_smaller_k() -> None:
    from recipes.core.search.collection import Queries

    passages, asked = vectors(0, 10), vectors(1, 2)
    queries = Queries(["a", "b"], ["a", "b"], [{3: 1}, {}])
    results = measure_tokens(SearchConfig(k_prime=3, sweep=(2, 9)), queries, asked, passages, "cpu")
    assert set(results.others) == {"k2/", "k9/", "full/", "zero/", "const/", "none/"}
    alone = measure_tokens(SearchConfig(k_prime=2, sweep=()), queries, asked, passages, "cpu")
    for one, other in zip(results.others["k2/"], alone.rankings, strict=True):
        assert one.passages.tolist() == other.passages.tolist()
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-6)


def test_neighbours_that_an_approximate_search_lacks_are_the_last_one_again() -> None:
    near = _without_gaps(np.array([[0.9, 0.5, -9.0], [0.4, -9.0, -9.0]]), np.array([[7, 3, -1], [2, -1, -1]]))
    assert near.indices.tolist() == [[7, 3, 3], [2, 2, 2]] and near.scores.tolist() == [[0.9, 0.5, 0.5], [0.4] * 3]


def test_a_neighbour_that_stands_for_others_counts_once() -> None:
    passages = TokenVectors(np.eye(4, dtype=np.float32), np.array([2, 4]))
    near = Nearest(torch.tensor([[0.9, 0.5, 0.5], [0.4, 0.4, 0.4]]), torch.tensor([[0, 3, 3], [1, 1, 1]]))
    scored = score(near, TokenIndex(passages), SearchConfig(k_prime=3, sweep=()))
    assert scored.passages.tolist() == [0, 1] and scored.tokens.tolist() == [2, 1]
    assert scored.scores.tolist() == pytest.approx([0.65, 0.45])


def test_inverted_lists_find_what_all_products_find_where_all_are_searched() -> None:
    pytest.importorskip("faiss")
    passages, query = vectors(0, 200), vectors(1, 1).values
    exact, lists = TokenIndex(passages).search(query, 9), TokenIndex(passages, probes=1000).search(query, 9)
    assert lists.indices.equal(exact.indices)
    torch.testing.assert_close(lists.scores, exact.scores)
    few = TokenIndex(passages, probes=1).search(query, 300)
    assert bool((few.indices >= 0).all()) and bool((few.scores.diff(dim=1) <= 0).all())
