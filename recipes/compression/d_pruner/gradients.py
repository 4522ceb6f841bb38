"""Sums over samples of the gradient of each linear layer and of its square, without a loop over samples.

A batch's gradient squared is no Fisher: that is the mean of the squares. The gradient of sample n in W [out, in] is
b_n^T a_n, with the inputs a_n [tokens, in] and the gradient b_n [tokens, out] of that sample's loss in the outputs.
All of a batch are one batched product; weights themselves get no gradient. It takes two matrices of the size of each
weight, and up to `PRODUCTS` numbers for the products of one layer at a time.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from recipes.compression.linears import LinearLayer
from recipes.core.errors import UserError

PRODUCTS = 2**24  # numbers: 64 MiB


class GradientSums:
    """Gradients of linear layers, summed over samples.

    Args:
        linears: The layers.
        device: Where the sums are kept.

    Attributes:
        samples: How many were added.
        gradients: Sum of g, [out, in] fp32 of each layer by its name.
        squares: Sum of g^2.
    """

    def __init__(self, linears: Sequence[LinearLayer], device: str) -> None:
        shapes = {linear.name: linear.weight.shape for linear in linears}
        self.samples = 0
        self.gradients, self.squares = (
            {name: torch.zeros(shape, device=device) for name, shape in shapes.items()} for _ in range(2)
        )

    def add(self, name: str, inputs: Tensor, outputs: Tensor) -> None:
        """Add a batch: inputs [samples, tokens, in] of a layer, and gradients [samples, tokens, out] of its outputs."""
        inputs, outputs = inputs.float(), outputs.float()
        samples = max(1, PRODUCTS // self.gradients[name].numel())
        for a, b in zip(inputs.split(samples), outputs.split(samples), strict=True):
            each = torch.bmm(b.transpose(1, 2), a).to(self.gradients[name].device)
            self.gradients[name] += each.sum(0)
            self.squares[name] += each.square_().sum(0)

    def means(self, name: str) -> tuple[Tensor, Tensor]:
        """Gradient and Fisher diagonal of a layer: means over samples of g and of g^2."""
        return self.gradients[name] / self.samples, self.squares[name] / self.samples


def sum_gradients(
    model: Any,
    linears: Sequence[LinearLayer],
    batches: Iterable[Tensor],
    losses: Callable[[Any, Tensor], Tensor],
    device: str,
) -> GradientSums:
    """Gradients of linear layers in the losses of samples, each by itself.

    Args:
        model: A model of `transformers`, frozen, in evaluation mode.
        linears: Those of its layers that are looked at.
        batches: Token ids [samples, tokens].
        losses: (model, batch) -> [samples] loss of each sample.
        device: Where the sums are kept.

    Raises:
        UserError: a layer is used more than once in a forward, or not at all; or its gradient is not finite.
    """
    sums = GradientSums(linears, device)
    read = dict.fromkeys(sums.gradients, 0)

    def watch(name: str) -> Callable[..., None]:
        def hook(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            read[name] += 1
            a = inputs[0].detach()
            output.register_hook(lambda b: sums.add(name, a, b))

        return hook

    # Weights stay frozen: that gradients flow through the layers takes an input that asks for one.
    start = model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: output.requires_grad_())
    hooks = [start, *(linear.module.register_forward_hook(watch(linear.name)) for linear in linears)]
    try:
        for batch in batches:
            with torch.enable_grad():
                losses(model, batch).sum().backward()
            sums.samples += len(batch)
            _check(read, sums)
            read.update(dict.fromkeys(read, 0))
    finally:
        for hook in hooks:
            hook.remove()
    return sums


def _check(read: dict[str, int], sums: GradientSums) -> None:
    odd = next((name for name, times in read.items() if times != 1), None)
    if odd is not None:
        times = f"{read[odd]} times" if read[odd] else "not at all"
        raise UserError(
            f"{odd} is used {times} in a forward, where the gradient of each sample is that of one use",
            "model",
            "give a model whose blocks share no weights",
        )
    broken = next((name for name, squares in sums.squares.items() if not squares.sum().isfinite()), None)
    if broken is not None:
        raise UserError(f"the gradient of {broken} is not finite", "model", "give a model whose losses are finite")
