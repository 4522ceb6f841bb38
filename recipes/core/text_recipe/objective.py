"""The loss of weighted text: what is known of a batch's tokens becomes their weights, without gradient."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from recipes.core.losses.kernels import deferred_cross_entropy
from recipes.core.losses.objectives import IGNORE, model_inputs, token_metrics
from recipes.core.models.head import OutputHead
from recipes.core.scoring.statistics import Ask, token_columns
from recipes.core.text_recipe.items import PLANTED, REFERENCE
from recipes.core.training.parallel import distributed


@dataclass(frozen=True)
class TokenStatistics:
    """What is known of the tokens of a batch when they are weighted. Position t stands for the token that it predicts.

    Attributes:
        nll: [sequences, time] NLL in nats under the model in training, 0 where nothing is predicted.
        mask: [sequences, time] bool, True where a token is predicted.
        reference: [sequences, time] NLL in nats under the reference; None if the recipe reads none.
        columns: What the recipe's `ask` reads of the distribution under the model in training: entropy, max_logprob,
            rank, mass [sequences, time], top_ids and top_logits [sequences, time, k]; 0 where nothing is predicted.
    """

    nll: Tensor
    mask: Tensor
    reference: Tensor | None = None
    columns: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def excess(self) -> Tensor:
        """[sequences, time] NLL under the model minus NLL under the reference, in nats."""
        assert self.reference is not None, "the config's needs_reference says that this run reads none"
        return self.nll - self.reference


LOSS_ONLY = Ask()
Weigh = Callable[[TokenStatistics, Mapping[str, Any]], Tensor]


def mean_one(weights: Tensor, mask: Tensor) -> Tensor:
    """Weights of tokens whose mean over the tokens that are predicted is 1, so that the loss keeps its scale.

    Args:
        weights: [sequences, time] one for each token, or [sequences] one for all tokens of each sequence.
        mask: [sequences, time] bool, True where a token is predicted.

    Returns:
        [sequences, time], zero outside the mask; NaN if all weights are zero, at which training stops.

    Raises:
        ValueError: the weights have another shape.
    """
    if weights.shape not in (mask.shape, mask.shape[:1]):
        shapes = f"{list(mask.shape)} (tokens) or {list(mask.shape[:1])} (sequences)"
        raise ValueError(f"weigh returned weights of shape {list(weights.shape)}; it must return {shapes}")
    spread = weights if weights.dim() == 2 else weights[:, None]
    kept = torch.where(mask, spread.detach(), 0).float()
    return kept * (mask.sum() / kept.sum())


class WeightedText:
    """Sum of weight x NLL over the predicted tokens, divided by their number in the global batch.

    What is weighed together is a micro-batch over all processes; the mean weight in it is 1.

    Args:
        weigh: Statistics and batch -> weights [sequences, time] or [sequences]; their scale does not matter.
        ask: What `weigh` reads of the model's distribution besides the loss, at the cost of one more pass over it.
    """

    def __init__(self, weigh: Weigh, ask: Ask = LOSS_ONLY) -> None:
        self.weigh, self.ask = weigh, ask

    def normalizer(self, batch: dict[str, Tensor]) -> Tensor:
        """Predicted tokens of this micro-batch."""
        return (batch["labels"] != IGNORE).sum().float()

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch and its metrics as [sum, count] pairs."""
        mask = batch["labels"] != IGNORE
        weights = torch.zeros_like(mask, dtype=torch.float32)

        def read(hidden: Tensor, head: OutputHead) -> tuple[Tensor, Tensor]:
            states, targets = hidden[mask], batch["labels"][mask]
            columns = distribution_columns(states, head, targets, self.ask)

            def weigh(nll: Tensor) -> Tensor:
                weights[mask] = self.weights(statistics(nll, mask, batch, columns), batch)[mask]
                return weights[mask] / normalizer

            return deferred_cross_entropy(states, head, targets, weigh)

        loss, nll = model(**model_inputs(batch), readout=read)
        planted = batch[PLANTED] & mask
        noise = {"weight/noise": torch.stack([weights[planted].sum(), planted.sum().float()])}
        return loss, token_metrics(nll, weights[mask]) | noise

    def weights(self, known: TokenStatistics, batch: Mapping[str, Any]) -> Tensor:
        """Weights [sequences, time] of this process's tokens, of mean 1 over all that is weighed together."""
        # Every process weighs the sequences of all and keeps its own, so that several processes equal one.
        # In one order: a set's differs between processes, and what they exchange would be mixed up.
        parts = {name: value for name, value in sorted(batch.items()) if isinstance(value, Tensor)}
        together = {name: distributed.gather_all(value) for name, value in parts.items()}
        reference = None if known.reference is None else distributed.gather_all(known.reference)
        columns = {name: distributed.gather_all(known.columns[name]) for name in sorted(known.columns)}
        nll, mask = distributed.gather_all(known.nll), distributed.gather_all(known.mask)
        every = TokenStatistics(nll, mask, reference, columns)
        first = distributed.rank() * len(known.mask)
        return self.alone(every, together)[first : first + len(known.mask)]

    def alone(self, known: TokenStatistics, batch: Mapping[str, Any]) -> Tensor:
        """Weights [sequences, time] of mean 1, without a look at other processes."""
        return mean_one(self.weigh(known, batch), known.mask)


def distribution_columns(hidden: Tensor, head: OutputHead, targets: Tensor, ask: Ask) -> dict[str, Tensor]:
    """What is asked of the distributions that predict tokens, besides the loss: name -> [tokens, ...]."""
    if ask.logprob_only:
        return {}
    columns = token_columns(hidden.detach(), head, targets, ask)
    return {name: values for name, values in columns.items() if name != "logprob"}


def statistics(
    nll: Tensor, mask: Tensor, batch: Mapping[str, Any], columns: Mapping[str, Tensor] = MappingProxyType({})
) -> TokenStatistics:
    """Statistics of a batch from the NLLs [tokens] and columns [tokens, ...] of its predicted tokens."""

    def spread(values: Tensor) -> Tensor:
        whole = values.new_zeros(*mask.shape, *values.shape[1:])
        whole[mask] = values
        return whole

    spread_columns = {name: spread(values) for name, values in columns.items()}
    return TokenStatistics(spread(nll.detach().float()), mask, batch.get(REFERENCE), spread_columns)


@torch.no_grad()
def live_statistics(model: nn.Module, batch: dict[str, Any], ask: Ask = LOSS_ONLY) -> TokenStatistics:
    """Statistics of a batch under the model as it is, outside of training."""
    mask = batch["labels"] != IGNORE

    def read(hidden: Tensor, head: OutputHead) -> dict[str, Tensor]:
        return token_columns(hidden[mask], head, batch["labels"][mask], ask)

    columns = model(**model_inputs(batch), readout=read)
    return statistics(-columns.pop("logprob"), mask, batch, columns)
