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

from recipes.core.kernels import add_product, matmul_dtype, refuse_second_derivatives, softmax_dtype, token_nll

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


class Statistics(NamedTuple):
    """What a model says of each token, without gradient.

    Attributes:
        logps: [N] log-probs of the targets, in nats.
        entropy: [N] of the distribution at the position of the token, in nats.
        log_squares: [N] log of the sum of its squared probabilities.
    """

    logps: Tensor
    entropy: Tensor
    log_squares: Tensor


def token_logprobs(hidden: Tensor, head: Tensor, targets: Tensor, chunk: int = CHUNK) -> Tensor:
    """Differentiable log-prob of every target.

    Args:
        hidden: [N, d] last hidden states of the positions that are scored.
        head: [V, d] output embedding.
        targets: [N] int64 token ids.
        chunk: Tokens whose logits exist at a time.

    Returns:
        [N] in nats.
    """
    return -token_nll(hidden, head, targets, chunk)


def projected(hidden: Tensor, head: Tensor) -> Logits:
    """The logits of a frozen model from its last hidden states, a chunk at a time: a cached state is d floats a token.

    Args:
        hidden: [N, d] last hidden states.
        head: [V, d] output embedding.

    Returns:
        Function from a slice of the N tokens to their logits [n, V], without gradient.
    """
    dtype = matmul_dtype(hidden)
    states, matrix = hidden.detach(), head.detach().to(dtype)

    def logits(part: slice) -> Tensor:
        return states[part].to(dtype) @ matrix.t()

    return logits


def logprobs_and_kl(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    reference: Logits,
    chunk: int = CHUNK,
    direction: str = "ref_policy",
) -> Scores:
    """Log-probs of the targets, and the KL between policy and reference over the whole vocabulary.

    Gradients flow from `logps` and `kl` into `hidden` and `head`; none flows into the reference.

    Args:
        hidden: [N, d] the policy's last hidden states of the positions that are scored.
        head: [V, d] the policy's output embedding.
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
    return Scores(*_Divergence.apply(hidden, head, targets, reference, matmul_dtype(hidden), chunk, direction))


@torch.no_grad()
def token_statistics(hidden: Tensor, head: Tensor, targets: Tensor, chunk: int = CHUNK) -> Statistics:
    """Log-probs with entropy and collision probability, for scoring without gradient.

    Args:
        hidden: [N, d] last hidden states of the positions that are scored.
        head: [V, d] output embedding.
        targets: [N] int64 token ids.
        chunk: Tokens whose logits exist at a time.
    """
    exact = softmax_dtype(matmul_dtype(hidden))
    logits = projected(hidden, head)
    found = hidden.new_empty(3, len(hidden), dtype=exact)
    for part in _parts(len(hidden), chunk):
        logp = torch.log_softmax(logits(part), 1, dtype=exact)
        found[0, part] = _at(logp, targets[part])
        found[2, part] = torch.logsumexp(2 * logp, 1)
        found[1, part] = -logp.mul_(logp.exp()).sum(1)
    return Statistics(*found)


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        reference: Logits,
        dtype: torch.dtype,
        chunk: int,
        direction: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        logps, ref_logps, kl = (hidden.new_empty(len(hidden), dtype=softmax_dtype(dtype)) for _ in range(3))
        wanted = any(ctx.needs_input_grad)
        kept: list[tuple[Tensor, Tensor]] | None = [] if wanted and 2 * len(hidden) * len(head) <= KEEP else None
        for part, _, logp, logq in _log_softmaxes(hidden, head.to(dtype), reference, chunk):
            logps[part], ref_logps[part] = _at(logp, targets[part]), _at(logq, targets[part])
            if kept is not None:
                kept.append((logp.clone(), logq.clone()))
            kl[part] = _divergence(logq, logp) if direction == "ref_policy" else _divergence(logp, logq)
        ctx.save_for_backward(hidden, head, targets, logps, kl)
        ctx.reference, ctx.dtype, ctx.chunk, ctx.direction, ctx.kept = reference, dtype, chunk, direction, kept
        ctx.mark_non_differentiable(ref_logps)
        return logps, ref_logps, kl

    @staticmethod
    def backward(ctx: Any, grad_logps: Tensor, _: None, grad_kl: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        hidden, head, targets, logps, kl = ctx.saved_tensors
        matrix = head.to(ctx.dtype)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_head = torch.zeros_like(head, dtype=logps.dtype) if ctx.needs_input_grad[1] else None
        gradient = _gradient_ref_policy if ctx.direction == "ref_policy" else _gradient_policy_ref
        # The gradient overwrites what was kept, so that a second backward computes it again.
        kept, ctx.kept = ctx.kept, None
        for part, states, logp, logq in _log_softmaxes(hidden, matrix, ctx.reference, ctx.chunk, kept):
            columns = (x[part, None] for x in (targets, logps, kl, grad_logps, grad_kl))
            z = gradient(logp, logq, *columns).to(ctx.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = z @ matrix
            if grad_head is not None:
                add_product(grad_head, z.t(), states)
        return grad_hidden, None if grad_head is None else grad_head.to(head.dtype), None, None, None, None, None


def _log_softmaxes(
    hidden: Tensor, matrix: Tensor, reference: Logits, chunk: int, kept: list[tuple[Tensor, Tensor]] | None = None
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Chunk, the policy's states, and the log-softmaxes of policy and reference in buffers that may be overwritten.

    Those that were kept of an earlier pass are given out instead of computed.
    """
    exact = softmax_dtype(matrix.dtype)
    buffers = matrix.new_empty(2, 0 if kept else min(chunk, len(hidden)), len(matrix), dtype=exact)
    for number, part in enumerate(_parts(len(hidden), chunk)):
        states = hidden[part].to(matrix.dtype)
        if kept:
            logp, logq = kept[number]
        else:
            logp, logq = buffers[:, : len(states)]
            torch.log_softmax(states @ matrix.t(), 1, dtype=exact, out=logp)
            torch.log_softmax(reference(part), 1, dtype=exact, out=logq)
        yield part, states, logp, logq


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
