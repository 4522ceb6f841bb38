"""What models of words cost and see: pure functions."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def hierarchy_cost(unit: float, word: float, units: float, size: float) -> float:
    """FLOPs of a forward over one byte of a hierarchy: 2 N_unit (u + 1) / L + 2 N_word / L.

    Args:
        unit: Parameters that a unit passes, encoder, decoder and head.
        word: Parameters that a word passes, the backbone and the maps to it.
        units: u, units of a word; its end is one more.
        size: L, bytes of a word.

    Source:
        arXiv 2501.10322, compute matching.
    """
    return 2 * (unit * (units + 1) + word) / size


def flat_cost(weights: float, units: float, size: float) -> float:
    """FLOPs of a forward over one byte of a flat model: 2 N u / L, as in `hierarchy_cost`."""
    return 2 * weights * units / size


def attention_cost(width: int, layers: int, context: float) -> float:
    """FLOPs of the products of queries with keys and of shares with values, of one position with so many before it."""
    return 4 * width * layers * context


def visible(lengths: Tensor, width: int, marks: int) -> Tensor:
    """bool [words, marks + width] what every position of a word sees: marks and units, no padding.

    Args:
        lengths: int64 [words] units of each.
        width: Of the padded rows.
        marks: Positions before them.
    """
    inside = torch.arange(width, device=lengths.device) < lengths[:, None]
    return torch.nn.functional.pad(inside, (marks, 0), value=True)


def windows(lengths: Sequence[int] | np.ndarray, longest: int) -> list[tuple[int, int, int]]:
    """Windows over items of a text, each with the one before it overlapping by half.

    Args:
        lengths: Of the items, in what a context is counted in.
        longest: Most of it that a window holds.

    Returns:
        (start, stop, first): items [start, stop) are read, those from `first` on count; every item counts once. An
        item that is longer than a window is a window of its own.
    """
    ends = np.concatenate([[0], np.cumsum(lengths)])
    rows, first = list[tuple[int, int, int]](), 0
    while first < len(lengths):
        # Half a window stands before what counts, but at the beginning of the text.
        start = 0 if first == 0 else int(np.searchsorted(ends, ends[first] - longest // 2))
        start = min(start, first)
        stop = max(int(np.searchsorted(ends, ends[start] + longest, side="right")) - 1, first + 1)
        rows.append((start, stop, first))
        first = stop
    return rows


def items_until(position: float, rate: float) -> int:
    """Whole windows among the first `position` items if each holds `rate` of them."""
    return int(np.floor(position * rate + 1e-9))
