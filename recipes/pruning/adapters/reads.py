"""What pruners read of attention, computed anew from the input of a block or layer by its own projections.

The model itself keeps its attention kernel, which never gives its weights away.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import rotate_half

from recipes.core.models.anatomy import Encoder
from recipes.core.models.padded import gather
from recipes.core.models.taps import attention_rows
from recipes.pruning.adapters.columns import Columns

BLOCK = frozenset({"cls_row", "attention", "queries", "keys", "values"})
LAST = frozenset({"final_query", "final_keys"})
BEFORE = frozenset({"last_row", "last_query", "last_value", "text_rows", "queries", "keys", "values"})


def block_reads(
    names: Sequence[str], encoder: Encoder, block: int, hidden: Tensor, bias: Tensor | None
) -> dict[str, Tensor]:
    """Queries, keys, values and attention of a block of the encoder.

    Args:
        names: Fields of `Tokens`; others are passed over.
        encoder: Whose block it is.
        block: Which.
        hidden: [B, T, d] its input, special tokens first.
        bias: [B, 1, 1, T] what is added to the logits: -inf for padding, the log of sizes.
    """
    wanted, reads, module = BLOCK & set(names), {}, encoder.blocks[block]
    if not wanted:
        return {}
    normed = encoder.family.normed(module, hidden)
    query, key, value = encoder.family.projections(module)
    if wanted & {"queries", "attention"}:
        reads["queries"] = _heads(query(normed), encoder.heads)
    if wanted & {"keys", "attention", "cls_row"}:
        reads["keys"] = _heads(key(normed), encoder.heads)
    if "values" in wanted:
        reads["values"] = _heads(value(normed), encoder.heads)
    if "attention" in wanted:
        reads["attention"] = attention_rows(reads["queries"], reads["keys"], bias)
    if "cls_row" in wanted:
        one = reads["queries"][:, :, :1] if "queries" in reads else _heads(query(normed[:, :1]), encoder.heads)
        reads["cls_row"] = attention_rows(one, reads["keys"], bias)[:, :, 0]
    return {name: reads[name] for name in wanted}


def last_reads(names: Sequence[str], encoder: Encoder, hidden: Tensor) -> dict[str, Tensor]:
    """Query of CLS and keys of the encoder's last block, from its input [B, T, d]."""
    if not LAST & set(names):
        return {}
    module = encoder.blocks[-1]
    normed = encoder.family.normed(module, hidden)
    query, key, _ = encoder.family.projections(module)
    return {"final_query": query(normed[:, 0]), "final_keys": key(normed)}


class LayerReads:
    """Queries, keys and values of one layer of a language model, after its rotary embedding.

    Args:
        layer: The layer.
        hidden: [B, R, d] its input.
        rotary: Cosines and sines [B or 1, R, c] of its positions.
        mask: [B, R] bool, False for padding.
        both: [B, R] bool, tokens that see each other both ways; None: none do.
    """

    def __init__(
        self, layer: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor, both: Tensor | None = None
    ) -> None:
        self.attention, self.norm, self.hidden = layer.self_attn, layer.input_layernorm, hidden
        self.rotary, self.mask = rotary, mask
        self.both = torch.zeros_like(mask) if both is None else both

    @cached_property
    def normed(self) -> Tensor:
        """[B, R, d]"""
        normed: Tensor = self.norm(self.hidden)
        return normed

    @cached_property
    def keys(self) -> Tensor:
        """[B, G, R, c]"""
        return self._rotate(self.attention.k_proj(self.normed), None, "k_norm")

    @cached_property
    def values(self) -> Tensor:
        """[B, G, R, c]"""
        return self._split(self.attention.v_proj(self.normed))

    def queries(self, columns: Tensor | None = None) -> Tensor:
        """[B, H, Q, c] of some columns [B, Q], or of all."""
        normed = self.normed if columns is None else gather(self.normed, columns)
        return self._rotate(self.attention.q_proj(normed), columns, "q_norm")

    def rows(self, columns: Tensor) -> Tensor:
        """[B, H, Q, R] attention of the tokens at these columns [B, Q]."""
        position = torch.arange(self.mask.shape[1], device=columns.device)
        both = gather(self.both, columns)[:, :, None] & self.both[:, None]
        seen = self.mask[:, None] & ((position <= columns[:, :, None]) | both)
        # A row of padding would see nothing, and its softmax be NaN.
        seen = seen | ~seen.any(2, keepdim=True)
        bias = torch.zeros_like(seen, dtype=torch.float32).masked_fill(~seen, -torch.inf)
        return attention_rows(self.queries(columns), self.keys, bias[:, None], self.attention.scaling)

    def _split(self, projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (-1, self.attention.head_dim)).transpose(1, 2)

    def _rotate(self, projected: Tensor, columns: Tensor | None, norm: str) -> Tensor:
        """Heads behind the rotary embedding; Qwen3 normalises each head in front of it."""
        heads = self._split(projected)
        heads = getattr(self.attention, norm)(heads) if hasattr(self.attention, norm) else heads
        cos, sin = (part.expand(len(heads), -1, -1) for part in self.rotary)
        if columns is not None:
            cos, sin = gather(cos, columns), gather(sin, columns)
        turned: Tensor = heads * cos[:, None] + rotate_half(heads) * sin[:, None]
        return turned


def _heads(projected: Tensor, heads: int) -> Tensor:
    return projected.unflatten(-1, (heads, -1)).transpose(1, 2)


def layer_reads(
    names: Sequence[str], prompt: Columns, hidden: Tensor, before: LayerReads | None, current: LayerReads
) -> dict[str, Tensor]:
    """What pruners read on entering a layer of a language model.

    Args:
        names: Fields of `Tokens`; others are passed over.
        prompt: Its columns.
        hidden: [B, R, d] states entering the layer.
        before: The layer just run.
        current: The layer about to run.
    """
    reads: dict[str, Tensor] = {}
    last = prompt.following.new_full((len(hidden), 1), hidden.shape[1] - 1)
    words, valid = prompt.words()
    if {"text_states", "text_valid", "text_rows"} & set(names):
        reads |= {"text_states": gather(hidden, words), "text_valid": valid}
    if "next_row" in names:
        reads["next_row"] = _visual(current.rows(last), prompt)[:, :, 0]
    if before is None:
        return reads
    if "last_row" in names:
        reads["last_row"] = _visual(before.rows(last), prompt)[:, :, 0]
    if "text_rows" in names:
        reads["text_rows"] = _visual(before.rows(words), prompt)
    if "last_query" in names:
        reads["last_query"] = before.queries(last)[:, :, 0]
    if "last_value" in names:
        reads["last_value"] = before.values[:, :, -1]
    for name in ("keys", "values", "queries"):
        if name in names:
            states = before.queries() if name == "queries" else getattr(before, name)
            reads[name] = _visual(states.mT, prompt).mT
    return reads


def _visual(values: Tensor, prompt: Columns) -> Tensor:
    """[B, H, Q, M] the columns of the visual tokens of values [B, H, Q, R]."""
    index = prompt.visual[:, None, None].expand(*values.shape[:3], -1)
    return values.gather(3, index)
