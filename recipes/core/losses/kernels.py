"""Token losses that never hold the full logits.

All kernels walk over the tokens in chunks and keep one [chunk, vocabulary] buffer that is logits, then
softmax, then the gradient of the logits, all in place.

* `weighted_cross_entropy`: the weights are known before the step, so the gradients are computed in the
  forward, while the softmax is at hand. One pass over the vocabulary.
* `deferred_cross_entropy`: the weights follow from the losses of the batch. The gradients of the logits are
  kept until the weights are known where they fit into memory, and computed again where they do not.
* `token_nll`: the loss is any function of the per-token NLL, so the softmax is computed again in the backward.

Over a wide vocabulary the processor's cache counts: there `weighted_cross_entropy` takes smaller chunks, and what is
differentiated of `token_nll` comes in tiles (`recipes.core.losses.tiles`). Only on the CPU; nobody measured GPUs.

Logits are those of an `OutputHead`. The slope of a soft-cap takes one more buffer; a plain head costs nothing more.

`recipes.core.losses.logprobs` adds the divergence from a reference.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recipes.core.losses.tiles import Softmax, add_product, tiled_gradients, tiled_softmax
from recipes.core.models.head import Curve, OutputHead
from recipes.core.models.precision import matmul_dtype, softmax_dtype

WIDE = 12_288  # tokens; a chunk of more than that is beyond 48 MiB in fp32
CHUNK, CHUNK_OF_WIDE = 1024, 256  # tokens whose logits exist at a time


def weighted_cross_entropy(
    hidden: Tensor, head: OutputHead, targets: Tensor, weights: Tensor, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """Sum of weighted token NLLs, with gradients computed in the forward.

    The matrix products run in the autocast dtype where autocast is on, in the inputs' dtype elsewhere; the
    softmax and the sum over chunks of the head's gradients run in fp32 (float64 for float64 inputs).

    Args:
        hidden: [N, d] last hidden states of the positions that carry loss.
        head: The output head that turns them into logits; gradients flow into its weight and bias.
        targets: [N] int64 token ids.
        weights: [N] what each token's NLL is multiplied by; no gradient flows into it.
        chunk: Tokens whose logits exist at a time; by default 1,024, over a wide vocabulary on the CPU 256.

    Returns:
        The scalar sum_i weights_i * nll_i and the detached [N] NLLs in nats, both fp32 (float64 for float64).
    """
    if not torch.is_grad_enabled():
        hidden, head = hidden.detach(), head.detach()
    options = (matmul_dtype(hidden), chunk or (CHUNK_OF_WIDE if _wide(head) else CHUNK))
    loss, nll = _WeightedCrossEntropy.apply(
        hidden, head.weight, head.bias, head.curve, targets, weights.detach(), *options
    )
    return loss, nll


def deferred_cross_entropy(
    hidden: Tensor,
    head: OutputHead,
    targets: Tensor,
    weigh: Callable[[Tensor], Tensor],
    chunk: int = CHUNK,
    keep: int = 1 << 26,
) -> tuple[Tensor, Tensor]:
    """`weighted_cross_entropy` for weights that are a function of the losses, and through which no gradient flows.

    Args:
        hidden: [N, d] last hidden states of the positions that carry loss.
        head: The output head that turns them into logits; gradients flow into its weight and bias.
        targets: [N] int64 token ids.
        weigh: Detached NLLs [N] -> what each is multiplied by [N]; called once, inside the forward. A weight of
            exactly zero takes its token out, even if its NLL is not finite.
        chunk: Tokens whose logits exist at a time beside those that are kept.
        keep: Logits whose gradients are kept until the weights are known; the others are computed twice.

    Returns:
        As `weighted_cross_entropy`.
    """
    if not torch.is_grad_enabled():
        hidden, head = hidden.detach(), head.detach()
    options = (matmul_dtype(hidden), chunk, keep)
    loss, nll = _DeferredCrossEntropy.apply(hidden, head.weight, head.bias, head.curve, targets, weigh, *options)
    return loss, nll


def token_nll(hidden: Tensor, head: OutputHead, targets: Tensor, chunk: int = CHUNK) -> Tensor:
    """Differentiable NLL of every target token, its softmax recomputed in the backward.

    For losses that are nonlinear in the live model's log-probabilities. Precision as in
    `weighted_cross_entropy`.

    Args:
        hidden: [N, d] last hidden states of the positions that carry loss.
        head: The output head that turns them into logits; gradients flow into its weight and bias.
        targets: [N] int64 token ids.
        chunk: Tokens whose logits exist at a time where they do not come in tiles.

    Returns:
        [N] NLL in nats, fp32 (float64 for float64 inputs).
    """
    if not torch.is_grad_enabled():
        hidden, head = hidden.detach(), head.detach()
    nll: Tensor = _TokenNLL.apply(hidden, head.weight, head.bias, head.curve, targets, matmul_dtype(hidden), chunk)
    return nll


class _WeightedCrossEntropy(torch.autograd.Function):
    """sum_i w_i nll_i and the NLLs [N]; the forward computes the gradients, as w is known."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        curve: Curve,
        targets: Tensor,
        weights: Tensor,
        dtype: torch.dtype,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        """The loss and the NLLs; gradients with respect to hidden states and head are kept."""
        head, weights = OutputHead(weight, bias, *curve), weights.to(softmax_dtype(dtype))
        nll, *gradients = _sweep(hidden, head, targets, weights, dtype, chunk, ctx.needs_input_grad[:3])
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(nll)
        ctx.set_materialize_grads(False)
        return torch.dot(weights, nll), nll

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        """The gradients of the forward times that of the loss."""
        return *_scaled_gradients(ctx.saved_tensors, grad_loss), None, None, None, None, None


