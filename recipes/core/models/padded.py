"""Rows of different lengths in padded batches: which stand together; what is selected, packed and pooled of each."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from recipes.core.models.precision import exact

BATCH_TOKENS = 8192
CPU_TOKENS = 2048  # of a forward of an encoder on a CPU: more do not fit its caches, and took a third more time
POOLINGS = ("mean", "first", "last")


def ranks(scores: Tensor, among: Tensor) -> Tensor:
    """[B, N] rank of each token, 0 for the largest score; of equal ones the earlier comes first. Others come last."""
    order = scores.masked_fill(~among, -torch.inf).argsort(dim=1, descending=True, stable=True)
    return torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )


def top(scores: Tensor, counts: Tensor, among: Tensor) -> Tensor:
    """[B, N] bool: the `counts` [B] tokens of `among` with the largest finite scores."""
    return (ranks(scores, among) < counts[:, None]) & among


def pack(mask: Tensor, order: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Indices of the True entries of each row, padded with 0, and which of them are no padding.

    Args:
        mask: [B, N] bool.
        order: [B, N] ints in [0, N) to sort the indices by; None: ascending.

    Returns:
        ([B, M], [B, M] bool), M the largest count.
    """
    count, width = mask.sum(1), mask.shape[1]
    position = torch.arange(width, device=mask.device) if order is None else order
    index = torch.where(mask, position, width).argsort(dim=1, stable=True)[:, : int(count.max()) if len(count) else 0]
    valid = torch.arange(index.shape[1], device=mask.device) < count[:, None]
    return index.masked_fill(~valid, 0), valid


def gather(values: Tensor, indices: Tensor) -> Tensor:
    """[B, M, ...] the entries of `values` [B, N, ...] at `indices` [B, M]."""
    rows = torch.arange(len(indices), device=indices.device)[:, None]
    return values[rows, indices]


def normalise(values: Tensor, among: Tensor) -> Tensor:
    """[B, N] values over `among` divided by their sum, 0 elsewhere; all equal if the sum is 0."""
    values = torch.where(among, exact(values), 0)
    total = values.sum(1, keepdim=True)
    return torch.where(total > 0, values / total, among / among.sum(1, keepdim=True).clamp(min=1))


def batches(lengths: Sequence[int] | np.ndarray, batch_tokens: int) -> list[list[int]]:
    """Row numbers in batches of at most `batch_tokens` padded tokens, longest first.

    Longest first, so that a batch too large for the device fails at once. A row longer than the budget is a batch of
    its own.
    """
    groups: list[list[int]] = []
    width = 0
    for i in np.argsort(-np.asarray(lengths), kind="stable"):
        if not groups or (len(groups[-1]) + 1) * width > batch_tokens:
            groups.append([])
            width = int(lengths[i])
        groups[-1].append(int(i))
    return groups


def forward_tokens(batch_tokens: int, device: str) -> int:
    """Padded tokens of a forward of an encoder that are fastest on a device, at most `batch_tokens`."""
    return min(batch_tokens, CPU_TOKENS) if device == "cpu" else batch_tokens


def distinct_rows(rows: Sequence[Sequence[int] | np.ndarray]) -> tuple[list[tuple[int, ...]], list[int]]:
    """Each row of ids once, in the order of its first place; and for every row the number of the one it equals."""
    numbers: dict[tuple[int, ...], int] = {}
    indices = [numbers.setdefault(tuple(np.asarray(row).tolist()), len(numbers)) for row in rows]
    return list(numbers), indices


def pad_rows(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids, 0 where a row has none, and int mask, both int64 [rows, longest], padded on the right."""
    ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()


def pool(states: Tensor, mask: Tensor, pooling: str = "mean") -> Tensor:
    """One vector a row, in what sums are computed in.

    Args:
        states: [B, T, d]
        mask: [B, T] bool, False for padding on either side; each row has a token.
        pooling: "mean" of its tokens, the "first" (CLS) or the "last" one.

    Returns:
        [B, d]
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling {pooling!r} is none of {', '.join(POOLINGS)}")
    states, mask = exact(states), mask.to(states.device)
    if pooling == "mean":
        weights = mask.to(states.dtype)[..., None]
        return (states * weights).sum(1) / weights.sum(1)
    position = torch.arange(mask.shape[1], device=mask.device)
    at = (
        position.masked_fill(~mask, mask.shape[1]).amin(1)
        if pooling == "first"
        else position.masked_fill(~mask, -1).amax(1)
    )
    return gather(states, at[:, None])[:, 0]
