"""mu: the largest logit of each token of the vocabulary over the tokens of a text, without all of their logits.

The logits of a few texts exist at a time. Only where a maximum was taken does a gradient flow: of each text and each
token of the vocabulary one position is kept, and the backward reads that position's state alone.
"""

from typing import Any

import torch
from torch import Tensor

from recipes.core.losses.kernels import CHUNK, refuse_second_derivatives
from recipes.core.models.head import OutputHead
from recipes.core.models.precision import matmul_dtype, softmax_dtype


def max_logits(hidden: Tensor, head: OutputHead, counted: Tensor, chunk: int = CHUNK) -> Tensor:
    """mu_v = max over counted positions i of (hidden_i W^T + b)_v.

    Args:
        hidden: [B, L, d] what the head reads.
        head: A plain head, with or without a bias; gradients flow into its weight and bias.
        counted: bool [B, L] positions that count, at least one of each text.
        chunk: Positions whose logits exist at a time, at least those of one text.

    Returns:
        [B, V] fp32 (float64 of float64).
    """
    if not torch.is_grad_enabled():
        hidden, head = hidden.detach(), head.detach()
    options = (matmul_dtype(hidden), max(chunk // hidden.shape[1], 1))
    mu: Tensor = _MaxLogits.apply(hidden, head.weight, head.bias, counted, *options)
    return mu


class _MaxLogits(torch.autograd.Function):
    """mu [B, V]; which positions gave it is kept, the logits are not."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, counted: Tensor, dtype: torch.dtype, rows: int
    ) -> Tensor:
        """The maxima, text by text; a bias is the same at every position, and is added behind."""
        matrix, shape = weight.to(dtype), (len(hidden), len(weight))
        mu = hidden.new_empty(shape, dtype=softmax_dtype(dtype))
        places = torch.empty(shape, dtype=torch.int64, device=hidden.device)
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            logits = hidden[part].to(dtype) @ matrix.t()
            logits.masked_fill_(~counted[part, :, None], -torch.inf)
            if any(ctx.needs_input_grad):
                largest, places[part] = logits.max(1)
            else:
                largest = logits.amax(1)
            mu[part] = largest.to(mu.dtype)
        ctx.save_for_backward(hidden, weight, places)
        ctx.has_bias = bias is not None
        return mu if bias is None else mu.add_(bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """d mu_v / d hidden_i = W_v where i is the position of the maximum, 0 elsewhere."""
        refuse_second_derivatives()
        hidden, weight, places = ctx.saved_tensors
        states, matrix = hidden.to(grad.dtype), weight.to(grad.dtype)
        to_states, to_weight = torch.zeros_like(states), torch.zeros_like(matrix)
        for number, place in enumerate(places):
            one = grad[number, :, None]
            to_weight.addcmul_(one, states[number, place])
            to_states[number].index_add_(0, place, one * matrix)
        to_bias = grad.sum(0).to(weight.dtype) if ctx.has_bias else None
        return to_states.to(hidden.dtype), to_weight.to(weight.dtype), to_bias, None, None, None
