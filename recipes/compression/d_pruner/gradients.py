"""Gradients of a block's linear layers and their squares, summed over samples without a loop over samples.

A batch's gradient squared is no Fisher: that is the mean of the squares. The gradient of sample n in W [out, in] is
b_n^T a_n, with the inputs a_n [tokens, in] and the gradient b_n [tokens, out] of that sample's loss in the outputs.
All of a batch are one batched product; weights themselves get no gradient. It takes two fp32 matrices of the size of
each weight of one block, and up to `PRODUCTS` numbers for the products of one layer at a time.
"""

import torch
from torch import Tensor

from recipes.compression.linears import Block

PRODUCTS = 2**24  # numbers: 64 MiB


class GradientSums:
    """Gradients of linear layers, summed over samples: `add` is what `BackwardStep.run` calls.

    Args:
        block: Whose layers; the sums are kept where its weights are.
    """

    def __init__(self, block: Block) -> None:
        self._sums = {
            name: (torch.zeros_like(linear.weight, dtype=torch.float32), torch.zeros_like(linear.weight).float())
            for name, linear in block.linears.items()
        }
        self._samples = dict.fromkeys(self._sums, 0)

    def add(self, name: str, inputs: Tensor, outputs: Tensor) -> None:
        """Add a batch: inputs [samples, tokens, in] of a layer, and gradients [samples, tokens, out] of its outputs."""
        gradient, square = self._sums[name]
        samples = max(1, PRODUCTS // gradient.numel())
        for a, b in zip(inputs.float().split(samples), outputs.float().split(samples), strict=True):
            each = torch.bmm(b.transpose(1, 2), a)
            gradient += each.sum(0)
            square += each.square_().sum(0)
        self._samples[name] += len(inputs)

    def means(self, name: str) -> tuple[Tensor, Tensor]:
        """Gradient and Fisher diagonal of a layer, [out, in] each: means over samples of g and of g^2."""
        gradient, square = self._sums[name]
        return gradient / self._samples[name], square / self._samples[name]
