"""Weight helpers: invariants of section 5 of the PRIOR notes, for any weights and any padding."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recipes.core.losses.weights import (
    apply_cap,
    apply_floor,
    normalize_mean_one,
    permute_within,
    sequence_means,
)

captions = st.lists(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=8), min_size=1, max_size=5)


def pad(rows: list[list[float]], extra: int = 2) -> tuple[Tensor, Tensor]:
    """Weights with NaN as padding, so that anything that reads padding shows."""
    width = max(len(row) for row in rows) + extra
    weights = torch.tensor([row + [float("nan")] * (width - len(row)) for row in rows])
    return weights, ~weights.isnan()


@given(captions)
def test_mean_is_one_and_padding_is_exactly_zero(rows: list[list[float]]) -> None:
    weights, mask = pad(rows)
    normalized = normalize_mean_one(weights, mask)
    torch.testing.assert_close(sequence_means(normalized, mask), torch.ones(len(rows)), atol=1e-5, rtol=0)
    assert (normalized[~mask] == 0).all() and (normalized >= 0).all()


@given(captions, st.floats(0, 1), st.floats(1, 4))
def test_floor_and_cap_keep_the_mean_and_their_bounds(rows: list[list[float]], floor: float, cap: float) -> None:
    weights, mask = pad(rows)
    normalized = normalize_mean_one(weights, mask)
    floored, capped = apply_floor(normalized, mask, floor), apply_cap(normalized, mask, cap)
    for changed in (floored, capped):
        torch.testing.assert_close(sequence_means(changed, mask), torch.ones(len(rows)), atol=1e-5, rtol=0)
        assert (changed[~mask] == 0).all()
    assert (floored[mask] >= floor - 1e-6).all()
    assert (capped.amax(1) <= normalized.amax(1) + 1e-5).all()


def test_floor_and_cap_by_hand() -> None:
    weights, mask = torch.tensor([[0.0, 1.0, 3.0, 0.0]]), torch.tensor([[True, True, True, True]])
    torch.testing.assert_close(apply_floor(weights, mask, 0.3), torch.tensor([[0.3, 1.0, 2.4, 0.3]]))
    torch.testing.assert_close(apply_cap(weights, mask, 2.0), torch.tensor([[0.0, 4 / 3, 8 / 3, 0.0]]))
    torch.testing.assert_close(apply_floor(weights, mask, 1.0), torch.ones(1, 4))


@pytest.mark.parametrize("size", [0.0, 9e-7])
def test_vanishing_weights_fall_back_to_uniform(size: float) -> None:
    mask = torch.tensor([[True, True, True, False]])
    assert normalize_mean_one(torch.full((1, 4), size), mask).tolist() == [[1, 1, 1, 0]]


def test_small_weights_above_the_threshold_do_not_fall_back() -> None:
    weights = torch.tensor([[3e-6, 1e-6]])
    torch.testing.assert_close(normalize_mean_one(weights, weights > 0), torch.tensor([[1.5, 0.5]]))


def test_a_caption_without_tokens_stays_zero() -> None:
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    assert not normalize_mean_one(torch.ones(1, 3), nothing).any()


@given(st.floats(2**-10, 1, width=32))
def test_a_single_token_has_weight_one(weight: float) -> None:
    assert normalize_mean_one(torch.tensor([[weight, 0.0]]), torch.tensor([[True, False]])).tolist() == [[1, 0]]


@given(captions, st.integers(0, 2**31))
def test_permutation_keeps_the_multiset(rows: list[list[float]], seed: int) -> None:
    weights, mask = pad(rows)
    shuffled = permute_within(weights, mask, seed, range(len(rows)))
    for row, kept, got in zip(rows, mask, shuffled, strict=True):
        assert sorted(got[kept].tolist()) == sorted(row)
        assert not got[~kept].any()


def test_permutation_depends_on_seed_and_example_only() -> None:
    rows = [[float(i) for i in range(1, 21)]] * 3
    weights, mask = pad(rows)
    names = ["a", "b", "c"]
    state = torch.get_rng_state()
    shuffled = permute_within(weights, mask, 0, names)
    assert torch.equal(state, torch.get_rng_state())
    alone = permute_within(*pad([rows[1]], extra=9), 0, ["b"])
    assert torch.equal(shuffled[1, :20], alone[0, :20])
    assert not torch.equal(shuffled[0], shuffled[1])
    assert not torch.equal(shuffled, permute_within(weights, mask, 1, names))
    assert not torch.equal(shuffled[0, :20], weights[0, :20])


def test_permutation_reaches_every_order_about_equally() -> None:
    weights, mask = torch.tensor([[1.0, 2.0, 3.0]]), torch.ones(1, 3, dtype=torch.bool)
    orders = [tuple(permute_within(weights, mask, 0, [i])[0].tolist()) for i in range(1200)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6 and min(counts) > 140 and max(counts) < 260
