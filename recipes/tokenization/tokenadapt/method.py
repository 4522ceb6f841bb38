"""Weights of old tokens in the row of a new one. Pure functions of tensors."""

import torch
from torch import Tensor

from recipes.core.models.rows import RowWeights

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
