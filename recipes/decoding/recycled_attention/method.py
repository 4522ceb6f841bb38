"""Recycled Attention: which keys a decoding step attends to. Tensors of one layer; no model here.

Heads come in groups that share their keys: H query heads, G key heads. A full step attends to all keys before it and
scores them; the k best become a queue, the lowest score first. A recycled step adds its own key behind the queue,
attends to all of it, and drops the first key.

Source:
    arXiv 2411.05787.
"""

from bisect import bisect_left

import torch
from torch import Tensor
from torch.nn import functional

SCORE, OLDEST = "score", "oldest"  # which key of the queue is dropped first
MAX, MEAN = "max", "mean"


def group_scores(weights: Tensor, groups: int, how: str = MAX) -> Tensor:
    """Scores of keys from the attention of the heads that share them.

    Args:
        weights: [..., H, rows, T] attention after the softmax.
        groups: G, which divides H.
        how: The largest of a group's heads, or their mean.

    Returns:
        [..., G, rows, T]
    """
    heads = weights.unflatten(-3, (groups, -1))
    return heads.amax(-3) if how == MAX else heads.mean(-3)


def smooth(scores: Tensor, kernel: int) -> Tensor:
    """The largest score among `kernel` neighbours, itself in their middle; [..., rows, T] of both."""
    if kernel == 1 or not scores.numel():
        return scores
    flat = scores.reshape(-1, 1, scores.shape[-1])
    return functional.max_pool1d(flat, kernel, 1, kernel // 2).view(scores.shape)


def best(scores: Tensor, k: int) -> Tensor:
    """int64 [..., min(k, T)] positions of the largest scores [..., T], best first; the first of equal ones."""
    k = min(k, scores.shape[-1])
    if not k:
        return scores.new_zeros(*scores.shape[:-1], 0, dtype=torch.int64)
    # `topk` takes any of equal scores: all above the smallest that it takes, and the first of those equal to it.
    least = scores.topk(k, -1).values[..., -1:]
    above, equal = scores > least, scores == least
    chosen = above | equal & (equal.cumsum(-1) <= k - above.sum(-1, keepdim=True))
    positions = chosen.nonzero()[:, -1].view(*scores.shape[:-1], k)
    order = scores.gather(-1, positions).sort(dim=-1, descending=True, stable=True).indices
    return positions.gather(-1, order)


def queue(scores: Tensor, k: int, evict: str = SCORE) -> Tensor:
    """int64 [..., min(k, T)] positions of the best scores [..., T] in the order in which they are dropped."""
    positions = best(scores, k)
    return positions.flip(-1) if evict == SCORE else positions.sort(-1).values


def places(scores: Tensor, refreshed: Tensor, k: int, evict: str = SCORE) -> Tensor:
    """Where each column stands in the list of a full step: its queue, then all that comes behind the step.

    Args:
        scores: [..., F, T] of all columns; those behind a step are not looked at.
        refreshed: int64 [F] position of each full step.
        k: Keys in a queue; all that there are if there are fewer.
        evict: Which of them is dropped first.

    Returns:
        int64 [..., F, T] places from 0, that of the key which is dropped first; -1 for what is not in the list.
    """
    length, ends = scores.shape[-1], refreshed[:, None]
    behind = torch.arange(length, device=scores.device) - ends
    chosen = best(scores.masked_fill(behind > 0, -torch.inf), k)
    sizes, ranks = (ends + 1).clamp(max=k), torch.arange(chosen.shape[-1], device=scores.device)
    if evict == SCORE:
        place = sizes - 1 - ranks
    else:
        place = ranks.expand(len(refreshed), -1)
        chosen = torch.where(ranks < sizes, chosen, length).sort(-1).values
    place = torch.where(ranks < sizes, place, -1).expand(chosen.shape)
    listed = chosen.new_full((*scores.shape[:-1], length + 1), -1).scatter(-1, chosen, place)[..., :length]
    return torch.where(behind > 0, sizes - 1 + behind, listed)


def recycled_rows(scores: Tensor, refreshed: Tensor, rows: Tensor, k: int, evict: str = SCORE) -> Tensor:
    """The mask under which one forward says what decoding step by step would say.

    Row f + j behind a full step f sees the list of f up to itself, without what j - 1 steps have dropped; as long as
    there are fewer than k keys, nothing is dropped.

    Args:
        scores: [..., F, T] as in `places`.
        refreshed: int64 [F] full steps, in rising order.
        rows: int64 [R] positions, none before the first full step.
        k: Keys in a queue.
        evict: Which of them is dropped first.

    Returns:
        bool [..., R, T]: k + 1 columns, or all up to the row where it is a full step.
    """
    step = torch.searchsorted(refreshed, rows, right=True) - 1
    since = rows - refreshed[step]
    dropped = ((refreshed[step] + 1).clamp(max=k) + since - 1 - k).clamp(min=0)
    causal = torch.arange(scores.shape[-1], device=scores.device) <= rows[:, None]
    listed = places(scores, refreshed, k, evict)[..., step, :] >= dropped[:, None]
    return causal & (listed | (since == 0)[:, None])


def fixed_refreshes(first: int, length: int, stride: int) -> Tensor:
    """int64 positions of the full steps: the last token of the prompt, and every `stride`-th behind it."""
    return torch.arange(first, length, stride)


def similarity(one: Tensor, other: Tensor) -> float:
    """Cosine between two queries [d], each the mean over the query heads of a layer; within [-1, 1]."""
    return float(functional.cosine_similarity(one.float(), other.float(), 0).clamp(-1, 1))


def dynamic_refreshes(queries: Tensor, first: int, every: int, least: float) -> Tensor:
    """Full steps of a layer that looks, every so many steps, how far its query has moved.

    Args:
        queries: [T, d] of all positions, the mean over the query heads.
        first: The last token of the prompt, which is a full step.
        every: Steps from one check to the next.
        least: A check at which the cosine to the query of the last full step is not above this is a full step.

    Returns:
        int64 [F] positions.
    """
    steps = [first]
    for row in range(first + every, len(queries), every):
        if similarity(queries[row], queries[steps[-1]]) <= least:
            steps.append(row)
    return torch.tensor(steps, device=queries.device)


def keys_read(start: int, length: int, k: int, stride: int = 0) -> list[int]:
    """Keys that each row from `start` on attends to, itself included.

    Args:
        start: Tokens of the prompt.
        length: Tokens that are read in all.
        k: Keys besides itself.
        stride: Every so many steps behind the last token of the prompt all keys are read; 0: never.
    """
    full = [bool(stride) and (row - start + 1) % stride == 0 for row in range(start, length)]
    return [row + 1 if all_ else min(k, row) + 1 for row, all_ in zip(range(start, length), full, strict=True)]


def equal_budget(start: int, length: int, k: int, stride: int) -> int:
    """Keys that a cache which is never refreshed may keep, so that it reads as many as a recycled one in all.

    Arguments as in `keys_read`; of two that are equally near the smaller.
    """
    total = sum(keys_read(start, length, k, stride))

    def reads(kept: int) -> int:
        return sum(keys_read(start, length, kept))

    enough = bisect_left(range(1, length), total, key=reads) + 1
    return min((max(enough - 1, 1), enough), key=lambda kept: abs(reads(kept) - total))


def recovered_mass(weights: Tensor, seen: Tensor) -> Tensor:
    """Attention that stays where it was if only some keys are seen.

    Args:
        weights: [..., H, R, T] after the softmax over all keys.
        seen: bool [..., G, R, T].

    Returns:
        [..., R] mean over the heads.
    """
    heads = weights.unflatten(-3, (seen.shape[-3], -1))
    return (heads * seen.unsqueeze(-3)).sum(-1).flatten(-3, -2).mean(-2)
