"""What the trainer is given: a model, its objective and data; what it tells while it trains, and how it ended."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from recipes.core.training.stages import Stages

BeforeStep = Callable[[int, nn.Module, list[dict[str, Any]]], None]


class Objective(Protocol):
    """What a recipe trains on."""

    def normalizer(self, batch: dict[str, Tensor]) -> Tensor:
        """This micro-batch's share of what the global batch's loss sum is divided by: a scalar, or one number for each
        sum that the loss is made of.
        """

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """This micro-batch's loss sum over the global normalizer, and detached metrics as [sum, count] pairs.

        Over micro-batches and processes both are summed; of a metric whose name ends in `_max` (`_min`) the largest
        (smallest) is taken.
        """


@dataclass(frozen=True)
class Training:
    """What is trained, on what.

    Attributes:
        model: The model to train; ends up holding the final weights.
        objective: Its loss.
        dataset: Map-style; an item depends on its index only. If they differ in length, its `sequence_lengths` are the
            tokens of each.
        collate: Items -> batch of tensors, with the example ids under "ids".
        learning_rates: Peak learning rate by parameter-name prefix, where it differs from the config's.
        watch_steps: Steps after which the recipe measures the model.
        before_step: Called before each optimizer step with the number of steps done, the model and this process's
            micro-batches of the step, for objectives that follow a schedule or must see the whole batch first.
        describe: Writes into the folder of the last checkpoint how to read a model out of its weights
            (`recipes.core.models.run_models`); None if none is to be loaded from it.
        take_optimizer: Given the optimizer once it is there, before a checkpoint is loaded into it; for methods that
            change its state.
        frozen: Models that the objective reads and never trains. With `trainer.parallel=fsdp` they are shared out, too,
            so every process must run them equally often.
        stages: Which parameters each step trains, at which rate; None: all that want a gradient, as the settings say.
    """

    model: nn.Module
    objective: Objective
    dataset: Dataset[Any]
    collate: Callable[[list[Any]], dict[str, Any]]
    learning_rates: dict[str, float] = field(default_factory=dict)
    watch_steps: frozenset[int] = frozenset()
    before_step: BeforeStep | None = None
    describe: Callable[[Path], None] | None = None
    take_optimizer: Callable[[Optimizer], None] | None = None
    stages: Stages | None = None
    frozen: tuple[nn.Module, ...] = ()


@dataclass(frozen=True)
class TrainResult:
    """How training ended: "done" or "interrupted", after how many steps, resumed from which (0: from the start)."""

    status: str
    steps: int
    resumed_from: int


class TrainEvents:
    """What a caller may want to know; the base class does nothing."""

    def on_start(self, step: int) -> None:
        """Training starts or resumes after `step` steps."""

    def on_metrics(self, step: int, metrics: dict[str, float], seconds: float) -> None:
        """Metrics of the global batch of one step; `seconds` since the last call."""

    def on_step_end(self, step: int, model: nn.Module) -> None:
        """A step is done; what is measured here is part of the checkpoint that may follow.

        A model that is shared out among processes is whole after the steps in `Training.watch_steps`.
        """

    def stop_early(self) -> bool:
        """Whether what was measured so far ends training; asked only where `trainer.early_stopping` has a metric."""
        return False
