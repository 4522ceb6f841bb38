"""Log-probs of tokens and divergences over the whole vocabulary, from hidden states, without the full logits.

Tokens are taken in chunks and the backward computes the logits again: two [chunk, vocabulary] buffers and the logits of
one model are all that exists at a time, in the forward and in the backward; only what is small is kept. The matrix
products run in the autocast dtype where autocast is on, in the inputs' dtype elsewhere; softmaxes and sums run in fp32
(float64 for float64 inputs).
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recipes.core.losses.kernels import Gradients, refuse_second_derivatives, token_nll
from recipes.core.models.head import Curve, OutputHead
from recipes.core.models.precision import matmul_dtype, softmax_dtype

CHUNK = 256
KEEP = 1 << 24  # log-probs of both models that are kept from the forward to the backward, instead of computed again
DIRECTIONS = ("ref_policy", "policy_ref")
Logits = Callable[[slice], Tensor]


class Scores(NamedTuple):
    """What a policy and its reference say of each token.

    Attributes:
        logps: [N] log-probs of the targets under the policy, in nats.
        ref_logps: [N] the same under the reference, without gradient.
        kl: [N] KL between the two distributions at the position of the token, >= 0.
    """

    logps: Tensor
    ref_logps: Tensor
    kl: Tensor


def token_logprobs(hidden: Tensor, head: OutputHead, targets: Tensor, chunk: int = CHUNK) -> Tensor:
    """Differentiable log-prob of every target.

    Args:
        hidden: [N, d] last hidden states of the positions that are scored.
        head: The output head that turns them into logits.
        targets: [N] int64 token ids.
        chunk: Tokens whose logits exist at a time.

    Returns:
        [N] in nats.
    """
    return -token_nll(hidden, head, targets, chunk)


def project(hidden: Tensor, head: OutputHead) -> Logits:
    """The logits of a frozen model from its last hidden states, a chunk at a time: a cached state is d floats a token.

    Args:
        hidden: [N, d] last hidden states.
        head: The output head that turns them into logits.

    Returns:
        Function from a slice of the N tokens to their logits [n, V], without gradient.
    """
    dtype = matmul_dtype(hidden)
    states, inner = hidden.detach(), head.detach().to(dtype)

    def logits(part: slice) -> Tensor:
        return inner.logits(states[part].to(dtype))

    return logits


def logprobs_and_kl(
    hidden: Tensor,
    head: OutputHead,
    targets: Tensor,
    reference: Logits,
    chunk: int = CHUNK,
    direction: str = "ref_policy",
) -> Scores:
    """Log-probs of the targets, and the KL between policy and reference over the whole vocabulary.

    Gradients flow from `logps` and `kl` into `hidden` and the head's weight and bias; none flows into the reference.

    Args:
        hidden: [N, d] the policy's last hidden states of the positions that are scored.
        head: The policy's output head.
        targets: [N] int64 token ids.
        reference: Logits of the reference, [n, V] for a slice of the N tokens, as from `projected`. Called once a chunk
            in the forward and, if that is too much to keep, once more in the backward; it has to give the same.
        chunk: Tokens whose logits exist at a time.
        direction: One of `DIRECTIONS`; ref_policy is KL(reference || policy), policy_ref is KL(policy || reference).

    Returns:
        The scores of every token.

    Source:
        ref_policy is the token KL of TDPO (arXiv 2404.11999) and SparsePO (arXiv 2410.05102): sum_v q (log q - log p)
        with gradient p - q in the policy's logits, q the reference. policy_ref has gradient p (log p - log q - KL).
    """
    if not torch.is_grad_enabled():
        hidden, head = hidden.detach(), head.detach()
    options = (matmul_dtype(hidden), chunk, direction)
    return Scores(*_Divergence.apply(hidden, head.weight, head.bias, head.curve, targets, reference, *options))


@torch.no_grad()
def log_squares(hidden: Tensor, head: OutputHead, chunk: int = CHUNK) -> Tensor:
    """Log of the collision probability sum_v p_v^2 of every distribution, without gradient.

    Args:
        hidden: [N, d] last hidden states of the positions.
        head: The output head that turns them into logits.
        chunk: Tokens whose logits exist at a time.

    Returns:
        [N] fp32 (float64 for float64 inputs).
    """
    exact = softmax_dtype(matmul_dtype(hidden))
    logits = project(hidden, head)
    squares = hidden.new_empty(len(hidden), dtype=exact)
    for part in _parts(len(hidden), chunk):
        squares[part] = torch.logsumexp(2 * torch.log_softmax(logits(part), 1, dtype=exact), 1)
    return squares


class _Divergence(torch.autograd.Function):
    """Log-probs, those under the reference, and KL, each [N]; the backward keeps log-softmaxes where they are few."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        curve: Curve,
        targets: Tensor,
        reference: Logits,
        dtype: torch.dtype,
        chunk: int,
        direction: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probs and KL of all tokens, from logits of a chunk at a time."""
        head = OutputHead(weight, bias, *curve)
        logps, ref_logps, kl = (hidden.new_empty(len(hidden), dtype=softmax_dtype(dtype)) for _ in range(3))
        # Of capped logits the backward needs the slope, which log-probs do not tell.
        keep = any(ctx.needs_input_grad) and 2 * len(hidden) * head.vocabulary <= KEEP and head.softcap is None
        kept: list[tuple[Tensor, Tensor]] | None = [] if keep else None
        for part, _, logp, logq, _ in _log_softmaxes(hidden, head.to(dtype), reference, chunk):
            logps[part], ref_logps[part] = _at(logp, targets[part]), _at(logq, targets[part])
            if kept is not None:
                kept.append((logp.clone(), logq.clone()))
            kl[part] = _divergence(logq, logp) if direction == "ref_policy" else _divergence(logp, logq)
        ctx.save_for_backward(hidden, weight, bias, targets, logps, kl)
        ctx.reference, ctx.curve, ctx.dtype, ctx.chunk, ctx.direction = reference, curve, dtype, chunk, direction
        ctx.kept = kept
        ctx.mark_non_differentiable(ref_logps)
        return logps, ref_logps, kl

    @staticmethod
    def backward(ctx: Any, grad_logps: Tensor, _: None, grad_kl: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the policy, from log-softmaxes that were kept or are computed again."""
        refuse_second_derivatives()
        hidden, weight, bias, targets, logps, kl = ctx.saved_tensors
        head = OutputHead(weight, bias, *ctx.curve)
        inner, gradients = head.to(ctx.dtype), Gradients(hidden, head, logps.dtype, ctx.needs_input_grad[:3])
        gradient = _gradient_ref_policy if ctx.direction == "ref_policy" else _gradient_policy_ref
        # The gradient overwrites what was kept, so that a second backward computes it again.
        kept, ctx.kept = ctx.kept, None
        for part, states, logp, logq, slope in _log_softmaxes(hidden, inner, ctx.reference, ctx.chunk, kept):
            columns = (x[part, None] for x in (targets, logps, kl, grad_logps, grad_kl))
            z = gradient(logp, logq, *columns)
            if slope is not None:
                z.mul_(slope)
            gradients.add(part, z.to(ctx.dtype), inner.weight, states)
        return *gradients.totals(), None, None, None, None, None, None


