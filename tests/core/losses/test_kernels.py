"""The token-loss kernels: equal to full logits in value and gradient, for every chunk size and dtype."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from recipes.core.losses import kernels, tiles
from recipes.core.losses.kernels import deferred_cross_entropy, token_nll, weighted_cross_entropy
from recipes.core.models.head import OutputHead

N, D, V = 37, 16, 101
CHUNKS = [1, 10, 36, 37, 64]
Problem = tuple[Tensor, Tensor, Tensor, Tensor]


def problem(dtype: torch.dtype = torch.float32, device: str = "cpu", n: int = N) -> Problem:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, D, generator=generator).to(device, dtype).requires_grad_()
    head = torch.randn(V, D, generator=generator).to(device, dtype).requires_grad_()
    targets = torch.randint(0, V, (n,), generator=generator).to(device)
    weights = torch.rand(n, generator=generator).to(device)
    return hidden, head, targets, weights


def full(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(
        (hidden @ head.t()).to(torch.promote_types(hidden.dtype, torch.float32)), targets, reduction="none"
    )


def by_full(hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor, chunk: int) -> Tensor:
    return (weights * full(hidden, head, targets)).sum()


def by_weighted(hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor, chunk: int) -> Tensor:
    return weighted_cross_entropy(hidden, OutputHead(head), targets, weights, chunk)[0]


def by_nll(hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor, chunk: int) -> Tensor:
    return (weights * token_nll(hidden, OutputHead(head), targets, chunk)).sum()


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither tokens nor vocabulary divide into whole tiles."""
    monkeypatch.setattr(tiles, "TOKENS", 10)
    monkeypatch.setattr(tiles, "COLUMNS", 30)


def by_tiles(hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor, chunk: int) -> Tensor:
    with mock.patch.object(kernels, "WIDE", 0):
        return by_nll(hidden, head, targets, weights, chunk)


def by_deferred(hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor, chunk: int) -> Tensor:
    return deferred_cross_entropy(hidden, OutputHead(head), targets, lambda _: weights, chunk)[0]


def by_recomputed(hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor, chunk: int) -> Tensor:
    """Logits of the first tokens are kept, those of the others computed twice."""
    return deferred_cross_entropy(hidden, OutputHead(head), targets, lambda _: weights, chunk, keep=15 * V)[0]


BOTH = pytest.mark.parametrize("kernel", [by_weighted, by_nll, by_tiles])
ALL = pytest.mark.parametrize("kernel", [by_weighted, by_nll, by_tiles, by_deferred, by_recomputed])
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]


