"""Rows of different lengths in one padded batch: the largest of each, what is packed, gathered and normalised."""

import torch
from torch import Tensor

from recipes.core.models.precision import exact


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
    place = torch.arange(width, device=mask.device) if order is None else order
    index = torch.where(mask, place, width).argsort(dim=1, stable=True)[:, : int(count.max()) if len(count) else 0]
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
