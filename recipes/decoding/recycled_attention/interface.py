"""The attention of every layer of a frozen model, computed by a function of ours; the model's code stays as it is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from recipes.core.errors import UserError
from recipes.core.models.anatomy import transformer_blocks
from recipes.core.models.attention_kinds import attention_kinds
from recipes.core.models.head import decoder
from recipes.core.models.taps import KERNEL, kernel_in_place_of, refuse_others

# (layer, queries [B, H, Q, d], keys and values [B, G, Q, d] of the tokens of the call, scale) -> [B, H, Q, d]
Attend = Callable[[int, Tensor, Tensor, Tensor, float], Tensor]
HINT = "give a causal language model of type Llama, Qwen2 or GPT-2, loaded with attention sdpa"


def check_attention(model: Any, where: str) -> None:
    """Refuse a model whose attention cannot be computed here. Raises UserError that names it.

    Args:
        model: A `transformers` causal language model.
        where: Key and value that named it, for the message.
    """
    kinds, name = attention_kinds(model, where), type(model).__name__
    if (kernel := model.config.get_text_config(decoder=True)._attn_implementation) != KERNEL:
        raise UserError(f"{name} runs with attention of {kernel}, whose weights cannot be had", where, HINT)
    if not kinds.unlimited:
        raise UserError(f"{name} has layers that see a window only: there is nothing to recycle", where, HINT)
    seen = set[int]()

    def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        seen.add(layer)
        return plain_attention(queries, keys, values, scale)

    device = model.device
    with replaced_attention(model, attend):
        read(model, torch.zeros(1, 2, dtype=torch.int64, device=device), torch.arange(2, device=device)[None])
    if len(seen) != len(transformer_blocks(model)):
        raise UserError(f"{name} computes attention without the common interface of transformers", where, HINT)


@torch.no_grad()
def read(model: Any, ids: Tensor, positions: Tensor) -> Tensor:
    """[B, Q, width] what the head gets of tokens [B, Q]; what they see is up to the attention of the block."""
    hidden: Tensor = decoder(model)(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
    return hidden


def plain_attention(queries: Tensor, keys: Tensor, values: Tensor, scale: float, mask: Tensor | None = None) -> Tensor:
    """[B, H, Q, d] causal attention, or under a mask [B, G, Q, T] of what each query sees."""
    share = queries.shape[1] // keys.shape[1]
    if mask is not None and share > 1:
        mask = mask.repeat_interleave(share, 1)
    return torch.nn.functional.scaled_dot_product_attention(
        queries, keys, values, mask, is_causal=mask is None, scale=scale, enable_gqa=share > 1
    )


@contextmanager
def replaced_attention(model: Any, attend: Attend) -> Iterator[None]:
    """Inside the block the attention of a model is what `attend` returns; other models keep theirs.

    Args:
        model: As in `check_attention`.
        attend: Gets the tokens of the call only, since the model is run without a cache.

    Raises:
        UserError: weights of the model are no softmax of its products.
    """
    layer_of = {module: layer for layer, block in enumerate(transformer_blocks(model)) for module in block.modules()}
    kernel = ALL_ATTENTION_FUNCTIONS[KERNEL]

    def function(module: Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any) -> Any:
        if module not in layer_of:
            return kernel(module, query, key, value, mask, **options)
        refuse_others(options, type(model).__name__)
        scale = options.get("scaling")
        output = attend(layer_of[module], query, key, value, query.shape[-1] ** -0.5 if scale is None else scale)
        return output.transpose(1, 2), None

    with kernel_in_place_of(function):
        yield
