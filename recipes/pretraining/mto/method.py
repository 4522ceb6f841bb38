"""How visible and masked tokens look at each other: pure functions of tensors.

N tokens of an image, M of them masked, V visible; A [N, N] attention of a layer, mean over heads, rows sum to 1;
X [N, D] tokens that enter it; layers l = 1 .. L; d_l = last^((l - 1) / (L - 1)), 1 in the first layer.

    Het  = mean over i in V of H(P_i) / log |M|,   P_ij = softmax over j in M of cos(X_i, X_j) / tau
    spa  = mean over i in V of sum over j in M of A_ij                                       weight d_l
    e    = mean over i in V of H(A_i restricted to M, renormalised) / log |M|                weight 1 - d_l
    r    = mean over j in M of max(0, cos(X_j - c, v - c) - m)^2,  v the mean of V           weight d_l
    recalibration: A_ij of i in V, j in M becomes 0 where A_ij < theta; then row i is divided by its sum

All of them are 0 without masked tokens, entropies also of a single one.

Source:
    Principles: Emerging Property of Masked Token for Effective Pre-training (arXiv 2404.08330). Its equations could
    not be read: every formula here is a reconstruction.
"""

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from recipes.core.models.precision import exact

SMALLEST = 1e-12  # probabilities are no smaller where their logarithm is taken


def depth_weights(layers: int, last: float = 0.1) -> Tensor:
    """[layers] d_l, falling from 1 in the first layer to `last` in the last one."""
    return last ** torch.linspace(0, 1, layers) if layers > 1 else torch.ones(1)


def masked_mass(rows: Tensor, masked: Tensor) -> Tensor:
    """`spa` of one layer: the share of their attention that visible tokens pay to masked ones.

    Args:
        rows: [B, N, N] attention, mean over heads.
        masked: bool [B, N]

    Returns:
        [B], 0 of images without visible tokens.
    """
    return _mean((rows * masked[:, None]).sum(-1), ~masked)


def masked_entropy(rows: Tensor, masked: Tensor) -> Tensor:
    """`e` of one layer: 1 where visible tokens look at all masked ones alike; arguments as in `masked_mass`. [B]"""
    among = rows * masked[:, None]
    return _mean(_entropy(among / among.sum(-1, keepdim=True).clamp_min(SMALLEST), masked), ~masked)


def affinity(tokens: Tensor, masked: Tensor, tau: float = 0.1) -> Tensor:
    """P of tokens [B, N, D]: [B, N, N] over masked tokens, by their cosine; rows are 0 where none is masked."""
    directions = normalize(exact(tokens), dim=-1)
    logits = (directions @ directions.mT / tau).masked_fill(~masked[:, None], torch.finfo(torch.float32).min)
    return logits.softmax(-1) * masked[:, None]


def heterogeneity(tokens: Tensor, masked: Tensor, tau: float = 0.1) -> Tensor:
    """Het of the tokens [B, N, D] that enter a layer: [B] from 0 to 1, which it is if all masked tokens are equal."""
    return _mean(_entropy(affinity(tokens, masked, tau), masked), ~masked)


def likeness(tokens: Tensor, masked: Tensor, centre: Tensor, margin: float = 0.0) -> Tensor:
    """`r` of one layer: how much masked tokens look like the mean of the visible ones.

    Args:
        tokens: [B, N, D] that enter the layer.
        masked: bool [B, N]
        centre: [D] what all tokens have in common; it is taken away first.
        margin: m

    Returns:
        [B]
    """
    centred = exact(tokens) - centre
    visible = (~masked)[..., None].to(centred)
    mean = (centred * visible).sum(1, keepdim=True) / visible.sum(1, keepdim=True).clamp_min(1)
    return _mean((cosine_similarity(centred, mean, dim=-1) - margin).clamp_min(0).square(), masked)


def recalibrate(rows: Tensor, masked: Tensor, theta: float) -> Tensor:
    """Rows in which visible tokens pay masked ones at least `theta` each, or nothing.

    Args:
        rows: [B, H, N, N] attention; what a token pays to itself is above 0.
        masked: bool [B, N]
        theta: Least weight that is kept.

    Returns:
        Rows of masked tokens as they were, those of visible ones without small weights, divided by their sum.
    """
    left_out = (~masked)[:, None, :, None] & masked[:, None, None, :] & (rows < theta)
    kept = rows.masked_fill(left_out, 0)
    kept = kept / kept.sum(-1, keepdim=True).clamp_min(SMALLEST)
    return torch.where(left_out.any(-1, keepdim=True), kept, rows)


def _entropy(rows: Tensor, masked: Tensor) -> Tensor:
    """[B, N] entropy of rows [B, N, N] over masked tokens, as a share of its maximum log |M|; 0 of fewer than two."""
    entropy = -(rows * rows.clamp_min(SMALLEST).log()).sum(-1)
    most = masked.sum(1, keepdim=True).to(entropy)
    return entropy / most.clamp_min(2).log() * (most > 1)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """[B] mean of values [B, N] over the chosen tokens; 0 where none is."""
    return (values * chosen).sum(1) / chosen.sum(1).clamp_min(1)
