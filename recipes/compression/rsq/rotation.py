"""A model turned by an orthogonal matrix: other weights, the same logits.

What runs through the model between its blocks, x, becomes x Q; what reads it is multiplied by Q, what writes it by Q^T.
Gains of the norms go into what reads them first. An RMS norm sees no rotation. A layer norm subtracts a mean, and sees
none that leaves the mean alone, Q 1 = 1; so no embedding's mean is ever subtracted, which would be exact in neither.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import LayerNorm

from recipes.compression.linears import Block, LinearLayer, blocks_of
from recipes.compression.rsq.config import HADAMARD
from recipes.compression.rsq.orthogonal import draw_hadamard, draw_mean_fixing, draw_orthogonal, hadamard
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.models.head import decoder, probe_ids, untie

TOLERANCE = 1e-4  # of logits, over the largest


@dataclass(frozen=True)
class Layout:
    """Names of what a block is made of.

    Attributes:
        norms: Norm -> linear layers that read it.
        writers: Linear layers whose outputs are added to what runs through the model.
        values: Linear layer that makes the values of the attention.
        parts: Equal parts of what it gives; the last are the values.
        mixed: Linear layer that reads them.
        closing: Norm behind the last block.
        positions: Embeddings of positions that are added to those of tokens.
        others: Parts with weights of their own that see no rotation.
    """

    norms: Mapping[str, tuple[str, ...]]
    writers: tuple[str, ...]
    values: str
    mixed: str
    closing: str
    parts: int = 1
    positions: str = ""
    others: tuple[str, ...] = ()


LLAMA = Layout(
    norms={
        "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
    },
    writers=("self_attn.o_proj", "mlp.down_proj"),
    values="self_attn.v_proj",
    mixed="self_attn.o_proj",
    closing="norm",
    others=("self_attn.q_norm", "self_attn.k_norm"),
)
GPT2 = Layout(
    norms={"ln_1": ("attn.c_attn",), "ln_2": ("mlp.c_fc",)},
    writers=("attn.c_proj", "mlp.c_proj"),
    values="attn.c_attn",
    mixed="attn.c_proj",
    closing="ln_f",
    parts=3,
    positions="wpe",
)


@torch.no_grad()
def rotate(model: Any, kind: str, heads: bool, seed: int, where: str) -> float:
    """Turn a causal language model by a drawn orthogonal matrix, in place. Its head is untied from its embedding.

    Args:
        model: A Llama- or GPT-2-type model of `transformers`.
        kind: "hadamard" or "qr"; of a model with layer norms it is a drawn matrix that leaves the mean alone.
        heads: Whether values are turned as well, those of each head by a Hadamard matrix.
        seed: What is drawn.
        where: Key and value that named the model, for messages.

    Returns:
        Largest difference between logits before and behind, over the largest logit.

    Raises:
        UserError: the rotation of such a model is not known, or no Hadamard matrix of its width is; or its logits
            change by more than 1e-4.
    """
    blocks = blocks_of(model, where)
    layout, ids, body = _layout(model, blocks, where), probe_ids(model), decoder(model)
    before = _logits(model, ids)
    if heads and hadamard(_head_width(model)) is None:
        note(f"no Hadamard matrix of order {_head_width(model)}, the width of a head, is known: values are not turned")
    untie(model)
    matrix = _draw(model, getattr(body, layout.closing), kind, seed)
    for block in blocks:
        for name, readers in layout.norms.items():
            norm = block.module.get_submodule(name)
            _fold(norm, [block.linears[reader] for reader in readers], where)
            for reader in readers:
                _turn_inputs(block.linears[reader], matrix)
        for writer in layout.writers:
            _turn_outputs(block.linears[writer], matrix)
        if heads:
            _turn_values(block.linears[layout.values], block.linears[layout.mixed], layout.parts, _head_width(model))
    _turn_ends(model, body, layout, matrix, where)
    gap = float((_logits(model, ids) - before).abs().max() / before.abs().max())
    if not math.isfinite(gap):
        what = "rotated, its logits are no numbers: its weights are too large, or broken"
        raise UserError(what, where, "look at its weights, or type rotate.kind=none")
    if gap > TOLERANCE:
        raise _unknown(model, where, f"its logits change by {gap:.1e} of the largest")
    return gap


def _logits(model: Any, ids: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits.double()


def _layout(model: Any, blocks: Sequence[Block], where: str) -> Layout:
    """The one that names every part of the blocks that has weights."""
    parts = [{name.rpartition(".")[0] for name, _ in block.module.named_parameters()} for block in blocks]
    for layout in (LLAMA, GPT2):
        names = {*layout.writers, *layout.norms, *(name for readers in layout.norms.values() for name in readers)}
        if all(names <= each <= names | {*layout.others} for each in parts) and hasattr(decoder(model), layout.closing):
            return layout
    raise _unknown(model, where, "its blocks are built otherwise")


def _unknown(model: Any, where: str, why: str) -> UserError:
    what = f"how to rotate a model of type {model.config.model_type} is not known: {why}"
    return UserError(what, where, "give a Llama- or GPT-2-type model, or type rotate.kind=none")


def _draw(model: Any, norm: Any, kind: str, seed: int) -> Tensor:
    width, generator = norm.weight.numel(), torch.Generator().manual_seed(seed)
    if isinstance(norm, LayerNorm):
        if kind == HADAMARD:
            note("layer norms subtract a mean: the model is turned by a drawn matrix that leaves it alone")
        return draw_mean_fixing(width, generator).to(norm.weight.device)
    matrix = draw_hadamard(width, generator) if kind == HADAMARD else draw_orthogonal(width, generator)
    if matrix is None:
        what = f"no Hadamard matrix of order {width}, the width of the model, is known here"
        raise UserError(what, "rotate.kind", "type rotate.kind=qr")
    return matrix.to(norm.weight.device)


def _fold(norm: Any, readers: Sequence[LinearLayer], where: str) -> None:
    """W (g z + c) + b = (W diag g) z + (b + W c)."""
    shift = getattr(norm, "bias", None)
    for reader in readers:
        weight = reader.weight
        if shift is not None:
            if reader.module.bias is None and bool(shift.any()):
                hint = "type rotate.kind=none"
                raise UserError(f"{reader.name} has no bias for that of its norm to go into", where, hint)
            if reader.module.bias is not None:
                reader.module.bias.add_((weight.double() @ shift.double()).to(weight.dtype))
        weight.copy_(weight.double() * norm.weight.double())
    norm.weight.fill_(1)
    if shift is not None:
        shift.zero_()


def _turn_inputs(linear: LinearLayer, matrix: Tensor) -> None:
    linear.weight.copy_(linear.weight.double() @ matrix)


def _turn_outputs(linear: LinearLayer, matrix: Tensor) -> None:
    """y becomes y Q, so that W becomes Q^T W."""
    linear.weight.copy_(matrix.T @ linear.weight.double())
    if linear.module.bias is not None:
        linear.module.bias.copy_(linear.module.bias.double() @ matrix)


def _head_width(model: Any) -> int:
    config = model.config.get_text_config()
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _turn_values(values: LinearLayer, mixed: LinearLayer, parts: int, width: int) -> None:
    """Values of a head become v H / sqrt(n), and what reads them undoes it; heads that share values share it too."""
    signs = hadamard(width)
    if signs is None:
        return
    matrix = signs.to(values.weight.device) / width**0.5
    rows, bias = values.weight.chunk(parts)[-1], values.module.bias
    rows.copy_(per_head(rows.double().T, matrix).T)
    if bias is not None:
        bias.chunk(parts)[-1].copy_(per_head(bias.chunk(parts)[-1].double(), matrix))
    mixed.weight.copy_(per_head(mixed.weight.double(), matrix))


def per_head(values: Tensor, matrix: Tensor) -> Tensor:
    """[..., heads n] with those of each head times `matrix` [n, n]."""
    return (values.unflatten(-1, (-1, len(matrix))) @ matrix).flatten(-2)


def _turn_ends(model: Any, body: Any, layout: Layout, matrix: Tensor, where: str) -> None:
    """Embeddings, closing norm and head."""
    tables = [model.get_input_embeddings()] + ([getattr(body, layout.positions)] if layout.positions else [])
    for table in tables:
        table.weight.copy_(table.weight.double() @ matrix)
    norm, head = getattr(body, layout.closing), model.get_output_embeddings()
    gain, shift = norm.weight.double().clone(), getattr(norm, "bias", None)
    head.weight.copy_((head.weight.double() * gain) @ matrix)
    norm.weight.fill_(1)
    if shift is not None:
        # W (g z + c) = (W diag g Q) (Q^T z + Q^T (c / g)): the head has no bias for c to go into.
        if bool(((gain == 0) & (shift != 0)).any()):
            raise UserError("the norm behind the last block has gains of 0", where, "type rotate.kind=none")
        shift.copy_((shift.double() / torch.where(gain == 0, 1, gain)) @ matrix)
