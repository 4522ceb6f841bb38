"""Attention weights of chosen layers, row by row, while the model keeps its fused kernel.

A fused kernel never gives its weights away, and eager attention of every layer holds [heads, T, T] of each. A tap keeps
the queries, keys and values that the kernel was called with, and computes the rows that somebody asks for.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from recipes.core.errors import UserError
from recipes.core.models.anatomy import transformer_blocks
from recipes.core.models.padded import gather
from recipes.core.models.precision import exact

KERNEL = "sdpa"
QUERIES = 64  # whose rows are made at once where only sums of rows are asked for: they fit a core's cache
# What a kernel may be given besides, and what would change the weights (T5's and Swin's bias, sinks, soft-caps).
OTHERS = ("position_bias", "s_aux", "softcap")


def attention_rows(queries: Tensor, keys: Tensor, bias: Tensor | None, scale: float | None = None) -> Tensor:
    """[B, H, Q, T] post-softmax attention of queries [B, H, Q, c] to keys [B, G, T, c], G dividing H, in fp32."""
    keys = keys.repeat_interleave(queries.shape[1] // keys.shape[1], 1)
    logits = exact(queries @ keys.mT) * (queries.shape[-1] ** -0.5 if scale is None else scale)
    return (logits if bias is None else logits + bias).softmax(-1)


@dataclass(frozen=True)
class Tap:
    """What the attention of one layer was called with last, after its rotary embedding and with cached keys in front.

    Attributes:
        queries: [B, H, Q, c] of the tokens of that call.
        keys: [B, G, T, c] of all that they may attend to; G divides H.
        values: [B, G, T, c]
        scale: What products are multiplied by before the softmax.
        mask: [B or 1, 1, Q, T] bool (True: attended to) or what is added to the logits; None without one.
        causal: Whether without a mask each token attends to those before it only.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    scale: float
    mask: Tensor | None
    causal: bool

    def rows(self, columns: Tensor | Sequence[int] | None = None) -> Tensor:
        """Rows of the attention matrix, post-softmax; one of a token that attends to nothing (padding) is all 0.

        Args:
            columns: [R] or [B, R] which tokens of the call (0 is CLS, -1 the last one); None: all.

        Returns:
            [B, H, R, T] in fp32.

        Raises:
            IndexError: the call had no such token.
        """
        samples, _, count, _ = self.queries.shape
        positions = torch.arange(count) if columns is None else torch.as_tensor(columns)
        if bool(((positions < -count) | (positions >= count)).any()):
            raise IndexError(f"rows of {count} tokens, not {positions.tolist()}")
        positions = (positions % count).to(self.queries.device).expand(samples, -1)
        queries, bias = gather(self.queries.transpose(1, 2), positions).transpose(1, 2), self._bias(positions)
        weights = attention_rows(queries, self.keys, bias, self.scale)
        return weights if bias is None else weights.masked_fill((bias == -torch.inf).all(-1, keepdim=True), 0)

    def received(self) -> Tensor:
        """[B, T] attention that each token receives from all queries of all heads, sum_m sum_i A[m, i, t], in fp32."""
        count, total = self.queries.shape[2], self.keys.shape[2]
        if self.mask is None and self.causal and count == total:
            return self._received_causally()
        parts = torch.arange(count).split(QUERIES)
        return torch.stack([self.rows(columns).sum((1, 2)) for columns in parts]).sum(0)

    def _received_causally(self) -> Tensor:
        """Of tokens that attend to themselves and those before: no row is longer than that, and few stand in memory."""
        count = self.queries.shape[2]
        received = torch.zeros(len(self.keys), count, device=self.keys.device)
        after = torch.ones(QUERIES, QUERIES, dtype=torch.bool, device=self.keys.device).triu(1)
        for queries, keys, sums in zip(self.queries, self.keys, received, strict=True):
            grouped = queries.unflatten(0, (len(keys), -1))
            for start in range(0, count, QUERIES):
                stop = min(start + QUERIES, count)
                chunk = grouped[:, :, start:stop]
                logits = exact(chunk.flatten(1, 2) @ keys[:, :stop].mT).mul_(self.scale).unflatten(1, chunk.shape[1:3])
                logits[..., start:].masked_fill_(after[: stop - start, : stop - start], -torch.inf)
                sums[:stop] += logits.softmax(-1).sum((0, 1, 2))
        return received

    def _bias(self, positions: Tensor) -> Tensor | None:
        """[B, 1, R, T] what is added to the logits of the rows at `positions` [B, R]."""
        if self.mask is None:
            if not self.causal:
                return None
            seen = torch.arange(self.keys.shape[2], device=positions.device) <= positions[:, :, None]
        else:
            chosen = gather(self.mask[:, 0].expand(len(positions), -1, -1), positions)
            if chosen.dtype != torch.bool:
                # A mask that is added holds the smallest number of its dtype for what is not attended to.
                return exact(chosen).masked_fill(chosen <= torch.finfo(chosen.dtype).min, -torch.inf)[:, None]
            seen = chosen
        return torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, -torch.inf)[:, None]


