"""What the attention of a causal language model sees, and whether its keys and values can be handled one by one."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import get_layer_types_and_kwargs

from recipes.core.errors import UserError

# Implementations that take a mask of every token for every other.
WITH_MASK = ("sdpa", "eager")
FULL, SLIDING = "full_attention", "sliding_attention"
# Kinds of RoPE that turn all tokens anew once a text is longer than this; the keys in a cache stay as they were.
CHANGING = ("dynamic", "longrope")
HINT = (
    "give a causal language model whose layers all keep keys and values of every token (Llama, Qwen2, Gemma 2, GPT-2)"
)


class AttentionKinds(NamedTuple):
    """The attention of a model's layers.

    Attributes:
        windows: From the kind of a layer, as its config names it, to how many tokens it sees, itself included; None for
            all tokens.
        longest: Tokens that a row may have; None for no limit.
        additive: Whether masks are added to scores, and not bool.
    """

    windows: dict[str, int | None]
    longest: int | None
    additive: bool

    @property
    def unlimited(self) -> bool:
        """Whether all layers see all tokens."""
        return set(self.windows.values()) == {None}

    def masks(self, seen: Tensor, distances: Tensor, dtype: torch.dtype) -> Tensor | dict[str, Tensor]:
        """The `attention_mask` that a model takes: one mask if its layers are of one kind, else one for each kind.

        Args:
            seen: bool [rows, queries, columns] what each token sees where there is no window.
            distances: int64 [rows, queries, columns] how many places before the token a column stands.
            dtype: Of the model.
        """
        masks = {
            kind: self._mask(seen if window is None else seen & (distances < window), dtype)
            for kind, window in self.windows.items()
        }
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _mask(self, seen: Tensor, dtype: torch.dtype) -> Tensor:
        mask = seen[:, None]
        if not self.additive:
            return mask
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)


def attention_kinds(model: Any, where: str = "") -> AttentionKinds:
    """Read from a model's class and config what its attention sees; nothing is run.

    Args:
        model: A `transformers` causal language model.
        where: Key and value that named it, for messages.

    Raises:
        UserError: it keeps something else than keys and values of every token, or its attention takes no such mask.
    """
    config = model.config.get_text_config(decoder=True)
    reason = _recurrent(model) or _attention(config)
    types, options = ([], []) if reason else get_layer_types_and_kwargs(config)
    if others := sorted(set(types) - {FULL, SLIDING}):
        reason = f"has layers of {', '.join(others)}"
    if reason:
        raise UserError(f"the cache of {type(model).__name__} cannot be handled here: it {reason}", where, HINT)
    windows = {kind: option.get("sliding_window") for kind, option in zip(types, options, strict=True)}
    return AttentionKinds(windows, _longest(config), config._attn_implementation == "eager")


def _recurrent(model: Any) -> str:
    if model.config.is_encoder_decoder:
        return "has an encoder"
    return "keeps a state instead of keys and values" if getattr(model, "_is_stateful", False) else ""


def _attention(config: Any) -> str:
    if "local" in getattr(config, "attention_layers", ()):  # GPT-Neo
        return "has windows that count columns, not positions"
    kind = config._attn_implementation
    return "" if kind in WITH_MASK else f"was loaded with attention of {kind}, which takes no mask of single tokens"


def _longest(config: Any) -> int | None:
    """Tokens of the longest row whose keys are those of a forward without a cache."""
    rope = getattr(config, "rope_parameters", None) or {}
    parts = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    limits = [getattr(config, "max_position_embeddings", None)]
    if any(part.get("rope_type") in CHANGING for part in parts):
        limits += [part.get("original_max_position_embeddings") for part in parts]
        limits += [getattr(config, "original_max_position_embeddings", None)]
    return min((limit for limit in limits if limit), default=None)
