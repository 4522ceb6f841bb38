"""Chunked cross-attention and overlap with neighbours: pure functions of tensors.

A sequence of n tokens has l = ceil(n / m) chunks of m, counted from its end: the first may be shorter. With
p = l m - n, token i (from 0) reads the neighbours of chunk

    u(i) = floor((i + p - (m - 1)) / m), none if i + p < m - 1

so that the last token of chunk u and all but the last of chunk u + 1, which predict chunk u + 1, read what was looked
up with chunk u. No token reads neighbours that were looked up with tokens behind it.

Source:
    RETRO (arXiv 2112.04426), Section 2.4; Shall We Pretrain Autoregressive Language Models with Retrieval? (arXiv
    2304.06762); Megatron-LM, tag InstructRetro.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def chunk_count(length: int, size: int) -> int:
    """l, chunks of a sequence of n tokens."""
    return -(-length // size)


def chunk_ends(length: int, size: int) -> np.ndarray:
    """int [l]: one past the last token of each chunk."""
    return length - size * np.arange(chunk_count(length, size))[::-1]


def readable_chunk(length: int, size: int) -> np.ndarray:
    """int [n]: the chunk whose neighbours each token reads, -1 for none."""
    places = np.arange(length) + chunk_count(length, size) * size - length
    return np.where(places < size - 1, -1, (places - (size - 1)) // size)


def split_chunks(states: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """States [B, n, ...] as [B, l, m, ...], zeros in front of the first; and bool [l, m], where there is a token."""
    length = states.shape[1]
    count = chunk_count(length, size)
    missing = count * size - length
    padded = torch.cat([states.new_zeros(len(states), missing, *states.shape[2:]), states], 1)
    there = torch.arange(count * size, device=states.device) >= missing
    return padded.unflatten(1, (count, size)), there.view(count, size)


def attend(queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    """Softmax attention of queries [G, H, R, d] to keys and values [G, H, S, d]; 0 where nothing is visible.

    Args:
        queries: Of each group.
        keys: Of each group.
        values: Of each group.
        visible: bool [G, S].
    """
    some = visible.any(-1, keepdim=True)
    # A softmax over nothing is not a number: such groups attend to all, and what comes out is taken away.
    mask = (visible | ~some)[:, None, None]
    return functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask) * some[..., None, None]


def chunked_cross_attention(queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor, size: int) -> Tensor:
    """Each token attends to the neighbours of chunk u(i).

    Args:
        queries: [B, H, n, d]
        keys: [B, l, H, S, d] of the S tokens of all neighbours of each chunk.
        values: As the keys.
        visible: bool [B, l, S], where there is a token.
        size: m.

    Returns:
        [B, H, n, d], 0 for tokens before the last of the first chunk, and where nothing is visible.
    """
    batch, heads, length, width = queries.shape
    count = keys.shape[1]
    first = length - (count - 1) * size - 1  # the last token of the first chunk
    behind = functional.pad(queries[:, :, first:], (0, 0, 0, size - 1))
    grouped = behind.view(batch, heads, count, size, width).transpose(1, 2).flatten(0, 1)
    read = attend(grouped, keys.flatten(0, 1), values.flatten(0, 1), visible.flatten(0, 1))
    joined = read.view(batch, count, heads, size, width).transpose(1, 2).reshape(batch, heads, count * size, width)
    return functional.pad(joined[:, :, : length - first], (0, 0, first, 0))


def longest_shared_run(chunks: np.ndarray, others: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Length of the longest run of tokens of each chunk that stands in one of the others, too.

    Args:
        chunks: int [Q, m]
        others: int [Q, k, r], k rows of tokens for each chunk.
        visible: bool [Q, k, r], where there is a token.

    Returns:
        int [Q], 0 to m.
    """
    runs = np.zeros(others.shape, np.int16)  # the run that ends at the last token looked at and at each of the others
    best = np.zeros(len(chunks), np.int16)
    for place in range(chunks.shape[1]):
        before = np.pad(runs, ((0, 0), (0, 0), (1, 0)))[..., :-1]
        runs = np.where((others == chunks[:, place, None, None]) & visible, before + 1, 0).astype(np.int16)
        best = np.maximum(best, runs.max((1, 2), initial=0))
    return best.astype(np.int64)
