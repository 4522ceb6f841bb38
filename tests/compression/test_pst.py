"""PST's mathematics: the worked example, the mask of a full sort, the schedule, gradients by the formulas."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from recipes.compression.linears import zero_count
from recipes.compression.pst.method import (
    Cubic,
    jaccard,
    low_rank_scores,
    mask_lowest,
    masked_weight,
)


def leaf(values: list[float] | list[list[float]]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def test_the_worked_example() -> None:
    start = torch.tensor([[0.5, -0.2, 0.1], [-0.05, 0.8, -0.3]], dtype=torch.float64)
    u, v, a, b = leaf([[1.0], [-1.0]]), leaf([[0.1, 0.0, -0.2]]), leaf([[1.0], [0.5]]), leaf([[0.0, 0.2, 0.0]])
    rows, columns = leaf([0.0, 0.1]), leaf([0.0, 0.0, 0.3])
    weight = start + u @ v
    weight.retain_grad()
    scores = low_rank_scores(weight, (a, b), (rows, columns), (1.0, 1.0))
    scores.retain_grad()
    assert_close(weight.detach(), leaf([[0.6, -0.2, -0.1], [-0.15, 0.8, -0.1]]).detach())
    assert_close(scores.detach(), leaf([[0.6, 0.4, 0.4], [0.25, 1.0, 0.5]]).detach())
    # .4 twice and .25 are the three lowest; of equal ones the earlier is lower, and both go.
    assert mask_lowest(scores, zero_count(0.5, 6)).tolist() == [[True, False, False], [False, True, True]]
    masked_weight(weight, scores, 3).backward(leaf([[1.0, -1.0, 0.5], [0.2, 0.0, 2.0]]).detach())
    expected: list[tuple[Tensor, list]] = [  # type: ignore[type-arg]
        (scores, [[0.6, 0.2, -0.05], [-0.03, 0.0, -0.2]]), (rows, [0.75, -0.23]), (columns, [0.57, 0.2, -0.25]),
        (b, [[0.585, 0.2, -0.15]]), (a, [[0.04], [0.0]]), (weight, [[1.6, -0.2, 0.05], [0.03, 0.0, 2.2]]),
        (u, [[0.15], [-0.437]]), (v, [[1.57, -0.2, -2.15]]),
    ]  # fmt: skip
    for part, values in expected:
        assert_close(part.grad, torch.tensor(values, dtype=torch.float64))


def test_gradients_are_those_of_the_formulas() -> None:
    draw = torch.Generator().manual_seed(1)
    parts = [torch.randn(*shape, dtype=torch.float64, generator=draw) for shape in ((5, 7), (5, 2), (2, 7), (5,), (7,))]
    weight, a, b, rows, columns = (part.requires_grad_() for part in parts)
    alphas, zeros = (0.7, 1.3), 20
    scores = low_rank_scores(weight, (a, b), (rows, columns), alphas)
    gradient = torch.randn(5, 7, dtype=torch.float64, generator=draw)
    masked_weight(weight, scores, zeros).backward(gradient)
    straight = (gradient * weight).detach()  # G * W
    kept = mask_lowest(scores, zeros)
    assert_close(weight.grad, gradient * kept + straight * weight.detach().sign())
    assert_close(a.grad, alphas[0] * straight @ b.detach().T)
    assert_close(b.grad, alphas[0] * a.detach().T @ straight)
    assert_close(rows.grad, alphas[1] * straight.sum(1))
    assert_close(columns.grad, alphas[1] * straight.sum(0))


def test_the_score_itself_passes_gradcheck_and_a_constant_one_gets_no_gradient() -> None:
    draw = torch.Generator().manual_seed(2)
    parts = [torch.randn(*shape, dtype=torch.float64, generator=draw) for shape in ((3, 4), (3, 2), (2, 4), (3,), (4,))]
    inputs = [part.requires_grad_() for part in parts]
    torch.autograd.gradcheck(lambda w, a, b, r, c: low_rank_scores(w, (a, b), (r, c), (0.5, 2.0)), inputs)
    weight, a, b, rows, columns = inputs
    masked_weight(weight, low_rank_scores(weight.detach(), (a, b), (rows, columns), (0.0, 0.0)), 6).sum().backward()
    assert all(part.grad is not None and not part.grad.any() for part in (a, b, rows, columns))
    # Without scores that learn, what is left is the gradient of M * W.
    assert torch.equal(weight.grad, mask_lowest(weight.abs(), 6).double())  # type: ignore[arg-type]


@given(st.lists(st.sampled_from([0.0, 0.5, 0.5, 1.0, 2.0, -1.0]), min_size=1, max_size=24), st.floats(0, 0.999))
def test_the_mask_is_that_of_a_full_stable_sort(values: list[float], sparsity: float) -> None:
    scores = torch.tensor(values)
    zeros = zero_count(sparsity, len(values))
    sorted_away = torch.ones(len(values), dtype=torch.bool)
    sorted_away[scores.argsort(stable=True)[:zeros]] = False
    for dtype in (torch.float32, torch.bfloat16):  # by NumPy and by torch
        kept = mask_lowest(scores.to(dtype).view(1, -1), zeros)
        assert torch.equal(kept[0], sorted_away) and int((~kept).sum()) == zeros


def test_the_mask_of_a_whole_layer_is_that_of_a_sort() -> None:
    scores = torch.randn(96, 128).round(decimals=2)
    for sparsity in (0.5, 0.7, 0.9):
        zeros = zero_count(sparsity, scores.numel())
        lowest = scores.flatten().argsort(stable=True)[:zeros]
        assert torch.equal((~mask_lowest(scores, zeros)).flatten().nonzero()[:, 0], lowest.sort().values)


def test_counts_of_zeros_are_those_of_the_decimal_number() -> None:
    assert [zero_count(share, 100) for share in (0.0, 0.29, 0.57, 0.9, 0.999)] == [0, 29, 57, 90, 99]
    assert zero_count(0.7, 10) == 7 and zero_count(0.5, 7) == 3


def test_the_schedule() -> None:
    schedule = Cubic(0.0, 0.9, 0.1, 0.3, 100)
    worked = {0: 0.0, 10: 0.0, 11: 0.0443, 25: 0.5203, 40: 0.7875, 55: 0.8859, 70: 0.9, 71: 0.9, 100: 0.9}
    assert {step: round(schedule.at(step), 4) for step in worked} == worked
    shares = [schedule.at(step) for step in range(101)]
    assert shares == sorted(shares)
    assert [schedule.is_final(step) for step in (69, 70, 71, 100)] == [False, False, True, True]
    at_the_end = Cubic(0.2, 0.5, 0.0, 0.0, 10)
    assert at_the_end.at(0) == 0.2 and at_the_end.at(10) == 0.5 and at_the_end.is_final(10)
    assert not at_the_end.is_final(9)


def test_jaccard() -> None:
    kept, other = torch.tensor([1, 1, 0, 0]).bool(), torch.tensor([1, 0, 1, 0]).bool()
    assert jaccard(kept, other) == pytest.approx(1 / 3) and jaccard(kept, kept) == 1.0
    assert jaccard(kept & ~kept, kept & ~kept) == 1.0
