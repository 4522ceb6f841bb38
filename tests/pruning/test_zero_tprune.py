"""Zero-TPrune's votes, aggregation and doubles."""

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recipes.pruning.options import ZeroTPruneOptions
from recipes.pruning.pruners import make
from recipes.pruning.pruners.zero_tprune import aggregate, attention_graph, first_votes, similar_doubles, vote
from recipes.pruning.tokens import Point, Tokens
from tests.pruning.toy import batch, walk

GRAPH = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.4, 0.4, 0.2]], dtype=torch.float64)[None, None]
EVEN = torch.full((1, 3), 1 / 3, dtype=torch.float64)
seeds = st.integers(0, 10_000)


def drawn_graph(seed: int, size: int = 6) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(1, 2, size, size, generator=draw, dtype=torch.float64).softmax(3)


@pytest.mark.parametrize(
    "times, expected",
    [
        (1, (0.3333, 0.5, 0.1667)),
        (2, (0.2833, 0.5667, 0.15)),
        (3, (0.2583, 0.5983, 0.1433)),
        (60, (0.2353, 0.6275, 0.1373)),
    ],
)
def test_worked_votes(times: int, expected: tuple[float, ...]):
    assert vote(GRAPH, EVEN, times)[0, 0].tolist() == pytest.approx(expected, abs=5e-5)