@ALL
@pytest.mark.parametrize("chunk", CHUNKS)
def test_value_and_gradient_equal_full_logits(kernel: Kernel, chunk: int) -> None:
    hidden, head, targets, weights = problem()
    # The factor checks that the incoming gradient scales the saved gradients.
    ours = 3 * kernel(hidden, head, targets, weights, chunk)
    theirs = 3 * (weights * full(hidden, head, targets)).sum()
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    for a, b in zip(
        torch.autograd.grad(ours, (hidden, head)), torch.autograd.grad(theirs, (hidden, head)), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_token_nlls_equal_full_logits_and_the_weighted_ones_are_detached(chunk: int) -> None:
    hidden, head, targets, weights = problem()
    _, nll = weighted_cross_entropy(hidden, OutputHead(head), targets, weights, chunk)
    torch.testing.assert_close(nll, full(hidden, head, targets), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(nll, token_nll(hidden, OutputHead(head), targets, chunk), atol=0, rtol=0)
    assert not nll.requires_grad and nll.dtype == torch.float32


@ALL
def test_gradcheck_in_float64(kernel: Kernel) -> None:
    hidden, head, targets, weights = problem(torch.float64, n=7)
    assert torch.autograd.gradcheck(lambda h, w: kernel(h, w, targets, weights.double(), 3), (hidden, head))


def test_token_nll_gradchecks_through_a_nonlinear_loss() -> None:
    hidden, head, targets, _ = problem(torch.float64, n=7)
    focal = lambda h, w: ((1 - torch.exp(-token_nll(h, OutputHead(w), targets, 3))) ** 2).sum()  # noqa: E731
    assert torch.autograd.gradcheck(focal, (hidden, head))


def test_weights_of_one_are_the_plain_loss() -> None:
    hidden, head, targets, _ = problem()
    loss, _ = weighted_cross_entropy(hidden, OutputHead(head), targets, torch.ones(N))
    torch.testing.assert_close(loss / N, cross_entropy(hidden @ head.t(), targets), atol=1e-5, rtol=1e-5)


@ALL
def test_no_positions_give_zero_loss_and_zero_gradients(kernel: Kernel) -> None:
    hidden, head, targets, weights = problem(n=0)
    loss = kernel(hidden, head, targets, weights, 8)
    grad_hidden, grad_head = torch.autograd.grad(loss, (hidden, head))
    assert loss == 0 and grad_hidden.shape == (0, D) and torch.equal(grad_head, torch.zeros(V, D))


@ALL
def test_a_zero_weight_removes_its_token(kernel: Kernel) -> None:
    hidden, head, targets, weights = problem()
    weights = weights * (torch.arange(N) % 3 > 0)
    kept = weights > 0
    grads = torch.autograd.grad(kernel(hidden, head, targets, weights, 10), (hidden, head))
    alone = torch.autograd.grad(kernel(hidden[kept], head, targets[kept], weights[kept], 10), (hidden, head))
    assert not grads[0][~kept].any()
    for a, b in zip(grads, alone, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@ALL
def test_no_grad_builds_no_graph_and_no_gradient_buffer(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, head, targets, weights = problem()
    expected = kernel(hidden, head, targets, weights, 10).detach()
    monkeypatch.setattr(torch, "zeros_like", None)  # allocating the head's gradient would now raise
    with torch.no_grad():
        loss = kernel(hidden, head, targets, weights, 10)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, expected)


@ALL
@pytest.mark.parametrize("frozen", [0, 1])
def test_gradients_that_nobody_needs_are_none(kernel: Kernel, frozen: int) -> None:
    tensors = problem()
    tensors[frozen].requires_grad_(False)
    kernel(*tensors, 10).backward()
    assert tensors[frozen].grad is None
    other = tensors[1 - frozen]
    expected = torch.autograd.grad((tensors[3] * full(*tensors[:3])).sum(), other)[0]
    assert other.grad is not None
    torch.testing.assert_close(other.grad, expected, atol=1e-5, rtol=1e-5)


@ALL
def test_a_retained_graph_gives_the_same_gradient_twice(kernel: Kernel) -> None:
    hidden, head, targets, weights = problem()
    loss = 3 * kernel(hidden, head, targets, weights, 10)
    first = [g.clone() for g in torch.autograd.grad(loss, (hidden, head), retain_graph=True)]
    second = torch.autograd.grad(loss, (hidden, head))
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)


@BOTH
def test_gradients_are_handed_over_without_a_copy(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, head, targets, weights = problem()
    places = []

    def with_spy(compute: Callable[..., Any]) -> Callable[..., Any]:
        def spy(*arguments: Any) -> Any:
            outcome = compute(*arguments)
            places.append([None if tensor is None else tensor.data_ptr() for tensor in outcome[-3:]])
            return outcome

        return spy

    monkeypatch.setattr(kernels, "_sweep", with_spy(kernels._sweep))
    monkeypatch.setattr(kernels, "tiled_gradients", with_spy(kernels.tiled_gradients))
    (kernel(hidden, head, targets, weights, 10) / 7).backward()
    assert hidden.grad is not None and head.grad is not None
    assert places[-1] == [hidden.grad.data_ptr(), head.grad.data_ptr(), None]


@ALL
def test_backward_through_a_model_and_accumulation(kernel: Kernel) -> None:
    hidden, head, targets, weights = problem()
    for part in (slice(0, 20), slice(20, N)):
        kernel(hidden[part], head, targets[part], weights[part], 8).backward()
    expected = torch.autograd.grad((weights * full(hidden, head, targets)).sum(), (hidden, head))
    torch.testing.assert_close(hidden.grad, expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(head.grad, expected[1], atol=1e-5, rtol=1e-5)


@ALL
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_keep_a_fp32_softmax(kernel: Kernel, dtype: torch.dtype) -> None:
    hidden, head, targets, weights = problem(dtype)
    loss = kernel(hidden, head, targets, weights, 10)
    exact = (weights * full(hidden.float(), head.float(), targets)).sum()
    grads = torch.autograd.grad(loss, (hidden, head))
    expected = torch.autograd.grad(exact, (hidden, head))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=1e-2, atol=1e-2)
    for a, b in zip(grads, expected, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a, b, rtol=5e-2, atol=5e-2)


def test_bf16_head_gradient_does_not_lose_small_chunks() -> None:
    # 512 chunks that each add about 1/512 of the sum: a bf16 accumulator would stop growing at 256 of them.
    hidden = torch.ones(512, 1, dtype=torch.bfloat16)
    head = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    loss, _ = weighted_cross_entropy(
        hidden, OutputHead(head), torch.zeros(512, dtype=torch.int64), torch.ones(512), chunk=1
    )
    loss.backward()
    assert head.grad is not None and head.grad.flatten().tolist() == [-256.0, 256.0]


@ALL
def test_autocast_multiplies_in_its_dtype_and_returns_fp32_gradients(kernel: Kernel) -> None:
    hidden, head, targets, weights = problem()
    with torch.autocast("cpu", torch.bfloat16):
        ours = kernel(hidden, head, targets, weights, 10)
        theirs = (
            weights * cross_entropy(torch.nn.functional.linear(hidden, head).float(), targets, reduction="none")
        ).sum()
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    for a, b in zip(
        torch.autograd.grad(ours, (hidden, head)), torch.autograd.grad(theirs, (hidden, head)), strict=True
    ):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, atol=5e-2, rtol=5e-2)


@ALL
def test_autocast_leaves_float64_alone(kernel: Kernel) -> None:
    hidden, head, targets, weights = problem(torch.float64)
    plain = kernel(hidden, head, targets, weights.double(), 10)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(kernel(hidden, head, targets, weights.double(), 10), plain)


def test_extreme_logits_neither_overflow_nor_underflow() -> None:
    hidden = torch.tensor([[1.0], [1.0], [1.0]], requires_grad=True)
    head = torch.tensor([[500.0], [-500.0], [500.0 - 1e-4]])
    targets = torch.tensor([0, 1, 2])
    nll = token_nll(hidden, OutputHead(head), targets)
    torch.testing.assert_close(nll, full(hidden, head, targets), atol=1e-4, rtol=1e-6)
    loss, _ = weighted_cross_entropy(hidden, OutputHead(head), targets, torch.ones(3))
    assert torch.isfinite(torch.autograd.grad(loss, hidden)[0]).all()


def test_a_certain_token_keeps_its_tiny_gradient() -> None:
    # softmax - 1 rounds to 0 in fp32 once p > 1 - 6e-8; from the NLL it does not.
    hidden = torch.ones(1, 1, requires_grad=True)
    head = torch.tensor([[12.0], [0.0]])
    loss, nll = weighted_cross_entropy(hidden, OutputHead(head), torch.tensor([0]), torch.ones(1))
    assert nll.item() >= 0
    assert torch.autograd.grad(loss, hidden)[0].item() == pytest.approx(-12 * 6.144e-6, rel=2e-2)


@ALL
def test_second_derivatives_are_refused_rather_than_wrong(kernel: Kernel) -> None:
    hidden, head, targets, weights = problem(n=3)
    with pytest.raises(RuntimeError, match="no second derivative; use full logits"):
        torch.autograd.grad(kernel(hidden, head, targets, weights, 2), hidden, create_graph=True)


def test_weights_that_follow_from_the_losses_see_them_once_and_get_no_gradient() -> None:
    hidden, head, targets, _ = problem(torch.float64)
    seen = []

    def weigh(nll: Tensor) -> Tensor:
        assert not nll.requires_grad
        seen.append(nll)
        return torch.softmax(nll, 0)

    nll = full(hidden, head, targets)
    expected = torch.autograd.grad((torch.softmax(nll.detach(), 0) * nll).sum(), (hidden, head))
    loss, losses = deferred_cross_entropy(hidden, OutputHead(head), targets, weigh, chunk=10)
    assert len(seen) == 1
    torch.testing.assert_close(losses, nll.detach())
    for a, b in zip(torch.autograd.grad(loss, (hidden, head)), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_a_weight_of_zero_takes_out_a_token_whose_loss_is_not_finite() -> None:
    hidden, head, targets, weights = problem()
    bad = torch.arange(N) == 5
    spoiled = torch.where(bad[:, None], torch.inf, hidden.detach()).requires_grad_()
    kept = torch.where(bad, 0, weights)
    loss, nll = deferred_cross_entropy(spoiled, OutputHead(head), targets, lambda _: kept, chunk=10)
    grads = torch.autograd.grad(loss, (spoiled, head))
    expected = torch.autograd.grad(by_weighted(hidden, head, targets, kept, 10), (hidden, head))
    assert not torch.isfinite(nll[5])
    for a, b in zip(grads, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_the_token_weights_get_no_gradient() -> None:
    hidden, head, targets, weights = problem()
    weights.requires_grad_()
    weighted_cross_entropy(hidden, OutputHead(head), targets, weights)[0].backward()
    assert weights.grad is None


@pytest.mark.gpu
@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_equals_the_cpu_and_its_own_full_logits(kernel: Kernel, dtype: torch.dtype, device: str) -> None:
    atol = 1e-4 if dtype == torch.float32 else 5e-2
    results = []
    for place, method in (("cpu", kernel), (device, kernel), (device, by_full)):
        hidden, head, targets, weights = problem(dtype, place)
        loss = method(hidden, head, targets, weights, 10)
        results.append([t.cpu() for t in (loss, *torch.autograd.grad(loss, (hidden, head)))])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b.to(a.dtype), atol=atol, rtol=atol)


@pytest.mark.gpu
def test_memory_on_a_gpu_stays_far_below_the_logits(device: str) -> None:
    if device != "cuda":
        pytest.skip("counted by CUDA alone")
    n, d, v = 4096, 64, 32_768
    hidden = torch.randn(n, d, device="cuda", requires_grad=True)
    head = torch.randn(v, d, device="cuda", requires_grad=True)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss, _ = weighted_cross_entropy(
        hidden, OutputHead(head), torch.zeros(n, dtype=torch.int64, device="cuda"), torch.ones(n, device="cuda"), 256
    )
    loss.backward()
    assert torch.cuda.max_memory_allocated() - before < 0.25 * n * v * 4
