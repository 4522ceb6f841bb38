"""Rotary positions that are turned off, or stretched for texts longer than those of training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from recipes.pretraining.softplus_attention.config import INTERPOLATION, NONE


class NoRotation(nn.Module):
    """Stands in for the rotary embedding of a Llama-type model: it turns nothing.

    Args:
        width: Of a head.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, hidden: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, width] cosines, all 1, and sines, all 0."""
        ones = torch.ones(*position_ids.shape, self.width, dtype=hidden.dtype, device=hidden.device)
        return ones, torch.zeros_like(ones)


@contextmanager
def stretched(rotary: Any, kind: str, factor: float) -> Iterator[None]:
    """Inside the block texts may be `factor` times as long as in training.

    Args:
        rotary: `rotary_emb` of a Llama-type model, with its frequencies [width / 2].
        kind: "none", "interpolation" or "ntk".
        factor: 1 or more.

    Source:
        Position interpolation (arXiv 2306.15595): positions divided by the factor. NTK-aware RoPE (bloc97, 2023): the
        base times factor^(d / (d - 2)), so that the slowest frequency is divided by the factor and the fastest stays.
    """
    if kind == NONE or factor == 1:
        yield
        return
    frequencies: Tensor = rotary.inv_freq
    before, count = frequencies.clone(), len(frequencies)
    steps = torch.arange(count, device=frequencies.device, dtype=frequencies.dtype)
    share = torch.ones_like(steps) if kind == INTERPOLATION else steps / max(count - 1, 1)
    frequencies.copy_(before * factor**-share)
    try:
        yield
    finally:
        frequencies.copy_(before)
