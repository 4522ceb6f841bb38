"""The linear layers of a model's blocks, whatever they are called: what is pruned and quantised.

Embeddings, norms, biases, poolers and output heads are none of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.nn import Embedding, Linear, Module
from transformers.pytorch_utils import Conv1D

from recipes.core.errors import UserError
from recipes.core.models.anatomy import transformer_blocks


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer.

    Attributes:
        name: In the whole model.
        module: `torch.nn.Linear`, or the `Conv1D` of GPT-2.
    """

    name: str
    module: Any

    @property
    def weight(self) -> Tensor:
        """[out, in] its weights, a view of the parameter: what is written into it changes the layer."""
        weight: Tensor = self.module.weight.data
        return weight.T if isinstance(self.module, Conv1D) else weight

    @property
    def transposed(self) -> bool:
        """Whether its parameter is [in, out]."""
        return isinstance(self.module, Conv1D)


@dataclass(frozen=True)
class Block:
    """A block of a transformer.

    Attributes:
        number: From 0.
        name: In the whole model.
        module: The block.
        linears: Its linear layers by their names in the block, in the order of the module.
    """

    number: int
    name: str
    module: Any
    linears: Mapping[str, LinearLayer]


def blocks_of(model: Any, where: str) -> list[Block]:
    """The blocks of a model, in order.

    Args:
        model: A Llama-, GPT-2- or BERT-type model of `transformers`.
        where: Key and value that named it, for messages.

    Raises:
        UserError: it has no stack of blocks; or a block has no linear layers, or weights of more than one dimension
            outside of them (experts in one tensor), which would silently stay as they are.
    """
    stack = transformer_blocks(model)
    prefix = next(name for name, module in model.named_modules() if module is stack)
    return [_block(model, f"{prefix}.{number}", number, module, where) for number, module in enumerate(stack)]


def linears_of(model: Any, where: str) -> list[LinearLayer]:
    """The linear layers of all blocks, in order; arguments and errors as in `blocks_of`."""
    return [linear for block in blocks_of(model, where) for linear in block.linears.values()]


def zero_count(sparsity: float, weights: int) -> int:
    """floor(sparsity * weights) of the sparsity as it is typed: .29 of 100 is 29, though .29 * 100 < 29."""
    return int(Fraction(str(sparsity)) * weights)


@torch.no_grad()
def zeros_of(model: Any, where: str) -> tuple[int, int]:
    """How many weights of the blocks' linear layers are zero, and how many there are."""
    weights = [linear.weight for linear in linears_of(model, where)]
    return sum(int((weight == 0).sum()) for weight in weights), sum(weight.numel() for weight in weights)


def _block(model: Any, prefix: str, number: int, module: Module, where: str) -> Block:
    linears = {
        name: LinearLayer(f"{prefix}.{name}", part)
        for name, part in module.named_modules()
        if isinstance(part, Linear | Conv1D)
    }
    known = {
        f"{name}.weight" for name, part in module.named_modules() if name in linears or isinstance(part, Embedding)
    }
    others = [name for name, weight in module.named_parameters() if weight.ndim > 1 and name not in known]
    if not linears or others:
        lack = f"has weights that are no linear layers, such as {others[0]}" if others else "has no linear layers"
        raise UserError(
            f"block {number} of {type(model).__name__} {lack}",
            where,
            "give a model whose blocks are made of linear layers, as those of Llama, GPT-2 and BERT are",
        )
    return Block(number, prefix, module, linears)
