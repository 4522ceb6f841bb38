"""Where pruners act in models of other depths than the published ones, and how they share a budget among layers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from recipes.core.errors import UserError


def scale_layers(layers: Sequence[int], of: int, depth: int, offset: int = 0) -> tuple[int, ...]:
    """Published layers of a model with `of` layers, moved to the same share of `depth`, rising, from 1 on.

    Those that the model is too shallow for are left out.

    Args:
        layers: Numbers of layers run before.
        of: Depth of the published model.
        depth: Depth of this one.
        offset: Added to every result (-1: behind a layer instead of entering the next).
    """
    targets: list[int] = []
    for layer in layers:
        targets.append(max(1, round(layer * depth / of), targets[-1] + 1 if targets else 1))
    return tuple(layer + offset for layer in targets if layer + offset < depth)


def check_layers(name: str, layers: Sequence[int], depth: int) -> tuple[int, ...]:
    """The layers, sorted.

    Raises:
        UserError: the model has no such layer.
    """
    for layer in layers:
        if not 0 <= layer < depth:
            raise UserError(
                f"{name} acts at layer {layer}, but the model has {depth}", hint=f"layers are 0 to {depth - 1}"
            )
    return tuple(sorted(set(layers)))


def geometric(count: Tensor, budget: Tensor, left: int) -> Tensor:
    """[B] tokens to keep now so that `left` equal shares (this one included) end at the budget.

    Args:
        count: [B] tokens now.
        budget: [B] tokens wanted at the end.
        left: Pruning points left, this one included.
    """
    if left <= 1:
        return torch.minimum(budget, count)
    share = (budget.double() / count.clamp(min=1)).clamp(max=1) ** (1 / left)
    return torch.minimum(torch.maximum((count * share).round().long(), budget), count)
