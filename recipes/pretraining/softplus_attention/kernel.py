"""The attention of `transformers` decoders, with rows of weights made by `method`.

No run leaves a model folder: read by others, it would attend by softmax and say other things.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from recipes.core.models.attention_functions import AttentionCall
from recipes.pretraining.softplus_attention.method import Rows, alibi_slopes, attention_rows

CHUNK = 256  # queries whose rows exist at a time


@dataclass(frozen=True)
class Kernel:
    """What a model's attention computes: an `AttentionFunction`.

    Attributes:
        rows: How rows of weights are made.
        alibi: Whether scores fall with distance, in place of rotary positions.
    """

    rows: Rows
    alibi: bool = False

    def __call__(self, call: AttentionCall) -> tuple[Tensor, None]:
        """[B, H, R, d] of a call with a mask of `ROWS`."""
        parts = []
        for first in range(0, call.queries.shape[2], CHUNK):
            queries, places = call.queries[:, :, first : first + CHUNK], call.places[first : first + CHUNK]
            seen = None if call.mask is None else call.mask[:, :, first : first + CHUNK]
            arguments = queries, call.keys, call.values, seen, places
            # Rows are made again in the backward: kept, they would be several matrices [T, T] of each layer.
            if torch.is_grad_enabled() and call.queries.shape[2] > CHUNK:
                parts.append(checkpoint(self._attend, *arguments, use_reentrant=False))
            else:
                parts.append(self._attend(*arguments))
        return torch.cat(parts, 2), None

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, places: Tensor) -> Tensor:
        """[B, H, R, d] of queries at these columns."""
        columns = torch.arange(keys.shape[2], device=keys.device)
        visible = (columns <= places[:, None])[None, None] if mask is None else mask
        added = None
        if self.alibi:
            slopes = alibi_slopes(queries.shape[1]).to(queries)
            added = -slopes[:, None, None] * (places[:, None] - columns).clamp_min(0)
        weights = attention_rows(queries, keys, visible, self.rows, added)
        return weights.to(values.dtype) @ values
