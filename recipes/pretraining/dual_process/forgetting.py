"""The objective that forgets: before a step embeddings are drawn anew, or tokens of the batch are given other ones."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from recipes.core.training.stages import generator, reset
from recipes.pretraining.dual_process.config import DRIFT, ForgetConfig
from recipes.pretraining.dual_process.method import draw_rows, draw_tokens, reset_steps, with_rows
from recipes.pretraining.dual_process.model import ToyBert

Batch = dict[str, Any]


class Forgetting:
    """Mean cross-entropy of masked tokens, on a schedule that is a function of seed and step alone.

    A checkpoint of step t is saved before the reset that follows step t, so that a resumed run does it, too.

    This is no training in `Stages`, each of which begins with a warm-up and an optimizer without moments: here the rate
    goes on, and so do the moments of the body. How a table is overwritten, and where numbers come from, is the same.

    Args:
        config: What is forgotten.
        seed: Of what is drawn.
        steps: Of the run.
    """

    def __init__(self, config: ForgetConfig, seed: int, steps: int) -> None:
        self.config, self.seed = config, seed
        self.resets = (
            reset_steps(config.interval(steps), config.last(steps), steps) if config.resets else frozenset[int]()
        )
        self.begin = config.first_replaced(steps)
        self.optimizer: Optimizer | None = None
        self.drawn: tuple[Tensor, Tensor] | None = None

    def take_optimizer(self, optimizer: Optimizer) -> None:
        """Whose moments a reset clears."""
        self.optimizer = optimizer

    def before_step(self, step: int, model: nn.Module, batches: list[Batch]) -> None:
        """Forget what is due after `step` steps."""
        assert isinstance(model, ToyBert)
        config, (rows, width) = self.config, model.table.shape
        if step in self.resets:
            fresh = draw_rows(self.seed, step, rows, width, config.std)
            reset(model.table, fresh, self.optimizer if config.clear_moments else None)
            model.resets += 1
            model.drawn_std.fill_(config.std)
        if config.replaces and step >= self.begin:
            tokens = torch.cat([batch["input_ids"].flatten() for batch in batches])
            self.drawn = draw_tokens(tokens, config.share, config.std, width, generator(self.seed, step + 1))
            model.drawn_std.fill_(config.std)

    def normalizer(self, batch: Batch) -> Tensor:
        """Masked tokens of this micro-batch."""
        return torch.tensor(float(batch["targets"].numel()))

    def __call__(self, model: nn.Module, batch: Batch, normalizer: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch, and loss and accuracy (all three right) as (sum, count) pairs."""
        table = None if self.drawn is None else self._table(model)
        logits, targets = model(batch["input_ids"], table).float(), batch["targets"]
        losses = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        right = (logits.detach().argmax(-1) == targets).all(-1)
        count = torch.ones_like(losses.detach())
        metrics = {
            "nll": torch.stack([losses.detach(), count * targets.numel()]),
            "accuracy": torch.stack([right.sum().to(count), count * len(targets)]),
        }
        return losses / normalizer, metrics

    def _table(self, model: nn.Module) -> Tensor:
        """The embedding with drawn rows; without a gradient where only the body is trained: it stays bit for bit."""
        assert isinstance(model, ToyBert) and self.drawn is not None
        table = model.table if self.config.mode == DRIFT else model.table.detach()
        return with_rows(table, *self.drawn)
