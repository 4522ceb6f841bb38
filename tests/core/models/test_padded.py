"""Worked selections in padded rows: ties, padding, rows of nothing."""

import torch

from recipes.core.models.padded import gather, normalise, pack, ranks, top

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
