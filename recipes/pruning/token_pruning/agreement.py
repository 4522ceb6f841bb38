"""How well pruned embeddings keep the similarities between texts: rank correlations with those of the unpruned encoder.

Source: arXiv 2305.17328 has no such experiment; the measure is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import pearsonr, rankdata
from torch import Tensor
from torch.nn.functional import normalize

FEWEST = 3  # texts; of two there is one similarity, which has no order

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Agreement:
    """Spearman correlations, 1 where the order is the same and 0 where all similarities are equal.

    Attributes:
        each: Of each text, over its similarities to all others.
        pairs: Over the similarities of all pairs.
    """

    each: list[float]
    pairs: float


def agreement(pruned: Sequence[Tensor], unpruned: Sequence[Tensor]) -> Agreement:
    """Compare the cosine similarities among texts under two encoders.

    Args:
        pruned: [d] embedding of each text, at least three.
        unpruned: [d] of each text by the encoder that is right.
    """
    ours, theirs = similarities(pruned), similarities(unpruned)
    others = ~np.eye(len(ours), dtype=bool)
    rows = (len(ours), len(ours) - 1)
    each = _spearman(ours[others].reshape(rows), theirs[others].reshape(rows))
    upper = np.triu_indices(len(ours), 1)
    return Agreement(each.tolist(), float(_spearman(ours[upper][None], theirs[upper][None])[0]))


def similarities(embeddings: Sequence[Tensor]) -> Array:
    """[n, n] cosine similarities of n embeddings [d]."""
    unit = normalize(torch.stack(list(embeddings)).double().cpu(), dim=1)
    cosines: Array = (unit @ unit.T).numpy()
    return cosines


def _spearman(ours: Array, theirs: Array) -> Array:
    """[rows] rank correlation of each row."""
    correlations = np.zeros(len(ours))
    ordered = (np.ptp(ours, axis=1) > 0) & (np.ptp(theirs, axis=1) > 0)
    if ordered.any():
        a, b = (rankdata(values[ordered], axis=1) for values in (ours, theirs))
        correlations[ordered] = pearsonr(a, b, axis=1).statistic
    return correlations
