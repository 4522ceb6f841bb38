"""Plain next-token prediction as an objective, whatever else than tokens a model reads."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from recipes.core.losses.objectives import IGNORE

Losses = Callable[[nn.Module, dict[str, Any]], tuple[Tensor, Tensor]]


class NextToken:
    """Mean NLL of the predicted tokens of the global batch.

    Args:
        losses: Model, batch -> sum of the NLLs of its predicted tokens, differentiable, and the NLLs [tokens].
    """

    def __init__(self, losses: Losses) -> None:
        self._losses = losses

    def normalizer(self, batch: dict[str, Tensor]) -> Tensor:
        """Predicted tokens of this micro-batch."""
        return (batch["labels"] != IGNORE).sum().float()

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch and its NLL as [sum, count]."""
        total, nll = self._losses(model, batch)
        counts = torch.stack([nll.sum(), torch.full_like(nll.sum(), len(nll))])
        return total / normalizer, {"nll": counts.detach()}
