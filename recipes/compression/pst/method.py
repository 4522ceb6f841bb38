"""Scores of weights, the mask that they make, its gradient, and how sparsity grows: pure functions of tensors.

W [out, in] are the weights of a linear layer, M its mask of 0 and 1; the layer computes with M * W.

Source:
    Parameter-Efficient Sparsity for Large Language Models Fine-Tuning (arXiv 2205.11005), Section 3; the schedule is
    that of gradual pruning (arXiv 1710.01878), the straight-through gradient that of movement pruning (arXiv
    2005.07683).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Cubic:
    """The share of zeros after each step.

    Attributes:
        initial: Before it grows.
        final: Behind that.
        warmup: Share of the steps before it grows.
        cooldown: Share of the steps behind that.
        steps: Of the training.
    """

    initial: float
    final: float
    warmup: float
    cooldown: float
    steps: int

    def is_final(self, step: int) -> bool:
        """Whether the final sparsity is reached after so many steps."""
        return step > self.steps - self.cooldown * self.steps or step >= self.steps

    def at(self, step: int) -> float:
        """s1 + (s0 - s1) (1 - (t - a T) / (T - (a + b) T))^3 between the two, t being the steps done."""
        begin = self.warmup * self.steps
        if self.is_final(step):
            return self.final
        if step <= begin:
            return self.initial
        grown = (step - begin) / (self.steps - begin - self.cooldown * self.steps)
        return self.final + (self.initial - self.final) * (1 - grown) ** 3


def low_rank_scores(
    weight: Tensor,
    factors: tuple[Tensor, Tensor] | None,
    lines: tuple[Tensor, Tensor] | None,
    alphas: Sequence[float],
    magnitude: bool = True,
) -> Tensor:
    """S = |W| + alpha1 A B + alpha2 (R 1^T + 1 C^T), without the parts that are left out.

    Args:
        weight: [out, in] W. It is not detached: d|W| / dW = sign(W) is part of the gradient.
        factors: A [out, r], B [r, in].
        lines: R [out], C [in].
        alphas: alpha1 and alpha2.
        magnitude: Whether |W| is a part.

    Returns:
        [out, in]
    """
    scores = weight.abs() if magnitude else torch.zeros_like(weight)
    if factors is not None:
        scores = torch.addmm(scores, *factors, alpha=alphas[0])
    if lines is not None:
        scores = scores + alphas[1] * (lines[0][:, None] + lines[1])
    return scores


@torch.no_grad()
def mask_lowest(scores: Tensor, zeros: int) -> Tensor:
    """bool, False at the `zeros` lowest scores: the mask of a stable sort, without sorting.

    Of equal scores those that come first in the flattened matrix are lower.
    """
    flat = scores.detach().flatten()
    if zeros <= 0:
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = _kth_smallest(flat, zeros)
    kept, ties = flat > threshold, flat == threshold
    # Of the scores at the threshold only so many are zeros as the lower ones leave to be.
    spare = zeros - (len(flat) - int(kept.sum()) - int(ties.sum()))
    if int(ties.sum()) > spare:
        kept |= ties & (ties.cumsum(0) > spare)
    return kept.view_as(scores)


def _kth_smallest(flat: Tensor, k: int) -> Tensor:
    """The k-th smallest number, k from 1; NumPy's selection is several times as fast as torch's on a CPU."""
    if flat.device.type != "cpu" or flat.dtype not in (torch.float32, torch.float64):
        return flat.kthvalue(k).values
    return torch.as_tensor(np.partition(flat.numpy(), k - 1)[k - 1])


class _Masked(torch.autograd.Function):
    """M * W, with the straight-through gradient dL/dS := dL/dM = G * W, where M = 0 as well."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(weight, mask)
        return weight * mask

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # type: ignore[override]
        weight, mask = ctx.saved_tensors
        by_weight, by_scores, _ = ctx.needs_input_grad
        return (gradient * mask if by_weight else None), (gradient * weight if by_scores else None), None


def masked_weight(weight: Tensor, scores: Tensor, zeros: int) -> Tensor:
    """M * W of the mask that scores make, differentiable in both.

    Args:
        weight: [out, in]
        scores: [out, in]; without gradient the mask is a constant.
        zeros: Of the mask.
    """
    product: Tensor = _Masked.apply(weight, scores, mask_lowest(scores, zeros))  # type: ignore[no-untyped-call]
    return product


def jaccard(kept: Tensor, other: Tensor) -> float:
    """Weights that both masks keep, of those that one of them keeps; 1 where neither keeps any."""
    either = int((kept | other).sum())
    return int((kept & other).sum()) / either if either else 1.0
