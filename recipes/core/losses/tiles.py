"""The NLL of tokens over wide vocabularies, its logits computed in tiles: some of the tokens by some of the vocabulary.

A tile is all that exists of the logits z, and stays in the processor's cache while it becomes exponentials and
gradients. A token's softmax spans many tiles, so the forward sums up what it needs,

    m = max_v z_v,    s = sum_v exp(z_v - m),    nll = m + log s - z_target,

and the backward computes each tile again: d nll / d z_v = exp(z_v - m) / s - [v = target].
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from recipes.core.models.head import OutputHead
from recipes.core.models.precision import softmax_dtype

TOKENS, COLUMNS = 1024, 2048
Wanted = tuple[bool, bool, bool]


class Softmax(NamedTuple):
    """What is kept of the softmax of N tokens.

    Attributes:
        nll: [N] in nats.
        largest: [N] the largest logit m.
        total: [N] the sum s of exp(z - m).
    """

    nll: Tensor
    largest: Tensor
    total: Tensor


class _Tile(NamedTuple):
    part: slice  # of the tokens
    columns: slice  # of the vocabulary
    head: OutputHead  # of these columns
    states: Tensor  # [n, d]
    z: Tensor  # [n, columns] logits
    p: Tensor  # the same buffer if the softmax has the dtype of the logits, else one of its own
    rows: Tensor  # tokens whose target is among these columns
    targets: Tensor  # and the columns of their targets


def tiled_softmax(hidden: Tensor, head: OutputHead, targets: Tensor, dtype: torch.dtype) -> Softmax:
    """The softmax of every token, in one pass over the vocabulary.

    Args:
        hidden: [N, d] last hidden states.
        head: The output head that turns them into logits.
        targets: [N] int64 token ids.
        dtype: Of the matrix products.

    Raises:
        RuntimeError: a target is no token of the vocabulary, which no tile would notice.
    """
    _require_tokens(targets, head.vocabulary)
    exact = softmax_dtype(dtype)
    # Not -inf, whose difference from itself is no number.
    largest = hidden.new_full((len(hidden),), torch.finfo(exact).min, dtype=exact)
    total, at_target = torch.zeros_like(largest), torch.zeros_like(largest)
    for tile in _tiles(hidden, head, targets, dtype):
        part = tile.part
        at_target[part][tile.rows] = tile.z[tile.rows, tile.targets].to(exact)
        new = torch.maximum(largest[part], tile.z.amax(1).to(exact))
        total[part] *= (largest[part] - new).exp_()
        total[part] += _exponentials(tile, new).sum(1)
        largest[part] = new
    # The logits are subtracted first, so that the NLL of a likely token keeps its digits.
    return Softmax((largest - at_target + total.log()).clamp_min_(0), largest, total)


def tiled_gradients(
    hidden: Tensor,
    head: OutputHead,
    targets: Tensor,
    weights: Tensor,
    softmax: Softmax,
    dtype: torch.dtype,
    wanted: Wanted,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of sum_i weights_i * nll_i in hidden states [N, d], weight [V, d], bias [V]; None where none is wanted.

    Args:
        hidden: [N, d] last hidden states.
        head: The output head, in the dtype of the returned gradients.
        targets: [N] int64 token ids.
        weights: [N]
        softmax: What `tiled_softmax` gave for them.
        dtype: Of the matrix products.
        wanted: Whether hidden states, weight and bias need one.
    """
    exact = softmax_dtype(dtype)
    sums = [
        torch.zeros_like(tensor, dtype=exact) if need and tensor is not None else None
        for tensor, need in zip((hidden, head.weight, head.bias), wanted, strict=True)
    ]
    for tile in _tiles(hidden, head, targets, dtype):
        z, weight = _logit_gradient(tile, softmax), weights[tile.part, None]
        if sums[0] is not None:
            add_product(sums[0][tile.part], z, tile.head.weight)
        if sums[1] is not None:
            add_product(sums[1][tile.columns], z.t(), (tile.states * weight).to(z.dtype))
        if sums[2] is not None:
            add_product(sums[2][tile.columns, None], z.t(), weight.to(z.dtype))
    if sums[0] is not None:
        sums[0] *= weights[:, None]
    kinds = (hidden.dtype, head.weight.dtype, head.weight.dtype)
    states, matrix, bias = (None if s is None else s.to(kind) for s, kind in zip(sums, kinds, strict=True))
    return states, matrix, bias


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right to `total`, in its dtype."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)


def _require_tokens(targets: Tensor, vocabulary: int) -> None:
    if not len(targets):
        return
    for target in (int(end) for end in targets.aminmax()):
        if not 0 <= target < vocabulary:
            raise RuntimeError(f"target {target} is out of bounds for a vocabulary of size {vocabulary}")


def _tiles(hidden: Tensor, head: OutputHead, targets: Tensor, dtype: torch.dtype) -> Iterator[_Tile]:
    """All tiles, each with its logits; the next one overwrites the buffers of the last."""
    inner, exact = head.to(dtype), softmax_dtype(dtype)
    logits = hidden.new_empty(min(TOKENS, len(hidden)) * min(COLUMNS, head.vocabulary), dtype=dtype)
    exponentials = logits if dtype == exact else torch.empty_like(logits, dtype=exact)
    for start in range(0, len(hidden), TOKENS):
        part = slice(start, min(start + TOKENS, len(hidden)))
        states = hidden[part].to(dtype)
        for first in range(0, head.vocabulary, COLUMNS):
            columns = slice(first, min(first + COLUMNS, head.vocabulary))
            shape = len(states), columns.stop - first
            z, p = (buffer[: shape[0] * shape[1]].view(shape) for buffer in (logits, exponentials))
            part_of_head = inner.rows(columns)
            part_of_head.fill_logits(states, z)
            rows = ((targets[part] >= first) & (targets[part] < columns.stop)).nonzero()[:, 0]
            yield _Tile(part, columns, part_of_head, states, z, p, rows, targets[part][rows] - first)


def _exponentials(tile: _Tile, largest: Tensor) -> Tensor:
    """[n, columns] exp(z - m), in the buffer of the softmax."""
    return torch.sub(tile.z, largest[:, None], out=tile.p).exp_()


def _logit_gradient(tile: _Tile, softmax: Softmax) -> Tensor:
    """[n, columns] (softmax - one hot) * slope, in the buffer of the logits."""
    part, slope = tile.part, tile.head.slope(tile.z)
    p = _exponentials(tile, softmax.largest[part]).div_(softmax.total[part, None])
    z = tile.z if p.dtype == tile.z.dtype else tile.z.copy_(p)
    # p - 1 from the NLL keeps its digits where p is near 1, also after rounding to bf16.
    z[tile.rows, tile.targets] = torch.expm1(-softmax.nll[part][tile.rows]).to(z.dtype)
    return z if slope is None else z.mul_(slope)