class Taps:
    """The taps of a model, by layer.

    Args:
        model: What the model is called.
        layers: Which layers have one.
        count: How many layers there are.
    """

    def __init__(self, model: str, layers: Sequence[int], count: int) -> None:
        self.model, self.layers, self.count = model, layers, count
        self.last: dict[int, Tap] = {}

    def __getitem__(self, layer: int) -> Tap:
        """The tap of a layer in the last forward, negative numbers from the end."""
        number = layer % self.count
        if number not in self.layers:
            raise KeyError(f"layer {layer} has no tap: layers={list(self.layers)}")
        if number not in self.last:
            raise UserError(
                f"no attention was seen in layer {number} of {self.model}",
                hint="run a forward inside the block, of a model whose attention is that of transformers",
            )
        return self.last[number]


@contextmanager
def attention_taps(model: Any, layers: Sequence[int] | None = None) -> Iterator[Taps]:
    """Tap the attention of layers inside the block; the model computes what it computes without.

    Args:
        model: A decoder or an encoder of `transformers` (of a model of several towers one of them) that runs with
            attn_implementation=sdpa and takes it from the library's common interface, as Llama, Qwen, GPT-2, BERT,
            CLIP, SigLIP and ViT do.
        layers: Which, from 0, negative ones from the end; None: all.

    Yields:
        The taps, also readable behind the block. Each holds the queries, keys and values of its last forward.

    Raises:
        UserError: the model has no such layer, or another kernel, or weights that are no softmax of its products.
    """
    blocks, name = transformer_blocks(model), type(model).__name__
    taps = Taps(name, _layer_numbers(layers, len(blocks), name), len(blocks))
    if model.config._attn_implementation != KERNEL:
        raise UserError(
            f"{name} runs with {model.config._attn_implementation}, which cannot be tapped",
            "attn_implementation",
            f"load the model with attn_implementation={KERNEL}",
        )
    layer_of = {module: layer for layer in taps.layers for module in blocks[layer].modules()}
    with kernel_in_place_of(_wrap_kernel(ALL_ATTENTION_FUNCTIONS[KERNEL], layer_of, taps)):
        yield taps


@contextmanager
def kernel_in_place_of(attend: Callable[..., Any]) -> Iterator[None]:
    """Inside the block a function stands in for the kernel of all models that run with it."""
    kernel = ALL_ATTENTION_FUNCTIONS[KERNEL]
    ALL_ATTENTION_FUNCTIONS[KERNEL] = attend
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS[KERNEL] = kernel


def refuse_others(options: Mapping[str, Any], model: str) -> None:
    """Refuse what a kernel is given besides and what would change its weights. Raises UserError that names it."""
    if other := next((option for option in OTHERS if options.get(option) is not None), None):
        raise UserError(f"attention of {model} has a {other}, which is not read", "model", "choose another model")


def _wrap_kernel(kernel: Callable[..., Any], layer_of: dict[Module, int], taps: Taps) -> Callable[..., Any]:
    """The kernel, which notes what it was called with for some modules."""

    def attend(
        module: Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
    ) -> Any:
        """The kernel's output [B, T, H, c] and weights (None), its arguments noted if the module has a tap."""
        if module in layer_of:
            refuse_others(options, taps.model)
            scale, causal = options.get("scaling"), options.get("is_causal")
            taps.last[layer_of[module]] = Tap(
                query,
                key,
                value,
                query.shape[-1] ** -0.5 if scale is None else scale,
                attention_mask,
                # A single token attends to all of its cache.
                query.shape[2] > 1 and bool(getattr(module, "is_causal", True) if causal is None else causal),
            )
        return kernel(module, query, key, value, attention_mask, **options)

    return attend


def _layer_numbers(layers: Sequence[int] | None, count: int, name: str) -> list[int]:
    wanted = range(count) if layers is None else layers
    if wrong := [layer for layer in wanted if not -count <= layer < count]:
        raise UserError(f"{name} has no layer {wrong[0]}", "layers", f"0 to {count - 1} exist")
    return sorted({layer % count for layer in wanted})
