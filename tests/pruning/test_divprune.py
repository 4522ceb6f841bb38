"""DivPrune against the algorithm written out, brute force and the properties of the paper."""

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recipes.pruning.options import DivPruneOptions
from recipes.pruning.pruners import make
from recipes.pruning.pruners.divprune import BLOCK, distances, diverse
from recipes.pruning.tokens import Tokens

ANGLES = (0, 10, 25, 60, 95, 100)
seeds = st.integers(0, 10_000)


def circle() -> Tensor:
    angle = torch.tensor(ANGLES, dtype=torch.float64) * math.pi / 180
    return torch.stack([angle.cos(), angle.sin()], 1)


def picked(x: Tensor, count: int, **rules: object) -> list[int]:
    valid = torch.ones(1, len(x), dtype=torch.bool)
    return diverse(x[None], valid, torch.tensor([count]), **rules)[0].tolist()  # type: ignore[arg-type]


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(i * j for i, j in zip(a, b, strict=True))
    return 1 - dot / math.sqrt(sum(i * i for i in a) * sum(j * j for j in b))


def naive(x: Tensor, count: int) -> list[int]:
    """The algorithm as it is told, re-reading every selected row in each step."""
    rows = x.tolist()
    table = [[cosine(a, b) for b in rows] for a in rows]
    everyone = range(len(rows))
    chosen = [max(everyone, key=lambda i: min(table[i][j] for j in everyone if j != i))]
    while len(chosen) < count:
        left = [i for i in everyone if i not in chosen]
        chosen.append(max(left, key=lambda i: min(table[i][j] for j in chosen)))
    return chosen


def spread(table: Tensor, chosen: list[int]) -> float:
    return min(float(table[i, j]) for i, j in combinations(chosen, 2))


def test_worked_example():
    table = distances(circle()[None])[0]
    table.fill_diagonal_(math.inf)
    nearest = table.amin(1)
    expected = torch.tensor([0.0152, 0.0152, 0.0341, 0.1808, 0.0038, 0.0038], dtype=torch.float64)
    torch.testing.assert_close(nearest, expected, atol=5e-5, rtol=0)
    for count, order, least in ((2, [3, 0], 0.5), (3, [3, 0, 5], 0.2340), (4, [3, 0, 5, 2], 0.0937)):
        assert picked(circle(), count) == order
        assert spread(table, order) == pytest.approx(least, abs=5e-5)
    best = max(combinations(range(6), 2), key=lambda pair: spread(table, list(pair)))
    assert best == (0, 5) and spread(table, [0, 5]) == pytest.approx(1.1736, abs=5e-5)
    sorted_ = make(DivPruneOptions())(Tokens.of(circle()[None], 4), {})
    assert sorted_.indices.tolist() == [[0, 2, 3, 5]]
    assert make(DivPruneOptions(sort=False))(Tokens.of(circle()[None], 4), {}).indices.tolist() == [[3, 0, 5, 2]]


def test_equals_the_naive_loop_on_a_thousand_sets():
    for seed in range(1000):
        draw = torch.Generator().manual_seed(seed)
        size = int(torch.randint(2, 14, (), generator=draw))
        x = torch.randn(size, 4, generator=draw, dtype=torch.float64)
        count = 1 + seed % size
        assert picked(x, count) == naive(x, count), seed


@given(seed=seeds, size=st.integers(4, 10), share=st.floats(0.2, 0.9))
def test_at_least_half_the_best_smallest_angle(seed: int, size: int, share: float):
    x = torch.randn(size, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    count = max(2, round(share * size))
    table = distances(x[None])[0].clamp(0, 2)
    angles = (1 - table).clamp(-1, 1).arccos()
    best = max(spread(angles, list(each)) for each in combinations(range(size), count))
    for rule in ("max_nn", "farthest_pair", "max_norm"):
        assert spread(angles, picked(x, count, seed_rule=rule)) >= best / 2 - 1e-9


@given(seed=seeds, count=st.integers(1, 12))
def test_never_picks_twice_not_even_of_equal_tokens(seed: int, count: int):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 4, generator=draw)[torch.randint(0, 3, (12,), generator=draw)]
    picks = picked(x, count)
    assert len(set(picks)) == count


