"""Banded attention, exact and in blocks: a token sees those at most half a window away, and chosen positions see all.

    visible(i, j) = [|i - j| <= w / 2 or j in S], j no padding            softmax over these, once each
    a token of S sees every token, with queries, keys and values of its own where there are such

Texts are cut into blocks of w / 2: block b attends to blocks b - 1, b and b + 1 with a mask of the band, so that a
query has 3 w / 2 columns in place of L. Time and memory grow with L w.

Source:
    Longformer (arXiv 2004.05150), sections 3.1 and 3.2, without dilation.
"""

import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from recipes.core.models.anatomy import transformer_blocks
from recipes.core.models.attention_functions import PADS, AttentionCall, use_attention

HIDDEN = "attention_input"


class Projected(NamedTuple):
    """What tokens of S attend with: queries of theirs [B, H, G, d], keys and values of all tokens [B, H, L, d]."""

    queries: Tensor
    keys: Tensor
    values: Tensor


def check_window(window: int) -> None:
    """Raise ValueError for a window that is odd or below 2."""
    if window < 2 or window % 2:
        raise ValueError(f"window={window}: an even number of tokens, half of them on each side")


def banded_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    window: int,
    *,
    real: Tensor | None = None,
    everywhere: Tensor | None = None,
    projected: Projected | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention of tokens to those at most window / 2 away, and of and to chosen ones.

    Args:
        queries: [B, H, L, d]
        keys: [B, H, L, d]
        values: [B, H, L, d]
        window: w, even; w / 2 tokens on each side.
        real: bool [B, L], False for padding; None: there is none.
        everywhere: int64 [B, G] positions S, distinct in a row; -1 for none. None: S is empty. Padding is left out.
        projected: What tokens of S attend with; None: the same as others.
        scale: Of products; None: 1 / sqrt d.
        dropout: Of the weights.

    Returns:
        [B, H, L, d], 0 for padding.
    """
    check_window(window)
    options: dict[str, Any] = {"scale": scale, "dropout_p": dropout}
    length, half = queries.shape[2], window // 2
    if everywhere is not None and real is not None:
        pads = ~real.gather(1, everywhere.clamp_min(0))
        everywhere = everywhere.masked_fill(pads, -1)
    if length <= half + 1:  # all see all
        mask = (
            None if real is None else real[:, None, None, :] | torch.eye(length, dtype=torch.bool, device=real.device)
        )
        heads = scaled_dot_product_attention(queries, keys, values, mask, **options)
    else:
        heads = _local(queries, keys, values, half, real, everywhere, options)
    if everywhere is not None:
        heads = _with_global_rows(heads, queries, keys, values, real, everywhere, projected, options)
    return heads if real is None else heads * real[:, None, :, None].to(heads)


def _local(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    half: int,
    real: Tensor | None,
    everywhere: Tensor | None,
    options: dict[str, Any],
) -> Tensor:
    """[B, H, L, d] of queries that see the band and S."""
    samples, length = len(queries), queries.shape[2]
    blocks = -(-length // half)
    behind = blocks * half - length
    rows = pad(queries, (0, 0, 0, behind)).unflatten(2, (blocks, half)).transpose(1, 2).flatten(0, 1)
    columns = [_triples(part, half, behind) for part in (keys, values)]
    known = torch.ones(1, length, dtype=torch.bool, device=keys.device) if real is None else real
    seen = _band(half, blocks, known)
    if everywhere is not None:
        # [B, H, G, d] for each block; S within the band is seen there, and not twice.
        at = everywhere.clamp_min(0)
        chosen = [_take(part, at)[:, None].expand(-1, blocks, -1, -1, -1).flatten(0, 1) for part in (keys, values)]
        columns = [torch.cat(pair, 2) for pair in zip(columns, chosen, strict=True)]
        places = torch.arange(blocks * half, device=keys.device).view(blocks, half)
        apart = (places[None, :, :, None] - at[:, None, None, :]).abs() > half
        apart = apart & (everywhere >= 0)[:, None, None, :]
        seen = torch.cat([seen.expand(samples, -1, -1, -1), apart], -1)
    mask = seen.expand(samples, -1, -1, -1).flatten(0, 1)[:, None]
    out = scaled_dot_product_attention(rows, columns[0], columns[1], mask, **options)
    out = out.unflatten(0, (samples, blocks)).transpose(1, 2).flatten(2, 3)
    return out[:, :, :length]


def _triples(part: Tensor, half: int, behind: int) -> Tensor:
    """[B * blocks, H, 3 half, d]: each block between its neighbours; of one sample a view."""
    wide = pad(part, (0, 0, half, behind + half)).unfold(2, 3 * half, half)  # [B, H, blocks, d, 3 half]
    return wide.permute(0, 2, 1, 4, 3).flatten(0, 1)


def _band(half: int, blocks: int, real: Tensor) -> Tensor:
    """bool [B or 1, blocks, half, 3 half] what each query sees of its triple: always itself."""
    row, column = torch.arange(half, device=real.device)[:, None], torch.arange(3 * half, device=real.device)
    near = (column - half - row).abs() <= half
    inside = pad(real, (half, (blocks + 1) * half - real.shape[1])).unfold(1, 3 * half, half)  # [B, blocks, 3 half]
    # A row of padding would otherwise see nothing, and its gradient would be NaN.
    return (near & inside[:, :, None, :]) | (column == row + half)


def _take(part: Tensor, at: Tensor) -> Tensor:
    """[B, H, G, d] of [B, H, L, d] at positions [B, G]."""
    samples, heads, _, width = part.shape
    return part.gather(2, at[:, None, :, None].expand(samples, heads, -1, width))


def _with_global_rows(
    heads: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    real: Tensor | None,
    everywhere: Tensor,
    projected: Projected | None,
    options: dict[str, Any],
) -> Tensor:
    """`heads` with those of S in place."""
    at = everywhere.clamp_min(0)
    apart = Projected(_take(queries, at), keys, values) if projected is None else projected
    # A row without a token still needs a key; it is thrown away.
    mask = None if real is None else (real | ~real.any(1, keepdim=True))[:, None, None, :]
    rows = scaled_dot_product_attention(apart.queries, apart.keys, apart.values, mask, **options)
    places = everywhere.masked_fill(everywhere < 0, heads.shape[2])[:, None, :, None].expand_as(rows)
    return pad(heads, (0, 0, 0, 1)).scatter(2, places, rows)[:, :, :-1]


class GlobalProjections(nn.Module):
    """Queries, keys and values of tokens that see everything: at first those of the others.

    Args:
        attention: Self-attention of a BERT-type block, with `query`, `key` and `value`.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.query, self.key, self.value = (
            copy.deepcopy(each) for each in (attention.query, attention.key, attention.value)
        )

    def forward(self, hidden: Tensor, everywhere: Tensor, heads: int) -> Projected:
        """Of hidden states [B, L, d] and positions [B, G]."""
        chosen = hidden.gather(1, everywhere[:, :, None].expand(-1, -1, hidden.shape[2]))
        parts = self.query(chosen), self.key(hidden), self.value(hidden)
        return Projected(*(part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts))


