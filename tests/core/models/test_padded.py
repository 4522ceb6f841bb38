"""Worked selections in padded rows: ties, padding, rows of nothing."""

import numpy as np
import pytest
import torch

from recipes.core.models.padded import (
    BATCH_TOKENS,
    CPU_TOKENS,
    batches,
    forward_tokens,
    gather,
    normalise,
    pack,
    pool,
    ranks,
    top,
)

SCORES = torch.tensor([[1.0, 3.0, 3.0, 9.0], [0.0, 0.0, 0.0, 0.0]])
AMONG = torch.tensor([[True, True, True, False], [False, True, True, True]])


def test_of_equal_scores_the_earlier_comes_first_and_padding_never():
    assert ranks(SCORES, AMONG).tolist() == [[2, 0, 1, 3], [3, 0, 1, 2]]
    assert top(SCORES, torch.tensor([1, 2]), AMONG).tolist() == [
        [False, True, False, False],
        [False, True, True, False],
    ]
    assert not top(SCORES, torch.tensor([0, 0]), AMONG).any()
    assert torch.equal(top(SCORES, torch.tensor([4, 4]), AMONG), AMONG)


def test_rows_are_packed_and_gathered():
    mask = torch.tensor([[True, False, True], [False, False, True]])
    index, valid = pack(mask)
    assert index.tolist() == [[0, 2], [2, 0]] and valid.tolist() == [[True, True], [True, False]]
    backwards, _ = pack(mask, order=torch.tensor([[2, 1, 0], [2, 1, 0]]))
    assert backwards.tolist() == [[2, 0], [2, 0]]
    values = torch.arange(12).view(2, 3, 2)
    assert gather(values, index).tolist() == [[[0, 1], [4, 5]], [[10, 11], [6, 7]]]
    assert pack(torch.zeros(2, 3, dtype=torch.bool))[0].shape == (2, 0)


def test_shares_of_a_sum():
    expected = torch.tensor([[1 / 7, 3 / 7, 3 / 7, 0], [0, 1 / 3, 1 / 3, 1 / 3]])
    torch.testing.assert_close(normalise(SCORES, AMONG), expected)


def test_batches_hold_the_budget_and_every_row_once() -> None:
    lengths = np.array([3, 50, 8, 8, 1, 4, 20, 2], np.int32)
    groups = batches(lengths, 24)
    assert sorted(i for group in groups for i in group) == list(range(8))
    assert groups[0] == [1]
    assert all(len(group) == 1 or len(group) * lengths[group].max() <= 24 for group in groups)
    assert batches(np.zeros(0, np.int32), 24) == []


@pytest.mark.parametrize(
    "pooling, expected",
    [("mean", [[2.0, 3.0], [6.0, 7.0]]), ("first", [[1.0, 2.0], [5.0, 6.0]]), ("last", [[3.0, 4.0], [7.0, 8.0]])],
)
def test_padding_on_either_side_is_pooled_by_nobody(pooling: str, expected: list[list[float]]):
    states = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [9e9, 9e9]], [[9e9, 9e9], [5.0, 6.0], [7.0, 8.0]]])
    mask = torch.tensor([[True, True, False], [False, True, True]])
    assert pool(states, mask, pooling).tolist() == expected


def test_a_forward_on_a_cpu_takes_no_more_tokens_than_its_caches_and_never_more_than_asked() -> None:
    assert forward_tokens(BATCH_TOKENS, "cpu") == CPU_TOKENS < BATCH_TOKENS
    assert forward_tokens(100, "cpu") == 100
    assert forward_tokens(BATCH_TOKENS, "cuda") == BATCH_TOKENS
