"""From raw token scores to loss weights: normalisation, floor, cap, the permuted control, diagnostics.

Every function works on padded [batch, time] tensors with a bool mask, each sequence (row) for itself, so that
batch composition, order and padding change nothing. Padding gets exactly zero.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

EMPTY_MEAN = 1e-6


def normalize_mean_one(weights: Tensor, mask: Tensor) -> Tensor:
    """Scale each sequence's weights to mean exactly 1, so that the loss keeps the scale of the plain one.

    Args:
        weights: [batch, time] non-negative.
        mask: [batch, time] bool, True at tokens that carry loss.

    Returns:
        [batch, time]; uniform where a sequence's mean weight is below 1e-6, zero at padding.

    Source:
        arXiv 2505.08971, loss: k * w_i / sum_j w_j.
    """
    kept = torch.where(mask, weights, 0)
    mean = sequence_means(weights, mask)[:, None]
    return torch.where(mask & (mean >= EMPTY_MEAN), kept / mean, mask.to(kept.dtype))


def apply_floor(weights: Tensor, mask: Tensor, floor: float) -> Tensor:
    """Mix mean-one weights with uniform ones: floor + (1 - floor) * weights. The mean stays 1.

    Args:
        weights: [batch, time] of mean 1 in each sequence.
        mask: [batch, time] bool.
        floor: The uniform share, 0 to 1; the smallest weight that can result.
    """
    return torch.where(mask, floor + (1 - floor) * weights, 0)


def apply_cap(weights: Tensor, mask: Tensor, cap: float) -> Tensor:
    """Clip mean-one weights at `cap`, then bring each sequence's mean back to 1 (which may lift them above it).

    Args:
        weights: [batch, time] of mean 1 in each sequence.
        mask: [batch, time] bool.
        cap: Where to clip, at least 1.
    """
    return normalize_mean_one(weights.clamp(max=cap), mask)


def permute_within(weights: Tensor, mask: Tensor, seed: int, examples: Sequence[str | int]) -> Tensor:
    """Shuffle each sequence's weights among its tokens: the same histogram without the information.

    The permutation is a function of seed, example and sequence length only: not of the batch, and not of the
    global random state, which a resumed run could not restore.

    Args:
        weights: [batch, time].
        mask: [batch, time] bool.
        seed: Seed of the run.
        examples: [batch] ids or indices of the sequences in their split.
    """
    shuffled = torch.zeros_like(weights)
    for row, example in enumerate(examples):
        tokens = mask[row].nonzero().squeeze(1)
        digest = hashlib.sha256(f"{seed}:{example}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        order = torch.randperm(len(tokens), generator=generator).to(tokens.device)
        shuffled[row, tokens] = weights[row, tokens[order]]
    return shuffled


def sequence_means(values: Tensor, mask: Tensor) -> Tensor:
    """[batch] mean over the tokens of each sequence; 0 for a sequence without tokens."""
    return torch.where(mask, values, 0).sum(1) / mask.sum(1).clamp(min=1)
