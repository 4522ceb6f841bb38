"""Selective language modelling: which tokens of a batch carry loss. Pure functions of tensors."""

import torch
from torch import Tensor


def select(scores: Tensor, mask: Tensor, share: float) -> Tensor:
    """The tokens of a batch with the highest scores.

    Args:
        scores: [sequences, time], for instance the excess loss: that of the model minus that of the reference, in nats.
        mask: [sequences, time] bool, True where a token is predicted.
        share: How many of those to select, in (0, 1]; at least one is.

    Returns:
        [sequences, time] bool; of equal scores the first in the batch are taken.

    Source:
        arXiv 2404.07965, equations 3 to 5: the loss is the mean over the top k% of the tokens by excess loss.
    """
    count = max(1, round(share * int(mask.sum())))
    best = scores[mask].argsort(descending=True, stable=True)[:count]
    chosen = torch.zeros_like(scores[mask], dtype=torch.bool)
    chosen[best] = True
    return torch.zeros_like(mask).masked_scatter(mask, chosen)
