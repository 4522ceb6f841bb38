"""Nearest neighbours in blocks are those of all scores at once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.core.errors import UserError
from recipes.core.models.nearest import nearest


def brute(scores: torch.Tensor, k: int) -> list[list[int]]:
    """By score, then by number."""
    return [sorted(range(len(row)), key=lambda i: (-row[i], i))[:k] for row in scores.tolist()]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.integers(1, 6), st.integers(1, 30), st.integers(1, 9), st.booleans())
def test_blocks_give_what_all_scores_give(seed: int, rows: int, count: int, block: int, excluded: bool) -> None:
    torch.manual_seed(seed)
    queries, keys = torch.randint(-1, 2, (rows, 3)), torch.randint(-1, 2, (count, 3))  # whole numbers: many are equal
    owners, groups = torch.randint(3, (rows,)), torch.randint(3, (count,))
    scores = (queries @ keys.T).float()
    if excluded:
        scores[owners[:, None] == groups] = -torch.inf
    k = max(1, min(4, int(scores.isfinite().sum(1).min())))
    if not (scores.isfinite().sum(1) >= k).all():
        return
    result = nearest(queries, keys, k, exclude=(owners, groups) if excluded else None, block=block)
    assert result.indices.tolist() == brute(scores, k)
    assert torch.equal(result.scores, scores.gather(1, result.indices))


def test_cosines_are_products_of_unit_vectors_and_those_of_zeros_are_zero() -> None:
    keys = torch.tensor([[0.0, 0.0], [10.0, 10.0], [0.0, 0.5], [-1.0, 0.0]])
    result = nearest(torch.tensor([[0.0, 2.0]]), keys, 4, cosine=True)
    assert result.indices.tolist() == [[2, 1, 0, 3]]
    torch.testing.assert_close(result.scores, torch.tensor([[1.0, 0.5**0.5, 0.0, 0.0]]))


def test_keys_come_in_blocks_from_memory_or_from_a_file(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    np.save(tmp_path / "keys.npy", rows)
    mapped = np.load(tmp_path / "keys.npy", mmap_mode="r")
    itself = np.arange(50)
    expected = nearest(rows, rows, 3, exclude=(itself, itself))
    assert not (expected.indices == torch.arange(50)[:, None]).any()
    for keys in (mapped, (rows[at : at + 7] for at in range(0, 50, 7)), [rows[:0], rows[:49], rows[49:]]):
        assert torch.equal(nearest(rows, keys, 3, exclude=(itself, itself), block=16).indices, expected.indices)


def test_no_more_scores_are_held_than_those_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    topk = torch.Tensor.topk
    monkeypatch.setattr(torch.Tensor, "topk", lambda scores, *a: (shapes.append(scores.shape), topk(scores, *a))[1])
    nearest(torch.randn(10, 2), torch.randn(9, 2), 3, block=4)
    assert max(shape.numel() for shape in shapes) == 16 and sum(shape.numel() for shape in shapes) <= 90


def test_several_groups_are_left_out_and_what_is_missing_is_marked() -> None:
    keys = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    groups, owners = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 3]), torch.tensor([[0, 0, 0], [1, 3, 1], [0, 1, 2]])
    scores = keys[:3] @ keys.T
    for block in (2, 100):
        best = nearest(keys[:3], keys, 5, exclude=(owners, groups), fewer=True, block=block)
        for row, mine in enumerate(owners):
            allowed = [i for i in brute(scores[row : row + 1], 9)[0] if groups[i] not in mine]
            assert best.indices[row].tolist() == [*allowed, *[-1] * 5][:5]
            assert best.scores[row].isfinite().sum() == min(len(allowed), 5)


def test_what_cannot_be_answered_is_refused() -> None:
    keys = torch.randn(3, 2)
    with pytest.raises(UserError, match="query 0: there are only 3 keys to choose 4 from"):
        nearest(keys, keys, 4)
    with pytest.raises(UserError, match="query 1: there are only 1 keys to choose 2"):
        nearest(keys[:2], keys, 2, exclude=(np.array([0, 1]), np.array([0, 1, 1])))
    for count, reason in ((2, "groups of 2 keys, and more keys"), (4, "groups of 4 keys for 3")):
        with pytest.raises(ValueError, match=reason):
            nearest(keys, keys, 1, exclude=(torch.arange(3), torch.arange(count)))
    broken = torch.randn(5, 2)
    broken[4, 1] = torch.nan
    with pytest.raises(UserError, match="key 4: has values that are not finite"):
        nearest(keys, broken, 1, block=2)
    with pytest.raises(UserError, match="query 4: has values that are not finite"):
        nearest(broken, keys, 1)
    with pytest.raises(UserError, match="key 0: has values that are not finite, or too large"):
        nearest(keys, torch.full((3, 2), 1e20), 1)  # whose products are infinite, or infinity minus infinity
    with pytest.raises(ValueError, match="k=0, block=4096: both are at least 1"):
        nearest(keys, keys, 0)


def test_cosines_of_very_large_and_small_vectors_are_those_of_their_directions() -> None:
    for size in (1e30, 1e-30):
        result = nearest(
            torch.full((1, 4), size), torch.tensor([[-1.0] * 4, [1.0] * 4, [2.0] * 4]) * size, 3, cosine=True
        )
        assert result.indices.tolist() == [[1, 2, 0]]
        torch.testing.assert_close(result.scores, torch.tensor([[1.0, 1.0, -1.0]]))
    with pytest.raises(ValueError, match="groups of 1 queries for 2"):
        nearest(torch.ones(2, 2), torch.ones(2, 2), 1, exclude=(torch.zeros(1), torch.zeros(2)))
