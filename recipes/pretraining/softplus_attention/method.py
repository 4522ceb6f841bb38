"""Rows of attention weights that are no softmax: pure functions of tensors.

Per head, of queries and keys behind RoPE; N_i is how many keys query i sees.

    S_ij = scale_i (q_i . k_j)        q, k of length 1 and scale_i = log d log N_i, or q, k as they are and 1 / sqrt d
    A_i  = phi(S_i) / sum_j phi(S_ij)                             phi = exp (softmax), softplus, sigmoid, ...
    Z_ij = max(0, A_ij N_i - 1)  (N_i <= 3: A_ij N_i)  the excess over a uniform row
    R_i  = Z_i^p / sum_j Z_ij^p                                   re-weighting; where Z_i is all 0, R_i = A_i

Source:
    Softplus Attention with Re-weighting (arXiv 2501.13428), version 5, Sections 3 and 4. Two baselines do not divide by
    a sum: sigmoid attention (arXiv 2409.04431), sigmoid(S - log N_i), and ReLU attention (arXiv 2309.08586),
    relu(S) / N_i.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import elu, normalize, relu, softplus

from recipes.core.models.precision import exact

WHOLE_ROWS = 3  # a query that sees no more keys, one of the first three, keeps its whole row in the re-weighting

PHI: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": softplus,
    "sigmoid": torch.sigmoid,
    "relu": relu,
    "elu1": lambda scores: elu(scores) + 1,
}


@dataclass(frozen=True)
class Rows:
    """How a row of weights is made.

    Attributes:
        phi: Function of the scores: exp, softplus, sigmoid, relu, or elu1, which is elu + 1.
        scale: sqrt: 1 / sqrt d, of queries and keys as they are; log_d, log_n, log_d_log_n: of those of length 1.
        divide: Whether a row is divided by its sum.
        power: p of the re-weighting; None: there is none.
        bias: Whether log N_i is taken from scores before phi (sigmoid attention), as the row is not divided.
    """

    phi: str = "softplus"
    scale: str = "log_d_log_n"
    divide: bool = True
    power: float | None = None
    bias: bool = False


def attention_rows(queries: Tensor, keys: Tensor, visible: Tensor, rows: Rows, added: Tensor | None = None) -> Tensor:
    """Weights of values.

    Args:
        queries: [..., R, d]
        keys: [..., T, d]
        visible: bool [..., R, T], True for keys that a query sees.
        rows: How a row is made.
        added: [..., R, T] what is added to scores, as ALiBi does.

    Returns:
        [..., R, T] fp32 (float64 of float64), exactly 0 for keys that are not seen; all 0 for a query that sees none.
    """
    queries, keys = exact(queries), exact(keys)
    count = visible.sum(-1, keepdim=True).to(queries)
    scores = _scores(queries, keys, count, rows.scale)
    if added is not None:
        scores = scores + added
    weights = _phi(scores, visible, count, rows)
    if rows.divide:
        weights = weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    elif not rows.bias:
        weights = weights / count.clamp_min(1)
    return weights if rows.power is None else reweight(weights, count, rows.power)


def reweight(weights: Tensor, count: Tensor, power: float) -> Tensor:
    """Keep the excess of each weight over a uniform row, raised to a power.

    Z is divided by the largest of its row before the power, which changes no row and overflows nowhere.

    Args:
        weights: [..., R, T] not negative.
        count: [..., R, 1] keys that each query sees.
        power: p

    Returns:
        [..., R, T]; rows of which no weight stands out are left as they are.
    """
    excess = relu(weights * count - (count > WHOLE_ROWS).to(weights))
    largest = excess.amax(-1, keepdim=True)
    stands_out = largest > torch.finfo(weights.dtype).eps
    # A gradient through 0^p / 0 would be NaN even where the result is not taken.
    raised = (excess / torch.where(stands_out, largest, 1)).pow(power)
    total = torch.where(stands_out, raised.sum(-1, keepdim=True), 1)
    return torch.where(stands_out, raised / total, weights)


def alibi_slopes(heads: int) -> Tensor:
    """[heads] m_h = 2^(-8 h / heads): how fast a head forgets.

    Source:
        ALiBi (arXiv 2108.12409), Section 3; for powers of two as published, for other numbers the same sequence.
    """
    return torch.tensor([2.0 ** (-8 * (head + 1) / heads) for head in range(heads)])


def _scores(queries: Tensor, keys: Tensor, count: Tensor, scale: str) -> Tensor:
    width = queries.shape[-1]
    if scale == "sqrt":
        return queries @ keys.mT * width**-0.5
    products = normalize(queries, dim=-1) @ normalize(keys, dim=-1).mT
    by_width = 1.0 if scale == "log_n" else math.log(width)
    return products * by_width if scale == "log_d" else products * by_width * count.clamp_min(1).log()


def _phi(scores: Tensor, visible: Tensor, count: Tensor, rows: Rows) -> Tensor:
    if rows.phi == "exp":
        hidden = scores.masked_fill(~visible, -torch.inf)
        largest = hidden.amax(-1, keepdim=True) if rows.divide else torch.zeros_like(count)
        return (hidden - largest.masked_fill(largest.isinf(), 0).detach()).exp()
    if rows.bias:
        scores = scores - count.clamp_min(1).log()
    return PHI[rows.phi](scores).masked_fill(~visible, 0)