class _DeferredCrossEntropy(torch.autograd.Function):
    """`_WeightedCrossEntropy` whose weights `weigh` makes of the NLLs [N] of all positions, in the forward as well."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        curve: Curve,
        targets: Tensor,
        weigh: Callable[[Tensor], Tensor],
        dtype: torch.dtype,
        chunk: int,
        keep: int,
    ) -> tuple[Tensor, Tensor]:
        """The loss and the NLLs, from which the weights are made; gradients are kept."""
        head, wanted = OutputHead(weight, bias, *curve), ctx.needs_input_grad[:3]
        nll, weights, *gradients = _deferred_sweep(hidden, head, targets, weigh, dtype, chunk, keep, wanted)
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(nll)
        ctx.set_materialize_grads(False)
        return torch.dot(weights, torch.where(weights != 0, nll, 0)), nll

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        """The gradients of the forward times that of the loss."""
        return *_scaled_gradients(ctx.saved_tensors, grad_loss), None, None, None, None, None, None


def _scaled_gradients(gradients: tuple[Tensor | None, ...], grad_loss: Tensor | None) -> list[Tensor | None]:
    """Gradients of the inputs from those that the forward computed."""
    refuse_second_derivatives()
    # Scaling in place spares a second [V, d] buffer; a retained graph needs the gradients once more.
    keep = torch._C._autograd._get_current_graph_task_keep_graph()
    scale = torch.mul if keep else Tensor.mul_
    return [
        None if gradient is None or grad_loss is None else scale(gradient, grad_loss.to(gradient.dtype))
        for gradient in gradients
    ]


class _TokenNLL(torch.autograd.Function):
    """NLLs [N]; the backward computes logits again, as their gradients are not known before."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        curve: Curve,
        targets: Tensor,
        dtype: torch.dtype,
        chunk: int,
    ) -> Tensor:
        """The NLLs; of a wide head, what the backward reads of its softmax is kept."""
        head = OutputHead(weight, bias, *curve)
        softmax: tuple[Tensor, ...] = ()
        if _wide(head) and any(ctx.needs_input_grad[:3]):
            softmax = tiled_softmax(hidden, head, targets, dtype)
            nll = softmax[0]
        else:
            nll, *_ = _sweep(hidden, head, targets, None, dtype, chunk, (False, False, False))
        ctx.save_for_backward(hidden, weight, bias, targets, *softmax)
        ctx.curve, ctx.dtype, ctx.chunk = curve, dtype, chunk
        return nll

    @staticmethod
    def backward(ctx: Any, grad_nll: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients from logits that are computed again, a chunk or a tile at a time."""
        refuse_second_derivatives()
        hidden, weight, bias, targets, *softmax = ctx.saved_tensors
        head, wanted = OutputHead(weight, bias, *ctx.curve), ctx.needs_input_grad[:3]
        if softmax:
            gradients = tiled_gradients(hidden, head, targets, grad_nll, Softmax(*softmax), ctx.dtype, wanted)
        else:
            gradients = _sweep(hidden, head, targets, grad_nll, ctx.dtype, ctx.chunk, wanted)[1:]
        return *gradients, None, None, None, None


def _wide(head: OutputHead) -> bool:
    """Whether a chunk of logits is far larger than the cache of the processor."""
    return head.vocabulary > WIDE and head.weight.device.type == "cpu"


class Gradients:
    """Gradients of hidden states, weight and bias, summed over chunks; None where nobody needs them.

    Args:
        hidden: [N, d] hidden states.
        head: The output head, in the dtype of the returned gradients.
        dtype: Of the sums over chunks.
        wanted: Whether hidden states, weight and bias need one.
    """

    def __init__(self, hidden: Tensor, head: OutputHead, dtype: torch.dtype, wanted: tuple[bool, bool, bool]) -> None:
        self.dtype = head.weight.dtype
        self.hidden = torch.empty_like(hidden) if wanted[0] else None
        self.weight = torch.zeros_like(head.weight, dtype=dtype) if wanted[1] else None
        self.bias = torch.zeros_like(head.bias, dtype=dtype) if wanted[2] and head.bias is not None else None

    def add(self, part: slice, z: Tensor, matrix: Tensor, states: Tensor, weights: Tensor | None = None) -> None:
        """Add what a chunk contributes.

        Args:
            part: Which tokens.
            z: [n, V] gradient in hidden W^T + b.
            matrix: [V, d] the head's weight in the dtype of `z`.
            states: [n, d] the hidden states in it.
            weights: [n, 1] what the gradient of each token is multiplied by.
        """
        if self.hidden is not None:
            if weights is None:
                self.hidden[part] = z @ matrix
            else:
                torch.mul(z @ matrix, weights, out=self.hidden[part])
        if self.weight is not None:
            add_product(self.weight, z.t(), states if weights is None else (states * weights).to(z.dtype))
        if self.bias is not None:
            ones = z.new_ones(len(z), 1) if weights is None else weights.to(z.dtype)
            add_product(self.bias[:, None], z.t(), ones)

    def totals(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Of hidden states, weight and bias."""
        weight, bias = (None if total is None else total.to(self.dtype) for total in (self.weight, self.bias))
        return self.hidden, weight, bias


def _sweep(
    hidden: Tensor,
    head: OutputHead,
    targets: Tensor,
    weights: Tensor | None,
    dtype: torch.dtype,
    chunk: int,
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """NLLs, and the wanted gradients of sum_i weights_i * nll_i in hidden [N, d], weight [V, d] and bias [V]."""
    exact = softmax_dtype(dtype)
    inner = head.to(dtype)
    rows = max(1, min(chunk, len(hidden)))
    probabilities = head.weight.new_empty(rows, head.vocabulary, dtype=exact)
    logits = probabilities if dtype == exact else torch.empty_like(probabilities, dtype=dtype)
    nll = hidden.new_empty(len(hidden), dtype=exact)
    gradients = Gradients(hidden, head, exact, wanted)
    for start in range(0, len(hidden), rows):
        part = slice(start, start + rows)
        states = hidden[part].to(dtype)
        z, p = logits[: len(states)], probabilities[: len(states)]
        inner.fill_logits(states, z)
        slope = inner.slope(z) if weights is not None and any(wanted) else None
        nll[part] = softmax_and_nll(z, p, targets[part])
        if weights is not None and any(wanted):
            _logit_gradient(z, p, targets[part], nll[part], slope)
            gradients.add(part, z, inner.weight, states, weights[part, None])
    return nll, *gradients.totals()


def _deferred_sweep(
    hidden: Tensor,
    head: OutputHead,
    targets: Tensor,
    weigh: Callable[[Tensor], Tensor],
    dtype: torch.dtype,
    chunk: int,
    keep: int,
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """NLLs, the weights that follow from them, and the wanted gradients of sum_i weights_i * nll_i."""
    inner = head.to(dtype)
    nll = hidden.new_empty(len(hidden), dtype=softmax_dtype(dtype))
    parts = [slice(start, min(start + chunk, len(hidden))) for start in range(0, len(hidden), chunk)]
    kept: dict[int, Tensor] = {}
    for part in parts:
        z = _logit_gradients(hidden[part].to(dtype), inner, targets[part], nll[part])
        if any(wanted) and part.stop * head.vocabulary <= keep:
            kept[part.start] = z
    weights = weigh(nll).to(nll.dtype)
    gradients = Gradients(hidden, head, nll.dtype, wanted)
    whole = bool(torch.isfinite(nll).all())
    for part in parts if any(wanted) else []:
        states, weight = hidden[part].to(dtype), weights[part, None]
        if part.start in kept:
            z = kept.pop(part.start)
        else:
            z = _logit_gradients(states, inner, targets[part], torch.empty_like(nll[part]))
        if not whole:
            z, states = torch.where(weight != 0, z, 0), torch.where(weight != 0, states, 0)
        gradients.add(part, z, inner.weight, states, weight)
    return nll, weights, *gradients.totals()


def _logit_gradients(states: Tensor, head: OutputHead, targets: Tensor, nll: Tensor) -> Tensor:
    """[chunk, V] gradient of each NLL in hidden W^T + b; fills `nll` [chunk]."""
    z = head.fill_logits(states, states.new_empty(len(states), head.vocabulary))
    p = z if z.dtype == nll.dtype else torch.empty_like(z, dtype=nll.dtype)
    slope = head.slope(z)
    nll.copy_(softmax_and_nll(z, p, targets))
    _logit_gradient(z, p, targets, nll, slope)
    return z


def softmax_and_nll(logits: Tensor, probabilities: Tensor, targets: Tensor) -> Tensor:
    """Fill `probabilities` (may be `logits` itself) and return the NLLs [chunk]."""
    exact = probabilities.dtype
    below = logits.amax(1).to(exact) - logits.gather(1, targets[:, None]).squeeze(1).to(exact)
    torch.softmax(logits, 1, dtype=exact, out=probabilities)
    # From the largest p >= 1/V, because -log p(target) would underflow; the logits are subtracted first, so that the
    # NLL of a likely token keeps its digits. Rounding may leave it a hair below zero.
    return (below - probabilities.amax(1).log()).clamp_min_(0)


def _logit_gradient(
    logits: Tensor, probabilities: Tensor, targets: Tensor, nll: Tensor, slope: Tensor | float | None
) -> None:
    """Turn the softmax into the gradient of the NLL, (softmax - one hot) * slope, in the `logits` buffer."""
    if logits.dtype != probabilities.dtype:
        logits.copy_(probabilities)
    # p - 1 from the NLL keeps its digits where p is near 1, also after rounding to bf16.
    logits.scatter_(1, targets[:, None], torch.expm1(-nll)[:, None].to(logits.dtype))
    if slope is not None:
        logits.mul_(slope)


def refuse_second_derivatives() -> None:
    """Raise where a backward is asked for a graph of itself."""
    # Grad mode is on in a backward only under create_graph; going on would silently drop the second derivative.
    if torch.is_grad_enabled():
        raise RuntimeError("the token-loss kernels have no second derivative; use full logits with create_graph=True")