def _log_softmaxes(
    hidden: Tensor, head: OutputHead, reference: Logits, chunk: int, kept: list[tuple[Tensor, Tensor]] | None = None
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor, Tensor | float | None]]:
    """Chunk, the policy's states, the log-softmaxes of policy and reference, which may be overwritten, and the slope.

    Log-softmaxes that were kept of an earlier pass are given out instead of computed.
    """
    exact = softmax_dtype(head.weight.dtype)
    buffers = head.weight.new_empty(2, 0 if kept else min(chunk, len(hidden)), head.vocabulary, dtype=exact)
    for number, part in enumerate(_parts(len(hidden), chunk)):
        states = hidden[part].to(head.weight.dtype)
        if kept:
            logp, logq = kept[number]
            slope = head.slope(logp)  # of a head without a soft-cap, whatever its logits
        else:
            logp, logq = buffers[:, : len(states)]
            logits = head.logits(states)
            slope = head.slope(logits)
            torch.log_softmax(logits, 1, dtype=exact, out=logp)
            torch.log_softmax(reference(part), 1, dtype=exact, out=logq)
        yield part, states, logp, logq, slope


def _divergence(first: Tensor, second: Tensor) -> Tensor:
    """[n] KL(first || second) of log-softmaxes [n, V], which it overwrites. Rounding may not make it negative."""
    torch.sub(first, second, out=second)
    return second.mul_(first.exp_()).sum(1).clamp_min_(0)


def _gradient_ref_policy(
    logp: Tensor, logq: Tensor, targets: Tensor, logps: Tensor, kl: Tensor, grad_logps: Tensor, grad_kl: Tensor
) -> Tensor:
    """Gradient in the policy's logits [n, V] of log-prob and KL(reference || policy); overwrites both buffers."""
    p, q = logp.exp_(), logq.exp_()
    # 1 - p of the target as -expm1(log p): it keeps its digits where p is near 1.
    at_target = grad_kl * (p.gather(1, targets) - q.gather(1, targets)) - grad_logps * torch.expm1(logps)
    return p.mul_(grad_kl - grad_logps).sub_(q.mul_(grad_kl)).scatter_(1, targets, at_target)


def _gradient_policy_ref(
    logp: Tensor, logq: Tensor, targets: Tensor, logps: Tensor, kl: Tensor, grad_logps: Tensor, grad_kl: Tensor
) -> Tensor:
    """Gradient in the policy's logits [n, V] of log-prob and KL(policy || reference); overwrites both buffers."""
    excess = torch.sub(logp, logq, out=logq).sub_(kl).mul_(grad_kl)
    p = logp.exp_()
    at_target = p.gather(1, targets) * excess.gather(1, targets) - grad_logps * torch.expm1(logps)
    return excess.sub_(grad_logps).mul_(p).scatter_(1, targets, at_target)


def _parts(count: int, chunk: int) -> Iterator[slice]:
    return (slice(start, min(start + chunk, count)) for start in range(0, count, chunk))


def _at(values: Tensor, targets: Tensor) -> Tensor:
    return values.gather(1, targets[:, None]).squeeze(1)