def test_one_of_each_group_of_equal_tokens():
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    picks = picked(x.repeat(3, 1), 4)
    assert sorted(each % 4 for each in picks) == [0, 1, 2, 3]


@given(seed=seeds)
def test_scaling_tokens_changes_nothing(seed: int):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(12, 5, generator=draw, dtype=torch.float64)
    scale = torch.rand(12, 1, generator=draw, dtype=torch.float64) + 0.5
    assert picked(x, 6) == picked(scale * x, 6)


@given(seed=seeds)
def test_follows_a_permutation(seed: int):
    draw = torch.Generator().manual_seed(seed)
    x, order = torch.randn(12, 5, generator=draw, dtype=torch.float64), torch.randperm(12, generator=draw)
    # Of max_nn, mutual nearest neighbours tie, and the earlier one wins: not a property of the set.
    assert [int(order[i]) for i in picked(x[order], 6, seed_rule="max_norm")] == picked(x, 6, seed_rule="max_norm")
    first, same = picked(x, 2), [int(order[i]) for i in picked(x[order], 1)]
    table = distances(x[None])[0].fill_diagonal_(math.inf)
    assert float(table[same[0]].min()) == pytest.approx(float(table[first[0]].min()))


@given(seed=seeds)
def test_smallest_distance_falls_with_the_number_kept(seed: int):
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    table, order = distances(x[None])[0], picked(x, 12)
    # Of the greedy part: the pair that starts it need not be the farthest.
    least = [spread(table, order[:count]) for count in range(2, 13)]
    assert all(b <= a + 1e-12 for a, b in zip(least, least[1:], strict=False))


def test_more_diverse_than_random_sets():
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(60, 6, generator=draw, dtype=torch.float64)
    table = distances(x[None])[0]
    drawn = [spread(table, torch.randperm(60, generator=draw)[:8].tolist()) for _ in range(50)]
    assert spread(table, picked(x, 8)) > max(drawn)


def test_seed_rules():
    x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 3.0], [-1.0, 0.1]], dtype=torch.float64)
    assert picked(x, 1, seed_rule="max_nn") == [3]
    assert picked(x, 2, seed_rule="farthest_pair") == [0, 3]
    assert picked(x, 1, seed_rule="max_norm") == [2]
    assert picked(x, 1, seed_rule="random", draws=torch.tensor([[0.1, 0.9, 0.3, 0.2]])) == [1]


def test_metrics():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 1.0]], dtype=torch.float64)
    assert distances(x[None], "l2")[0, 0].tolist() == pytest.approx([0, 5, math.sqrt(2)])
    assert distances(x[None], "l1")[0, 0].tolist() == pytest.approx([0, 7, 2])


def test_a_token_of_norm_zero_is_at_distance_one_of_all():
    table = distances(torch.tensor([[[0.0, 0.0], [1.0, 2.0], [-3.0, 1.0]]]))
    assert table[0, 0, 1:].tolist() == [1, 1]


def test_importance_prefers_long_tokens():
    x = circle() * torch.tensor([1, 1, 9, 1, 1, 1])[:, None]
    assert picked(x, 2) == [3, 0] and picked(x, 2, importance_alpha=0.9) == [3, 2]


def test_newlines_are_kept_and_counted():
    newline = torch.tensor([[False, True, False, False, True, False]])
    chosen = make(DivPruneOptions(protect_newline=True))(Tokens.of(circle()[None], 4, newline=newline), {})
    kept = chosen.indices[0].tolist()
    assert {1, 4} <= set(kept) and len(kept) == 4
    assert make(DivPruneOptions(protect_newline=True))(Tokens.of(circle()[None], 1, newline=newline), {}).count == 1


def test_blocks_of_a_large_matrix_equal_the_whole():
    x = torch.randn(1, 2 * BLOCK + 37, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    unit = x / x.norm(dim=2, keepdim=True)
    torch.testing.assert_close(distances(x), 1 - unit @ unit.mT)


def test_budget_zero_keeps_nothing():
    assert make(DivPruneOptions())(Tokens.of(circle()[None], 0), {}).indices.shape == (1, 0)