@given(seed=seeds)
def test_votes_keep_their_sum_and_reach_the_eigenvector(seed: int):
    graph = drawn_graph(seed)
    starts = [torch.rand(1, 6, generator=torch.Generator().manual_seed(seed + k), dtype=torch.float64) for k in (1, 2)]
    ends = [vote(graph, start / start.sum(), 80) for start in starts]
    torch.testing.assert_close(ends[0].sum(2), torch.ones(1, 2, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(ends[0], ends[1], atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.einsum("bhij,bhi->bhj", graph, ends[0]), ends[0], atol=1e-4, rtol=0)


def test_doubly_stochastic_graphs_give_even_scores_and_one_vote_column_means():
    cyclic = torch.tensor([[0.2, 0.5, 0.3], [0.3, 0.2, 0.5], [0.5, 0.3, 0.2]], dtype=torch.float64)[None, None]
    start = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64)
    torch.testing.assert_close(vote(cyclic, start, 60)[0], EVEN)
    torch.testing.assert_close(vote(GRAPH, EVEN, 1)[0, 0], GRAPH[0, 0].mean(0))


def test_votes_stop_once_they_stand_still():
    stopped, full = vote(GRAPH, EVEN, 100, eps=1e-2), vote(GRAPH, EVEN, 100)
    assert 1e-4 < float((stopped - full).abs().sum()) < 5e-2


def test_first_vote_of_cls():
    alive = torch.ones(1, 8, dtype=torch.bool)
    start = first_votes(alive, 1)
    assert float(start.sum()) == pytest.approx(1) and float(start[0, 0] / start[0, 1]) == pytest.approx(3)
    assert first_votes(alive, 1, "uniform").tolist()[0] == pytest.approx([1 / 9] * 9)


def test_graph_of_survivors_is_normalised_and_tau_divides_logits():
    logits = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alive = torch.tensor([[True, False, True]])
    graph = attention_graph(logits.softmax(3), alive)
    keep = [0, 1, 3]
    torch.testing.assert_close(graph[0, 0][keep][:, keep], logits[0, 0][keep][:, keep].softmax(1))
    assert float(graph[0, 0, 2].abs().sum() + graph[0, 0, :, 2].abs().sum()) == 0
    everyone = torch.ones(1, 4, dtype=torch.bool)
    torch.testing.assert_close(attention_graph(logits.softmax(3), everyone, 0.5), (logits / 0.5).softmax(3))


def test_worked_aggregation():
    heads = torch.tensor([[[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [1 / 3] * 3]], dtype=torch.float64)
    alive = torch.ones(1, 3, dtype=torch.bool)
    assert aggregate(heads, alive)[0].tolist() == pytest.approx([0.5385, 0.3162, 0.2236], abs=5e-5)
    assert aggregate(heads, alive, variance=None)[0].tolist() == pytest.approx([0.4800, 0.3220, 0.2653], abs=5e-5)
    assert aggregate(heads, alive, "max", None)[0].tolist() == pytest.approx([0.7, 0.4, 1 / 3])
    assert aggregate(heads, alive, "mean")[0].tolist() == pytest.approx([0.5, 0.3, 0.2])
    # A range that rejects every head rejects none.
    torch.testing.assert_close(aggregate(heads, alive, variance=(5, 6)), aggregate(heads, alive, variance=None))


IMPORTANCE = torch.tensor([[0.30, 0.05, 0.20, 0.10, 0.25, 0.08]], dtype=torch.float64)
ANGLES = torch.tensor([0, 5, 40, 42, 90, 3], dtype=torch.float64) * math.pi / 180
KEYS = torch.stack([ANGLES.cos(), ANGLES.sin()], 1)[None]
ALL = torch.ones(1, 6, dtype=torch.bool)


def removed(count: int, **rules: object) -> list[int]:
    mask = similar_doubles(KEYS, IMPORTANCE, ALL, torch.tensor([count]), **rules)  # type: ignore[arg-type]
    return mask[0].nonzero().squeeze(1).tolist()


def test_worked_doubles():
    assert (KEYS[0, 1] @ KEYS[0, 0]).item() == pytest.approx(0.99619, abs=5e-6)
    assert (KEYS[0, 5] @ KEYS[0, 0]).item() == pytest.approx(0.99863, abs=5e-6)
    assert (KEYS[0, 3] @ KEYS[0, 2]).item() == pytest.approx(0.99939, abs=5e-6)
    assert removed(2) == [3, 5]
    assert removed(1) == [3]
    assert removed(9) == [1, 3, 5]  # no more than group A


@pytest.mark.parametrize(
    "partition, group",
    [("seq_u", {1, 3, 5}), ("seq_i", {0, 2, 4}), ("alternate", {1, 3, 4}), ("none", {1, 2, 3, 4, 5})],
)
def test_partitions(partition: str, group: set[int]):
    assert set(removed(6, partition=partition)) == group


def test_random_partition_follows_the_draws():
    draws = torch.tensor([[0.9, 0.1, 0.8, 0.2, 0.7, 0.3]])
    assert set(removed(6, partition="random", draws=draws)) == {0, 2, 4}


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2", "l1"])
def test_metrics_find_the_nearest(metric: str):
    assert removed(1, metric=metric) == [3]


@given(seed=seeds, size=st.integers(2, 10), count=st.integers(0, 5))
def test_doubles_equal_an_exhaustive_search(seed: int, size: int, count: int):
    draw = torch.Generator().manual_seed(seed)
    keys = torch.randn(1, size, 3, generator=draw, dtype=torch.float64)
    score = torch.rand(1, size, generator=draw, dtype=torch.float64)
    alive = torch.ones(1, size, dtype=torch.bool)
    doubles = similar_doubles(keys, score, alive, torch.tensor([count]))[0].nonzero().squeeze(1).tolist()
    order = sorted(range(size), key=lambda i: float(score[0, i]))
    group, rest = order[: size // 2], order[size // 2 :]
    unit = keys[0] / keys[0].norm(dim=1, keepdim=True)
    best = {a: max(float(unit[a] @ unit[b]) for b in rest) for a in group}
    count = min(count, len(group))
    wanted = max(combinations(group, count), key=lambda each: sum(best[a] for a in each))
    assert sorted(wanted) == doubles
    assert not set(doubles) & set(rest)


def test_of_two_equal_keys_the_less_important_goes():
    keys = torch.tensor([[1.0, 0], [0, 1], [0, 1], [-1, 0]], dtype=torch.float64)[None]
    score = torch.tensor([[0.3, 0.4, 0.2, 0.1]], dtype=torch.float64)
    gone = similar_doubles(keys, score, torch.ones(1, 4, dtype=torch.bool), torch.tensor([1]))
    assert gone.tolist() == [[False, False, True, False]]


def test_rates_are_shares_of_what_is_there():
    kept = walk(ZeroTPruneOptions(layers=(1, 3), rates=(0.7, 0.5)), batch([20], [1]))
    assert [int(each.valid.sum()) for each in kept] == [14, 7]


def test_budget_is_reached_in_equal_shares():
    kept = walk(ZeroTPruneOptions(layers=(0, 1, 2)), batch([64], [8]))
    assert [int(each.valid.sum()) for each in kept] == [32, 16, 8]


@given(seed=seeds)
def test_follows_a_permutation(seed: int):
    draw = torch.Generator().manual_seed(seed)
    attention, keys = drawn_graph(seed, 9), torch.randn(1, 2, 9, 3, generator=draw, dtype=torch.float64)
    order = torch.randperm(8, generator=draw)
    whole = torch.cat([torch.zeros(1, dtype=torch.long), order + 1])

    def kept(attention: Tensor, keys: Tensor) -> set[int]:
        place = {"point": Point("vit", 1), "layers": 6, "attention": attention, "keys": keys}
        tokens = Tokens.of(torch.zeros(1, 8, 2), 4, **place)
        return set(make(ZeroTPruneOptions(layers=(1,)))(tokens, {}).indices[0].tolist())

    moved = kept(attention[:, :, whole][:, :, :, whole], keys[:, :, whole])
    assert {int(order[each]) for each in moved} == kept(attention, keys)
