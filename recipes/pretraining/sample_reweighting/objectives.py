"""Losses whose sample weights follow from the losses of the batch, for language models and for regression."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recipes.core.losses.kernels import deferred_cross_entropy, token_nll
from recipes.core.losses.objectives import IGNORE, model_inputs
from recipes.core.models.head import OutputHead
from recipes.core.training.parallel import distributed
from recipes.pretraining.sample_reweighting import method
from recipes.pretraining.sample_reweighting.config import ReweightConfig


@dataclass(frozen=True)
class Weighed:
    """What `Weighing` says of this process's sequences.

    Attributes:
        coefficients: [b] what each mean loss is multiplied by; they sum to 1 over all that is weighed together.
        relative: [b] weight over the mean weight; 1 is uniform.
        metrics: Name -> [sum, count] of all that is weighed together, the same in every process.
    """

    coefficients: Tensor
    relative: Tensor
    metrics: dict[str, Tensor]

    def split(self, sizes: list[int]) -> list["Weighed"]:
        """The same for consecutive micro-batches."""
        parts = zip(self.coefficients.split(sizes), self.relative.split(sizes), strict=True)
        return [Weighed(coefficients, relative, self.metrics) for coefficients, relative in parts]


class Weighing:
    """Weighs the sequences of all processes by their losses.

    Args:
        config: How.
    """

    def __init__(self, config: ReweightConfig) -> None:
        self.config, self.r = config, config.r

    def at_step(self, step: int) -> None:
        """Set the temperature of the step that comes, the first being 0."""
        config = self.config
        self.r = method.temperature(step, config.r, config.warmup_steps or 0, config.warmup_r)

    def __call__(self, losses: Tensor, lengths: Tensor) -> Weighed:
        """Weigh sequences.

        Args:
            losses: [b] mean loss of each sequence of this process.
            lengths: [b] tokens of each that carry loss.
        """
        together, counts = distributed.gather_all(losses), distributed.gather_all(lengths)
        kept = (counts > 0) & torch.isfinite(together)
        weights = method.sample_weights(together, self.config.strategy, self.config.alpha, self.r, kept)
        coefficients = method.coefficients(weights, counts, self.config.length_correction)
        if not kept.any():  # nothing is left to train on: the trainer stops, as at a loss that is not finite
            coefficients = torch.full_like(coefficients, torch.nan)
        mine = slice(distributed.rank() * len(losses), (distributed.rank() + 1) * len(losses))
        relative = weights * len(weights)
        return Weighed(coefficients[mine], relative[mine], _spread(together, weights, kept))


class Reweighted:
    """Sum of weight x mean NLL over the sequences of a batch; the weights follow from the NLLs and carry no gradient.

    With `scope=micro` each micro-batch is weighed on its own (over all processes), as in the published code. With
    `scope=global` everything in an optimizer step is weighed together; if it takes several micro-batches, their
    losses are computed once more, before the first backward.

    Args:
        config: How losses become weights.
        micro_batches: Of an optimizer step, in one process.
        domains: Names of the domains, for metrics.
        duplicates: Whether some sequences come again and again, for metrics.
    """

    def __init__(
        self, config: ReweightConfig, micro_batches: int, domains: Sequence[str] = (), duplicates: bool = False
    ) -> None:
        self.weighing, self.domains, self.duplicates = Weighing(config), domains, duplicates
        self.looks_ahead = config.scope == "global" and micro_batches > 1 and config.strategy != "uniform"
        self._ahead: list[Weighed] = []

    def before_step(self, step: int, model: nn.Module, batches: list[dict[str, Any]]) -> None:
        """Set the temperature and, where the whole step is weighed together, look at all of it first."""
        self.weighing.at_step(step)
        if not self.looks_ahead:
            return
        with torch.no_grad():
            looked = [mean_losses(model, batch) for batch in batches]
        losses, lengths = (torch.cat(parts) for parts in zip(*looked, strict=True))
        self._ahead = self.weighing(losses, lengths).split([len(part) for part, _ in looked])

    def normalizer(self, batch: dict[str, Tensor]) -> Tensor:
        """1: the sum over micro-batches and processes counts them."""
        return torch.ones(())

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch and its metrics as [sum, count] pairs."""
        predicted, rows, lengths = _predicting_positions(batch)
        passes: list[Weighed] = []

        def weigh(nll: Tensor) -> Tensor:
            if self.looks_ahead:
                weighed, share = self._ahead.pop(0), torch.ones_like(normalizer)
            else:
                weighed = self.weighing(_row_means(nll, rows, lengths), lengths)
                share = distributed.world_size() / normalizer  # one micro-batch counts like another
            passes.append(weighed)
            return (share * weighed.coefficients / lengths.clamp(min=1))[rows]

        def read(hidden: Tensor, head: OutputHead) -> tuple[Tensor, Tensor]:
            return deferred_cross_entropy(hidden[predicted], head, batch["labels"][predicted], weigh)

        loss, nll = model(**model_inputs(batch), readout=read)
        return loss, passes[0].metrics | self._by_group(passes[0].relative, batch) | {"nll": _sum_count(nll)}

    def _by_group(self, relative: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Mean weight of each domain, of the duplicates and of the sequences that come once."""
        groups = {name: batch["domain"] == index for index, name in enumerate(self.domains)}
        if self.duplicates:
            groups |= {"duplicate": batch["duplicate"], "unique": ~batch["duplicate"]}
        return {
            f"weight/{name}": torch.stack([relative[members].sum(), members.sum().double()])
            for name, members in groups.items()
        }


class ReweightedRegression:
    """Sum over regimes of weight x squared error / 2 over the rows of a batch.

    Args:
        config: How losses become weights.
        regimes: Names of the regimes, for metrics.
    """

    def __init__(self, config: ReweightConfig, regimes: Sequence[str]) -> None:
        self.weighing, self.regimes = Weighing(config), regimes

    def before_step(self, step: int, model: nn.Module, batches: list[dict[str, Any]]) -> None:
        """Set the temperature."""
        self.weighing.at_step(step)

    def normalizer(self, batch: dict[str, Tensor]) -> Tensor:
        """1: the sum over micro-batches and processes counts them."""
        return torch.ones(())

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch and its metrics as [sum, count] pairs."""
        losses = model(batch["x"], batch["y"])  # [regimes, b]
        total = losses.new_zeros(())
        metrics: dict[str, Tensor] = {}
        for name, row in zip(self.regimes, losses, strict=True):
            weighed = self.weighing(row.detach(), torch.ones_like(row))
            total = total + (weighed.coefficients * row).sum()
            metrics |= {f"{name}/{key}": pair for key, pair in weighed.metrics.items()}
        return total * distributed.world_size() / normalizer, metrics


def mean_losses(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean NLL [b] of each sequence of a batch in nats, and its number of predicted tokens [b]."""
    predicted, rows, lengths = _predicting_positions(batch)

    def read(hidden: Tensor, head: OutputHead) -> Tensor:
        return token_nll(hidden[predicted], head, batch["labels"][predicted])

    return _row_means(model(**model_inputs(batch), readout=read), rows, lengths), lengths


def _predicting_positions(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """[b, time] bool: positions that predict; the row of each of them; how many each row has."""
    predicted = batch["labels"] != IGNORE
    return predicted, predicted.nonzero()[:, 0], predicted.sum(1)


def _row_means(nll: Tensor, rows: Tensor, lengths: Tensor) -> Tensor:
    total = torch.zeros(len(lengths), dtype=torch.float64, device=nll.device)
    return total.index_add_(0, rows, nll.double()) / lengths.clamp(min=1)


def _spread(losses: Tensor, weights: Tensor, kept: Tensor) -> dict[str, Tensor]:
    """How losses and weights of all that is weighed together lie; every process reports the same."""
    finite = losses[kept] if kept.any() else losses.new_zeros(1)
    one = torch.ones((), dtype=torch.float64, device=losses.device)
    values = {
        "sequence_loss": finite.mean(),
        "sequence_loss_min": finite.min(),
        "sequence_loss_max": finite.max(),
        "relative_weight_max": weights.max() * len(weights),
        "effective_share": method.effective_share(weights),
        "excluded_share": (~kept).double().mean(),
    }
    return {name: torch.stack([value.double(), one]) for name, value in values.items()}


def _sum_count(nll: Tensor) -> Tensor:
    finite = torch.isfinite(nll)
    return torch.stack([torch.where(finite, nll, 0).sum(), finite.sum().to(nll.dtype)])
