"""The attention of `transformers` decoders, with rows of weights made by `method`.

What a model's attention computes stands at its modules and not in its config, and no run leaves a model folder: read by
others, it would attend by softmax and say other things.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from recipes.core.models.anatomy import transformer_blocks
from recipes.pretraining.softplus_attention.method import Rows, alibi_slopes, attention_rows

NAME, SETTINGS = "rows-of-weights", "rows_of_weights"
CHUNK = 256  # queries whose rows exist at a time


@dataclass(frozen=True)
class Kernel:
    """What a model's attention computes.

    Attributes:
        rows: How rows of weights are made.
        alibi: Whether scores fall with distance, in place of rotary positions.
    """

    rows: Rows
    alibi: bool = False


def use_kernel(model: Any, kernel: Kernel) -> None:
    """Let a decoder attend by a kernel from now on.

    Args:
        model: A Llama-type model of `transformers`.
        kernel: What is computed.
    """
    if NAME not in ALL_ATTENTION_FUNCTIONS:
        ALL_ATTENTION_FUNCTIONS.register(NAME, _attend)
        ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)  # without one, no kernel is told of padding
    model.set_attn_implementation(NAME)
    set_kernel(model, kernel)


def set_kernel(model: Any, kernel: Kernel) -> None:
    """Change what a model computes that `use_kernel` was called with."""
    for block in transformer_blocks(model):
        for module in block.modules():
            setattr(module, SETTINGS, kernel)


def _attend(
    module: Any, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """[B, R, H, d] of queries [B, H, R, d], keys and values [B, G, T, d], and a bool mask [B, 1, R, T]."""
    kernel: Kernel = getattr(module, SETTINGS)
    repeats = queries.shape[1] // keys.shape[1]
    keys, values = (part.repeat_interleave(repeats, 1) if repeats > 1 else part for part in (keys, values))
    start = keys.shape[2] - queries.shape[2]  # tokens in the cache stand in front
    parts = []
    for first in range(0, queries.shape[2], CHUNK):
        chunk = queries[:, :, first : first + CHUNK]
        seen = None if mask is None else mask[:, :, first : first + CHUNK]
        # Rows are made again in the backward: kept, they would be several matrices [T, T] of each layer.
        if torch.is_grad_enabled() and queries.shape[2] > CHUNK:
            part = checkpoint(_attend_rows, chunk, keys, values, seen, start + first, kernel, use_reentrant=False)
        else:
            part = _attend_rows(chunk, keys, values, seen, start + first, kernel)
        parts.append(part)
    return torch.cat(parts, 2).transpose(1, 2), None


def _attend_rows(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, first: int, kernel: Kernel
) -> Tensor:
    """[B, H, R, d]; `first` is the column of the first of these queries."""
    columns = torch.arange(keys.shape[2], device=keys.device)
    places = first + torch.arange(queries.shape[2], device=keys.device)
    visible = (columns <= places[:, None])[None, None] if mask is None else mask
    added = None
    if kernel.alibi:
        slopes = alibi_slopes(queries.shape[1]).to(queries)
        added = -slopes[:, None, None] * (places[:, None] - columns).clamp_min(0)
    weights = attention_rows(queries, keys, visible, kernel.rows, added)
    return weights.to(values.dtype) @ values
