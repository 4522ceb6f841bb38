"""Rank losses of the logits of names, by the ranks that a teacher gives the passages. Pure functions of tensors."""

import torch
from torch import Tensor
from torch.nn import functional

from recipes.retrieval.letters.config import LAMBDARANK, LISTNET, RANKNET, WEIGHTED


def rank_losses(scores: Tensor, ranks: Tensor, name: str = WEIGHTED) -> Tensor:
    """The loss of each list, [lists]; 0 for lists with fewer than two passages.

    Args:
        scores: [lists, n] logits of the names.
        ranks: int64 [lists, n] ranks by the teacher, 1 is best; 0 where a list has no passage.
        name: "ranknet_weighted": 1 / (r_i + r_j) times softplus(s_j - s_i), mean over the pairs with r_i < r_j;
            "ranknet": without the weights; "lambdarank": weighted by the change of DCG if the two changed places;
            "listnet": cross-entropy of softmax(s) to softmax(gains).

    Source:
        arXiv 2406.15657, section 3.2, for the first; the official code has the others.
    """
    if name == LISTNET:
        return _listnet(scores, ranks)
    # [lists, i, j]: i is before j by the teacher
    pairs = (ranks[:, :, None] < ranks[:, None]) & (ranks[:, :, None] > 0)
    terms = functional.softplus(scores[:, None] - scores[:, :, None]) * _pair_weights(scores, ranks, name)
    count = pairs.sum((1, 2))
    return terms.masked_fill(~pairs, 0).sum((1, 2)) / count.clamp_min(1)


def pair_agreement(scores: Tensor, ranks: Tensor) -> Tensor:
    """[lists] share of the pairs that scores order as the teacher does; equal scores count half."""
    pairs = (ranks[:, :, None] < ranks[:, None]) & (ranks[:, :, None] > 0)
    signs = torch.sign(scores[:, :, None] - scores[:, None])
    right = ((signs + 1) / 2).masked_fill(~pairs, 0)
    return right.sum((1, 2)) / pairs.sum((1, 2)).clamp_min(1)


def _pair_weights(scores: Tensor, ranks: Tensor, name: str) -> Tensor:
    """[lists, n, n] or a number."""
    if name == RANKNET:
        return scores.new_ones(1, 1, 1)
    if name == WEIGHTED:
        return 1 / (ranks[:, :, None] + ranks[:, None]).clamp_min(1).to(scores.dtype)
    if name != LAMBDARANK:
        raise ValueError(f"there is no rank loss {name}")
    gains = _gains(ranks, scores.dtype)
    hidden = scores.detach().masked_fill(ranks == 0, -torch.inf)
    places = hidden.argsort(dim=1, descending=True, stable=True).argsort(dim=1) + 1  # by the scores now
    discounts = 1 / torch.log2(1 + places.to(scores.dtype))
    best = (gains / torch.log2(1 + ranks.clamp_min(1).to(scores.dtype))).sum(1).clamp_min(1e-12)
    changes = (gains[:, :, None] - gains[:, None]).abs() * (discounts[:, :, None] - discounts[:, None]).abs()
    return changes / best[:, None, None]


def _listnet(scores: Tensor, ranks: Tensor) -> Tensor:
    absent = ranks == 0
    target = _gains(ranks, scores.dtype).masked_fill(absent, -torch.inf).softmax(1)
    logs = scores.masked_fill(absent, -torch.inf).log_softmax(1).masked_fill(absent, 0)
    return -(target * logs).sum(1) * ((~absent).sum(1) > 1)


def _gains(ranks: Tensor, dtype: torch.dtype) -> Tensor:
    """[lists, n] (2^(n - r) - 1) / 2^n of a list of n, 0 where there is no passage."""
    count = (ranks > 0).sum(1, keepdim=True)
    gains = torch.exp2((-ranks).to(dtype)) - torch.exp2((-count).to(dtype))
    return gains.masked_fill(ranks == 0, 0)
