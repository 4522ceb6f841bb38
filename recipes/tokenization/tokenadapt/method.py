"""Weights of old tokens in the row of a new one. Pure functions of tensors."""

import torch
from torch import Tensor

from recipes.tokenization.rows import RowWeights

BOTH, SIMILARITY, LENGTH = "both", "similarity", "length"


def local_weights(
    similarities: Tensor, shares: Tensor, owners: Tensor, count: int, tau: float, factors: str = BOTH
) -> Tensor:
    """Weights of the pieces that spell new tokens.

    u = softmax(a) over the pieces of a token, c = (u + lambda) / 2, w = softmax(c / tau).

    Args:
        similarities: [n] cosine a of each piece and its token.
        shares: [n] lambda, characters of the piece over those of the token.
        owners: int64 [n] which token each piece belongs to.
        count: Tokens.
        tau: Temperature.
        factors: "both"; "similarity": c = u; "length": c = lambda.

    Returns:
        [n], summing to 1 over the pieces of each token.

    Source:
        arXiv 2505.09738, Section 3.1; src/transplant.py adds 1e-5 to tau.
    """
    likeness = segment_softmax(similarities, owners, count)
    scores = {BOTH: (likeness + shares) / 2, SIMILARITY: likeness, LENGTH: shares}[factors]
    return segment_softmax(scores / tau, owners, count)


def segment_softmax(values: Tensor, owners: Tensor, count: int) -> Tensor:
    """[n] softmax of `values` [n] among those with the same owner."""
    largest = torch.full((count,), -torch.inf, dtype=values.dtype).scatter_reduce(0, owners, values, "amax")
    powers = (values - largest[owners]).exp()
    return powers / torch.zeros(count, dtype=values.dtype).index_add(0, owners, powers)[owners]


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


def mix(local: RowWeights, neighbours: RowWeights, share: float) -> RowWeights:
    """(1 - share) local + share neighbours where a row has both; else the one that it has."""
    both = ~local.missing & ~neighbours.missing
    parts = [(local, 1 - share), (neighbours, share)]
    values = [part.values * torch.where(both[part.targets], weight, 1.0) for part, weight in parts]
    joined = RowWeights(
        local.count,
        torch.cat([local.targets, neighbours.targets]),
        torch.cat([local.sources, neighbours.sources]),
        torch.cat(values),
    )
    counts = joined.values != 0  # a share of 0 leaves the other bit for bit
    return RowWeights(local.count, joined.targets[counts], joined.sources[counts], joined.values[counts])
