"""Stops training at the step that broke: a loss, a gradient or weights that are not finite name their examples.

Whatever is not finite is found before it is saved, logged or measured, so that the last checkpoint is from before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from recipes.core.errors import RunFailed

SHOWN = 5
LOWER = "lower trainer.learning_rate or look at these examples"
WEIGH = "look at these examples, and at the keys of what weighs them"


class Diverged(RunFailed):
    """A step of a training broke."""


@dataclass
class StepCheck:
    """Looks at one optimizer step after the other.

    Attributes:
        step: The step under way, the first being 1.
        ids: Ids of the examples that it has taken in this process.
    """

    step: int = 0
    ids: list[str] = field(default_factory=list)

    def begin(self, step: int) -> None:
        """A step begins."""
        self.step, self.ids = step, []

    def loss(self, loss: Tensor, ids: Sequence[Any]) -> None:
        """Check the loss of a micro-batch of these examples.

        Raises:
            RunFailed: it is not finite.
        """
        if not torch.isfinite(loss):
            raise self._failure(f"the loss is {loss.item()}", ids)
        self.ids += map(str, ids)

    def gradient(self, norm: Any, largest_weight: Tensor | None = None) -> None:
        """Check the norm of the whole step's gradient, before the optimizer uses it.

        Args:
            norm: Of the global batch.
            largest_weight: Of this process's tokens or samples in the step; None where they have none.

        Raises:
            RunFailed: it is not finite, or all weights are zero and there is none.
        """
        value = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if not torch.isfinite(torch.as_tensor(value)):
            raise self._failure(f"the norm of the gradient is {float(value)}", self.ids)
        if largest_weight is not None and not largest_weight and not value:
            raise self._failure("every token weighs 0, so that nothing is trained", self.ids, WEIGH)

    def weights(self, model: nn.Module) -> None:
        """Check the weights that the optimizer has just changed.

        Raises:
            RunFailed: one is not finite.
        """
        trained = [parameter.detach() for parameter in model.parameters() if parameter.requires_grad]
        local = [part.to_local() if isinstance(part, DTensor) else part for part in trained]
        # The largest absolute value overflows nowhere, as a sum of squares would.
        largest = nn.utils.get_total_norm(local, norm_type=float("inf"))
        if not torch.isfinite(largest):
            names = [name for name, value in model.named_parameters() if not torch.isfinite(value.detach()).all()]
            name = names[0].removeprefix("module.") if names else "a weight"
            raise self._failure(f"{name} is not finite any more", self.ids)

    def _failure(self, what: str, ids: Sequence[Any], hint: str = LOWER) -> Diverged:
        listed = ", ".join(map(str, ids[:SHOWN])) + (f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else "")
        return Diverged(
            f"{what} at step {self.step}",
            where=f"batch of {listed}",
            hint=f"{hint}; the last checkpoint is from before it",
        )
