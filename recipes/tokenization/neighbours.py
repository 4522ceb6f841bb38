"""Rows from old tokens that are near in some space: weights of neighbours, sparsemax over shared tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor

from recipes.core.models.nearest import nearest
from recipes.core.models.rows import RowWeights, weighted_rows

CHUNK = 256  # tokens whose likeness to all others is in memory at a time


def neighbour_weights(similarities: Tensor, tau: float, threshold: float = 0.0) -> Tensor:
    """Weights of the nearest old tokens: softmax(g / tau), without those below the threshold.

    Args:
        similarities: [tokens, k] cosines g.
        tau: Temperature.
        threshold: Smallest cosine that counts.

    Returns:
        [tokens, k], summing to 1; all 0 where none counts.

    Source:
        arXiv 2505.09738, Section 3.1.
    """
    weights = (similarities / tau).softmax(-1).masked_fill(similarities < threshold, 0)
    total = weights.sum(-1, keepdim=True)
    return torch.where(total > 0, weights / total.clamp(min=torch.finfo(weights.dtype).tiny), 0)


def sparsemax(scores: Tensor) -> Tensor:
    """[..., n] the nearest point of the simplex: max(z - theta, 0), summing to 1.

    Source:
        arXiv 1602.02068, algorithm 1; weights of FOCUS (arXiv 2305.14481, equation 3).
    """
    ordered = scores.sort(dim=-1, descending=True).values
    sums = ordered.cumsum(-1)
    places = torch.arange(1, scores.shape[-1] + 1, dtype=scores.dtype, device=scores.device)
    support = (1 + places * ordered > sums).sum(-1, keepdim=True)
    theta = (sums.gather(-1, support - 1) - 1) / support
    return (scores - theta).clamp(min=0)


def neighbour_rows(
    count: int,
    tokens: Sequence[int],
    vectors: Tensor,
    among: Tensor,
    keys: Tensor,
    k: int,
    tau: float,
    threshold: float,
) -> RowWeights:
    """Rows of the k nearest old tokens, weighted by `neighbour_weights`; none of a token whose neighbours do not count.

    Args:
        count: New rows.
        tokens: New ids [n].
        vectors: [n, d] of length 1.
        among: int64 [m] old ids.
        keys: [m, d] their vectors, of length 1.
        k: Neighbours.
        tau: Temperature.
        threshold: Smallest cosine that counts.
    """
    if not tokens or not len(among):
        return weighted_rows(count, [], [], [])
    alike, places = nearest(vectors, keys, min(k, len(among)))
    weights = neighbour_weights(alike, tau, threshold)
    rows = [(token, among[at][row > 0], row[row > 0]) for token, at, row in zip(tokens, places, weights, strict=True)]
    rows = [row for row in rows if len(row[1])]
    return weighted_rows(count, [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])


def focus_rows(count: int, tokens: Sequence[int], vectors: Tensor, among: Tensor, keys: Tensor) -> RowWeights:
    """Rows of old tokens weighted by the sparsemax of their likeness to the new one; arguments as `neighbour_rows`.

    Source:
        FOCUS (arXiv 2305.14481), Section 3.
    """
    if not tokens or not len(among):
        return weighted_rows(count, [], [], [])
    sources, values = list[Tensor](), list[Tensor]()
    for part in vectors.split(CHUNK):
        for row in sparsemax(part @ keys.T):
            sources.append(among[row > 0])
            values.append(row[row > 0])
    return weighted_rows(count, tokens, sources, values)
