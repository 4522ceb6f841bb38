"""The model that a compression leaves: how many of its weights are zero, in how many bits they are, and its folder."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recipes.compression.linears import linears_of
from recipes.core.models.hf_folder import writer
from recipes.core.storage.files import write_json

COMPRESSION = "compression.json"


def layer_zeros(model: Any, where: str) -> dict[str, dict[str, int]]:
    """Name of each linear layer of the blocks -> how many weights it has, and how many are zero."""
    return {
        linear.name: {"weights": linear.weight.numel(), "zeros": int((linear.weight == 0).sum())}
        for linear in linears_of(model, where)
    }


def compressed_writer(model: Any, tokenizer: Any, where: str, method: Mapping[str, Any]) -> Callable[[Path], None]:
    """What writes a model into a folder that `from_pretrained` of transformers takes alone, and what was done to it.

    `compression.json` beside its weights holds the method, the share of zeros, and both for each layer. Weights are
    stored as they are computed with, zeros too: a format of fewer bits is a packer's work.

    Args:
        model: As it was left.
        tokenizer: Its tokenizer.
        where: Key and value that named the model.
        method: What was done: method, sparsity or bits.
    """
    layers = layer_zeros(model, where)
    zeros, weights = (sum(layer[key] for layer in layers.values()) for key in ("zeros", "weights"))
    stated = {**method, "weights": weights, "zeros": zeros, "sparsity_reached": zeros / weights, "layers": layers}
    write_whole = writer(model, tokenizer)

    def write(folder: Path) -> None:
        write_whole(folder)
        write_json(folder / COMPRESSION, stated)

    return write