@dataclass(frozen=True)
class BandedAttention:
    """An `AttentionFunction` with masks of `PADS`.

    Attributes:
        window: w, even.
        first: Whether the first token of a text sees all and is seen by all.
    """

    window: int
    first: bool = False

    def __call__(self, call: AttentionCall) -> tuple[Tensor, None]:
        """[B, H, L, d]"""
        everywhere = projected = None
        if self.first:
            everywhere = torch.zeros(len(call.queries), 1, dtype=torch.int64, device=call.queries.device)
            hidden = call.module.__dict__.pop(HIDDEN)
            projected = call.module.globally(hidden, everywhere, call.queries.shape[1])
        heads = banded_attention(
            call.queries,
            call.keys,
            call.values,
            self.window,
            real=call.mask,
            everywhere=everywhere,
            projected=projected,
            scale=call.scale,
            dropout=call.dropout,
        )
        return heads, None


def use_banded_attention(model: Any, window: int, first: bool = False) -> None:
    """Let an encoder attend within a band from now on.

    Args:
        model: A BERT-type encoder.
        window: w, even.
        first: Whether the first token is everywhere. Each block then gets projections for it, copies of its queries',
            keys' and values'.
    """
    check_window(window)
    blocks: Any = transformer_blocks(model) if first else ()
    for block in blocks:
        attention: Any = block.attention.self
        attention.globally = GlobalProjections(attention)
        attention.register_forward_pre_hook(_keep_hidden)
    use_attention(model, BandedAttention(window, first), PADS)


def _keep_hidden(module: nn.Module, arguments: tuple[Any, ...]) -> None:
    module.__dict__[HIDDEN] = arguments[0]
