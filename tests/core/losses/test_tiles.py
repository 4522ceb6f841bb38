"""NLLs in tiles: what the softmax of wide vocabularies must not lose, and which vocabularies are wide.

That values and gradients are those of full logits is tested with the other kernels, in `test_kernels` and `test_head`.
"""

import pytest
import torch
from torch.nn.functional import cross_entropy

from recipes.core.losses import kernels, tiles
from recipes.core.losses.kernels import token_nll, weighted_cross_entropy
from recipes.core.models.head import OutputHead


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "WIDE", 1)
    monkeypatch.setattr(tiles, "TOKENS", 2)
    monkeypatch.setattr(tiles, "COLUMNS", 2)


def test_extreme_logits_neither_overflow_nor_underflow() -> None:
    hidden = torch.ones(5, 1, requires_grad=True)
    head = torch.tensor([[-500.0], [-499.0], [500.0], [-500.0], [500.0 - 1e-4]])  # the first tile counts for nothing
    nll = token_nll(hidden, OutputHead(head), torch.arange(5))
    torch.testing.assert_close(
        nll, cross_entropy(hidden @ head.T, torch.arange(5), reduction="none"), rtol=1e-6, atol=0
    )
    assert torch.isfinite(torch.autograd.grad(nll.sum(), hidden)[0]).all()


def test_columns_that_a_bias_rules_out_count_for_nothing() -> None:
    hidden, bias = torch.ones(1, 1, requires_grad=True), torch.tensor([-torch.inf, -torch.inf, 0.0])
    nll = token_nll(hidden, OutputHead(torch.ones(3, 1), bias), torch.tensor([2]))
    assert nll.item() == 0 and torch.autograd.grad(nll, hidden)[0].item() == 0


def test_a_certain_token_keeps_its_tiny_gradient() -> None:
    hidden = torch.ones(1, 1, requires_grad=True)
    nll = token_nll(hidden, OutputHead(torch.tensor([[12.0], [0.0]])), torch.tensor([0]))
    assert torch.autograd.grad(nll, hidden)[0].item() == pytest.approx(-12 * 6.144e-6, rel=2e-2)


@pytest.mark.parametrize("wide", [1, 5])
@pytest.mark.parametrize("target", [-100, -1, 5, 40_000])
def test_a_target_outside_the_vocabulary_is_refused_with_and_without_tiles(
    wide: int, target: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "WIDE", wide)
    hidden = torch.randn(2, 2, requires_grad=True)
    with pytest.raises(RuntimeError, match=rf" {target} is out of bounds for .* size 5"):
        token_nll(hidden, OutputHead(torch.randn(5, 2)), torch.tensor([4, target]))


@pytest.mark.parametrize("wide", [1, 5])
def test_no_tokens_have_no_losses(wide: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "WIDE", wide)
    hidden = torch.randn(0, 2, requires_grad=True)
    assert token_nll(hidden, OutputHead(torch.randn(5, 2)), torch.tensor([], dtype=torch.int64)).shape == (0,)


@pytest.mark.parametrize(("wide", "grad", "tiled"), [(4, True, True), (5, True, False), (4, False, False)])
def test_tiles_are_for_wide_vocabularies_that_are_trained_on(
    wide: int, grad: bool, tiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores of frozen models, and all of small vocabularies, keep the numbers that they always had."""
    calls: list[object] = []
    compute = tiles.tiled_softmax
    monkeypatch.setattr(kernels, "WIDE", wide)
    monkeypatch.setattr(kernels, "tiled_softmax", lambda *arguments: (calls.append(0), compute(*arguments))[1])
    with torch.set_grad_enabled(grad):
        token_nll(torch.randn(3, 2, requires_grad=True), OutputHead(torch.randn(5, 2)), torch.tensor([0, 4, 2]))
    assert bool(calls) == tiled


@pytest.mark.parametrize(("wide", "chunk", "rows"), [(5, None, 1024), (4, None, 256), (4, 7, 7)])
def test_known_weights_take_smaller_chunks_of_wide_vocabularies(
    wide: int, chunk: int | None, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    sweep = kernels._sweep
    monkeypatch.setattr(kernels, "WIDE", wide)
    monkeypatch.setattr(kernels, "_sweep", lambda *arguments: (taken.append(arguments[5]), sweep(*arguments))[1])
    hidden, weights = torch.randn(3, 2, requires_grad=True), torch.ones(3)
    weighted_cross_entropy(hidden, OutputHead(torch.randn(5, 2)), torch.tensor([0, 4, 2]), weights, chunk)
    assert taken == [rows]
