"""What a calibration token weighs, and the grid that weights are rounded to. Pure functions of tensors."""

import torch
from torch import Tensor

CLIPS = tuple(1 - step / 100 for step in range(80))  # 1, .99, ..., .21
CLIP_NORM = 2.4


def rescale(importance: Tensor, least: float, largest: float = 1.0) -> Tensor:
    """[S, T] importance of tokens stretched to [least, largest] in each sequence; `largest` where all are equal.

    r = least + (largest - least) (r - min r) / (max r - min r)

    Source:
        arXiv 2503.01820; fake_quant/input_weighting_module.py of the release.
    """
    low, high = importance.amin(1, keepdim=True), importance.amax(1, keepdim=True)
    room = torch.where(high > low, high - low, 1)
    stretched = least + (largest - least) * (importance - low) / room
    return torch.where(high > low, stretched.clamp(least, largest), largest)


def token_weights(importance: Tensor, power: int = 1, normalise: bool = True) -> Tensor:
    """[S, T] weights w of squared errors: r^power, over its mean in each sequence if `normalise`.

    The release takes w = r / mean(r). The paper scales inputs by r, so that w = r^2, and says nothing of the mean.
    """
    powers = importance**power
    return powers / powers.mean(1, keepdim=True) if normalise else powers


def chunk_importance(tokens: int, chunks: int, first: bool, last: bool) -> Tensor:
    """[T] 1 in the first, the last, or both of `chunks` equal parts of a sequence, else 0; a part has a token."""
    size = max(1, tokens // chunks)
    places = torch.arange(tokens)
    return ((first & (places < size)) | (last & (places >= tokens - size))).float()


def change_importance(inputs: Tensor, outputs: Tensor) -> Tensor:
    """[S, T] minus the distance between what a block gets and what it gives, both [S, T, D]."""
    return -(outputs - inputs).norm(dim=-1)


def rarity(tokens: Tensor) -> Tensor:
    """[S, T] minus how often each id of [S, T] occurs in all of them."""
    _, places, counts = tokens.unique(return_inverse=True, return_counts=True)
    return -counts[places].float()


def spread(inputs: Tensor) -> Tensor:
    """[S, T] mean of the squared distances from each token of [S, T, D] to all of its sequence.

    mean_s |x_t - x_s|^2 = |x_t|^2 + mean_s |x_s|^2 - 2 x_t . mean_s x_s
    """
    squares, mean = inputs.square().sum(-1), inputs.mean(1, keepdim=True)
    return squares + squares.mean(1, keepdim=True) - 2 * (inputs * mean).sum(-1)


def grid_scale(weight: Tensor, bits: int, group: int | None = None, clip: bool = True) -> Tensor:
    """Distance of neighbouring values on the grid of each weight.

    scale = p max|w| / (2^(bits - 1) - 1); p of 1, .99, ..., .21 that leaves the smallest sum of |rounded - w|^2.4.

    Args:
        weight: [out, in]
        bits: Of a rounded weight, at least 2.
        group: Columns that share a scale; None: a row has one.
        clip: Whether p is searched for; else it is 1.

    Returns:
        [out, in], one value a row and group.

    Source:
        fake_quant/quant_utils.py of the release (`w_clip`, symmetric).
    """
    rows, columns = weight.shape
    parts = weight.reshape(rows, -1, group or columns)
    largest = parts.abs().amax(2, keepdim=True)
    scale = torch.where(largest > 0, largest / (2 ** (bits - 1) - 1), 1.0)
    best, least = scale, torch.full_like(scale, torch.inf)
    for share in CLIPS if clip else ():
        error = (round_to_grid(parts, share * scale, bits) - parts).abs().pow(CLIP_NORM).sum(2, keepdim=True)
        best, least = torch.where(error < least, share * scale, best), torch.minimum(error, least)
    return best.expand_as(parts).reshape(rows, columns)


def round_to_grid(weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    """scale clamp(round(w / scale), -2^(bits - 1), 2^(bits - 1) - 1), of the shape of `weight`."""
    largest = 2 ** (bits - 1) - 1
    return scale * (weight / scale).round().clamp(-largest - 1, largest)
