"""Attention of ours in models of `transformers`: a function of queries, keys and values in place of the kernel.

The function stands at the modules of a model and not in its config: whoever reads the weights without it attends by
softmax over all tokens. A recipe that trains with one leaves no model folder, or sees to it that it reads the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, flash_attention_mask, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from recipes.core.models.anatomy import transformer_blocks
from recipes.core.models.precision import exact

ROWS, PADS = "rows", "pads"
NAMES = {ROWS: "function-of-rows", PADS: "function-of-pads"}
MASKS: dict[str, Any] = {ROWS: sdpa_mask, PADS: flash_attention_mask}
FUNCTION, LAYER = "attention_function", "attention_layer"


@dataclass(frozen=True)
class AttentionCall:
    """What the attention of a layer is asked for.

    Attributes:
        module: Whose attention it is; its training mode and its parameters.
        layer: Number of its block, from 0.
        queries: [B, H, R, d]
        keys: [B, H, T, d], those of grouped heads repeated, cached tokens in front.
        values: [B, H, T, d]
        mask: bool, True for what is seen: [B, 1, R, T] with `ROWS`, [B, T] with `PADS`; None if nothing is hidden
            besides what `causal` hides.
        causal: Whether queries see no later keys. A mask of `ROWS` says so, too.
        scale: What products of queries and keys are multiplied by.
        dropout: Of the weights; 0 outside training.
    """

    module: Any
    layer: int
    queries: Tensor
    keys: Tensor
    values: Tensor
    mask: Tensor | None
    causal: bool
    scale: float
    dropout: float

    @property
    def places(self) -> Tensor:
        """[R] the columns of the queries among the keys."""
        rows, columns = self.queries.shape[2], self.keys.shape[2]
        return torch.arange(columns - rows, columns, device=self.keys.device)

    def visible(self) -> Tensor | None:
        """bool [B or 1, 1, R, T] which keys each query sees; None: all."""
        if self.mask is not None and self.mask.ndim == 4:
            return self.mask
        seen = None if self.mask is None else self.mask[:, None, None, :]
        if not self.causal:
            return seen
        earlier = torch.arange(self.keys.shape[2], device=self.keys.device) <= self.places[:, None]
        return earlier[None, None] if seen is None else seen & earlier


AttentionFunction = Callable[[AttentionCall], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class RowsAttention:
    """Softmax attention whose rows of weights are looked at, and altered, before they weigh the values.

    All rows are held at once: for short texts.

    Attributes:
        alter: Given the call and its rows [B, H, R, T] in fp32, with gradient; what it returns weighs the values.
    """

    alter: Callable[[AttentionCall, Tensor], Tensor]

    def __call__(self, call: AttentionCall) -> tuple[Tensor, Tensor]:
        """As an `AttentionFunction`, with the altered rows."""
        rows = self.alter(call, softmax_rows(call))
        return dropout(rows, call.dropout).to(call.values.dtype) @ call.values, rows


def softmax_rows(call: AttentionCall) -> Tensor:
    """[B, H, R, T] softmax over the keys that a query sees, in fp32; all 0 for one that sees none."""
    scores, visible = exact(call.queries @ call.keys.mT) * call.scale, call.visible()
    if visible is None:
        return scores.softmax(-1)
    # The smallest number in place of -inf: the gradient of a row of -inf is NaN.
    return scores.masked_fill(~visible, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(~visible, 0)


def use_attention(model: Any, function: AttentionFunction, masks: str = ROWS) -> None:
    """Let a model attend by a function from now on.

    Args:
        model: A decoder or encoder of one tower that takes its kernel from the common interface of `transformers`, as
            Llama, GPT-2, BERT and ViT do.
        function: Returns what the heads say [B, H, R, d], and rows [B, H, R, T] or None: what `output_attentions`
            returns.
        masks: `ROWS`: the mask of a call says for each query what it sees. `PADS`: it says which keys are no padding,
            and grows with the length alone.
    """
    name = NAMES[masks]
    if name not in ALL_ATTENTION_FUNCTIONS:
        ALL_ATTENTION_FUNCTIONS.register(name, _attend)
        ALL_MASK_ATTENTION_FUNCTIONS.register(name, MASKS[masks])  # without one, no kernel is told of padding
    model.set_attn_implementation(name)
    set_attention(model, function)


def set_attention(model: Any, function: AttentionFunction) -> None:
    """Change the function of a model that `use_attention` was called with."""
    for layer, block in enumerate(transformer_blocks(model)):
        for module in block.modules():
            # A function may hold modules: they stay its own, no part of the model.
            module.__dict__[FUNCTION] = function
            module.__dict__[LAYER] = layer


def attention_of(model: Any) -> AttentionFunction | None:
    """The function that `use_attention` has set; None: a kernel of `transformers`."""
    return next((module.__dict__[FUNCTION] for module in model.modules() if FUNCTION in module.__dict__), None)


def _attend(
    module: Any, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """The kernel as `transformers` calls it; keys and values are [B, G, T, d], G dividing H."""
    repeats = queries.shape[1] // keys.shape[1]
    keys, values = (part.repeat_interleave(repeats, 1) if repeats > 1 else part for part in (keys, values))
    scale, causal = options.get("scaling"), options.get("is_causal")
    call = AttentionCall(
        module,
        getattr(module, LAYER),
        queries,
        keys,
        values,
        mask,
        bool(getattr(module, "is_causal", True) if causal is None else causal),
        queries.shape[-1] ** -0.5 if scale is None else scale,
        float(options.get("dropout") or 0),
    )
    heads, rows = getattr(module, FUNCTION)(call)
    return heads.transpose(1, 2).contiguous(), rows
