"""Hessians, their inverse, and columns that are set one by one."""

from itertools import product

import pytest
import torch
from torch import Tensor

from recipes.compression.calibration import effective_size
from recipes.compression.hessians import Hessian, damp_dead, inverse_diagonal, inverse_factor
from recipes.compression.solvers import solve_columns
from recipes.core.errors import UserError


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _keep(start: int, columns: Tensor, diagonal: Tensor):  # type: ignore[no-untyped-def]
    return lambda number, row: row


def test_worked_hessians() -> None:
    """rsq.md, invariant 7."""
    x = torch.tensor([[[1.0, 2], [3, -1], [0, 1]]])
    hessian = Hessian(2, "cpu")
    hessian.add(x)
    torch.testing.assert_close(hessian.mean, torch.tensor([[20.0, -2], [-2, 12]]))
    weighted = Hessian(2, "cpu")
    weighted.add(x, torch.tensor([[2.647504, 0.326021, 0.026475]]))
    torch.testing.assert_close(weighted.mean, torch.tensor([[11.163388, 8.633888], [8.633888, 21.885023]]))


def test_mean_over_sequences_however_they_are_batched() -> None:
    x, weights = _random(6, 5, 4), torch.rand(6, 5)
    whole, parts = Hessian(4, "cpu"), Hessian(4, "cpu")
    whole.add(x, weights)
    for rows in (slice(0, 1), slice(1, 6)):
        parts.add(x[rows], weights[rows])
    torch.testing.assert_close(whole.mean, parts.mean)
    expected = sum(2 * x[n].T @ weights[n].diag() @ x[n] for n in range(6)) / 6
    torch.testing.assert_close(whole.mean, expected)


def test_factor_is_that_of_the_inverse() -> None:
    x = _random(40, 7)
    hessian = (x.T @ x).double()
    factor = inverse_factor(hessian, 1e-9, "layer")
    torch.testing.assert_close(factor.T @ factor, torch.linalg.inv(hessian), rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(inverse_diagonal(factor), torch.linalg.inv(hessian).diagonal(), rtol=1e-5, atol=1e-8)
    assert bool((factor.tril(-1) == 0).all())


def test_singular_hessian_is_damped_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    x = torch.ones(3, 4)
    factor = inverse_factor(x.T @ x, 1e-8, "model.layers.0.q_proj")
    assert bool(factor.isfinite().all())
    assert "the Hessian of model.layers.0.q_proj is singular" in capsys.readouterr().err
    with pytest.raises(UserError, match="layer.*not positive definite"):
        inverse_factor(-torch.eye(3), 0.01, "layer")


def test_dead_inputs_get_a_diagonal() -> None:
    hessian = torch.diag(torch.tensor([2.0, 0, 3]))
    whole, dead = damp_dead(hessian)
    assert dead.tolist() == [False, True, False] and whole.diagonal().tolist() == [2, 1, 3]


def test_columns_that_are_kept_change_nothing() -> None:
    weight, x = _random(3, 10), _random(30, 10, seed=1)
    factor = inverse_factor(x.T @ x, 0.01, "layer")
    torch.testing.assert_close(solve_columns(weight, factor, _keep, block=4), weight)


@pytest.mark.parametrize("block", [1, 3, 128])
def test_pruning_one_column_is_the_least_squares_answer(block: int) -> None:
    """Brute force: with column j at 0 and those behind it free, the error of the output is the least there is."""
    weight, x = _random(2, 6).double(), _random(50, 6, seed=1).double()
    factor = inverse_factor(x.T @ x, 1e-12, "layer")
    for j in range(6):
        solved = solve_columns(weight, factor, lambda *_: lambda number, row: row * (number != j), block)  # noqa: B023
        best = weight.clone()
        best[:, j] = 0
        behind = x[:, j + 1 :]
        best[:, j + 1 :] += torch.linalg.lstsq(behind, x[:, j : j + 1] @ weight[:, j : j + 1].T).solution.T
        torch.testing.assert_close(solved, best, rtol=1e-6, atol=1e-8)


def test_no_choice_of_two_levels_beats_rounding_without_correlation() -> None:
    """With a diagonal Hessian each column is rounded by itself, which is the best of all 2^4 choices."""
    weight, moments = torch.tensor([[0.2, 0.7, 0.4, 0.9]]), torch.diag(torch.tensor([1.0, 2, 3, 4]))
    solved = solve_columns(weight, inverse_factor(moments, 1e-9, "layer"), lambda *_: lambda _, row: row.round())
    choices = [torch.tensor([levels]).float() for levels in product((0, 1), repeat=4)]
    best = min(choices, key=lambda levels: float((weight - levels) @ moments @ (weight - levels).T))
    assert torch.equal(solved, best) and torch.equal(solved, weight.round())


def test_effective_size() -> None:
    assert effective_size(torch.ones(7)) == 7 and effective_size(torch.tensor([1.0, 0, 0])) == 1
    assert effective_size(torch.tensor([2.0, 1, 1])) == pytest.approx(16 / 6) and effective_size(torch.zeros(3)) == 0
