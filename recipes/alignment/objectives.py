"""Preference losses on the shared trainer: one policy forward, per-token scores, masks if a recipe has them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from recipes.alignment.config import PreferenceConfig
from recipes.alignment.losses import LOSSES, Completions, PreferenceBatch, implicit_rewards
from recipes.alignment.mismatched import mismatched_log_ratio
from recipes.alignment.packing import run_packed
from recipes.alignment.pairs import TOKENS, by_row, valid_tokens
from recipes.core.kernels import exact
from recipes.core.logprobs import logprobs_and_kl, projected, token_logprobs, token_statistics
from recipes.core.models.head import OutputHead
from recipes.core.models.vision_language import Readout, TextModel
from recipes.core.objectives import IGNORE

# Name of a loss's coefficient -> where the config has it.
COEFFICIENTS = {
    "beta": "beta",
    "gamma": "gamma",
    "label_smoothing": "label_smoothing",
    "nll_weight": "nll_weight",
    "lam": "positive_weight",
    "desirable_weight": "desirable_weight",
    "undesirable_weight": "undesirable_weight",
}


class PreferenceModel(nn.Module):
    """A policy, and what is trained along with it to weigh its tokens.

    Args:
        policy: The `TextModel` that is trained.
        masks: Reference hidden states, [N, width] of each layer -> what the tokens weigh.
        states: From a batch to these states [N, layers, width]. They may come from the reference, which is no part of
            what is trained and saved, so that it hides behind a function.
    """

    def __init__(
        self,
        policy: TextModel,
        masks: nn.Module | None = None,
        states: Callable[[dict[str, Tensor]], Tensor] = lambda batch: batch[TOKENS + "states"],
    ) -> None:
        super().__init__()
        self.policy, self.masks, self.states = policy, masks, states

    @property
    def language_model(self) -> Any:
        """The policy's, which is all that is kept of a policy trained for later."""
        return self.policy.language_model

    def forward(self, batch: dict[str, Tensor], readout: Readout[Any]) -> tuple[Any, Any]:
        """What the read-out makes of the policy's hidden states, and the masks of the batch's tokens."""
        found = run_packed(self.policy, batch, readout)
        return found, None if self.masks is None else self.masks(self.states(batch).unbind(1))


class TokenScores:
    """Per-token scores of a policy beside its reference, as the losses read them.

    Args:
        needs: Fields of `Completions` to fill besides `logps`.
        head: That of the reference; None if no KL is needed.
    """

    def __init__(self, needs: tuple[str, ...], head: OutputHead | None) -> None:
        self.needs, self.head = needs, head

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor]
    ) -> tuple[Completions, Completions, tuple[Tensor, Any]]:
        """Chosen and rejected answers [pairs, time], then the lengths [rows] and the masks of all tokens [N].

        Args:
            model: A `PreferenceModel`, or what wraps it.
            batch: As in `recipes.alignment.pairs`.
        """
        predicted = batch["labels"] != IGNORE
        targets = batch["labels"][predicted]

        def read(hidden: Tensor, head: OutputHead) -> dict[str, Tensor]:
            return self._read(hidden[predicted], head, targets, batch)

        found, masks = model(batch, read)
        lengths = predicted.sum(1)
        if "ref_logps" in self.needs:
            found["ref_logps"] = batch[TOKENS + "ref_logps"]
        rows = {name: by_row(values, lengths) for name, values in found.items()}
        chosen, rejected = halves(Completions(mask=valid_tokens(lengths), **rows))
        return chosen, rejected, (lengths, masks)

    def _read(self, hidden: Tensor, head: OutputHead, targets: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if "kl" in self.needs and self.head is not None:
            self.head = self.head.to(hidden.device)
            reference = projected(batch[TOKENS + "states"][:, -1], self.head)
            scores = logprobs_and_kl(hidden, head, targets, reference)
            return {"logps": scores.logps, "kl": scores.kl}
        found = {"logps": token_logprobs(hidden, head, targets)}
        if "log_squares" in self.needs:
            found["log_squares"] = token_statistics(hidden.detach(), head.detach(), targets).log_squares
        return found


class Preference:
    """A preference loss without masks.

    Args:
        config: Which loss, with its coefficients.
        scores: What computes the per-token scores.
    """

    def __init__(self, config: PreferenceConfig, scores: TokenScores) -> None:
        self.config, self.scores = config, scores
        self.compute, self.coefficients = loss_of(config)
        self.mismatched: Tensor | None = None
        # What the trainer calls before each step, if the loss reads something of the whole batch.
        self.before_step = self._drift if "mismatched" in LOSSES[config.loss].needs else None

    def normalizer(self, batch: dict[str, Any]) -> Tensor:
        """Pairs of this micro-batch."""
        return torch.tensor(float(len(batch["labels"]) // 2))

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch and its metrics as [sum, count] pairs."""
        chosen, rejected, told = self.scores(model, batch)
        pairs, penalty, metrics = self.weigh(self.pairs(chosen, rejected, batch), told, batch)
        # `kto` has one value an answer; there are as many chosen as rejected ones, so that this is their mean.
        values = self.compute(pairs, **self.coefficients).view(-1, len(chosen.mask)).mean(0)
        loss = (values + penalty).sum() / normalizer
        return loss, pair_metrics(pairs, self.config.beta) | metrics

    def _drift(self, step: int, model: nn.Module, batches: list[dict[str, Any]]) -> None:
        self.mismatched = mismatched_log_ratio(model, batches)

    def pairs(self, chosen: Completions, rejected: Completions, batch: dict[str, Tensor]) -> PreferenceBatch:
        """The batch as the losses take it."""
        return PreferenceBatch(chosen, rejected, score_gap=batch.get("score_gap"), mismatched=self.mismatched)

    def weigh(
        self, pairs: PreferenceBatch, told: tuple[Tensor, Any], batch: dict[str, Tensor]
    ) -> tuple[PreferenceBatch, Tensor | float, dict[str, Tensor]]:
        """The pairs with weights, what is added to the loss of each, and metrics: here nothing of it."""
        return pairs, 0.0, {}


def loss_of(config: PreferenceConfig) -> tuple[Callable[..., Tensor], dict[str, Any]]:
    """The loss function that a config names, and its coefficients."""
    loss = LOSSES[config.loss]
    fields = COEFFICIENTS | {"alpha": "offset_weight" if config.loss == "odpo" else "alpha"}
    found = {name: getattr(config, fields[name]) for name in loss.coefficients if name in fields}
    return loss.compute, found


def halves(answers: Completions) -> tuple[Completions, Completions]:
    """Chosen and rejected answers of rows that are stacked chosen first."""
    half = len(answers.mask) // 2
    tensors = {name: value for name, value in vars(answers).items() if value is not None}
    first, second = (
        {name: value[part] for name, value in tensors.items()} for part in (slice(half), slice(half, None))
    )
    return replace(answers, **first), replace(answers, **second)


@torch.no_grad()
def pair_metrics(pairs: PreferenceBatch, beta: float) -> dict[str, Tensor]:
    """What is logged of a step's pairs: log-probs, reward accuracy and margin, KL. Name -> [sum, count]."""
    chosen, rejected = (replace(side, weights=None, kl_weights=None) for side in (pairs.chosen, pairs.rejected))
    found = {"logp_chosen": chosen.logp(), "logp_rejected": rejected.logp()}
    if chosen.ref_logps is not None:
        rewards = implicit_rewards(pairs, beta)
        found |= {"accuracy": (rewards[0] > rewards[1]).float(), "margin": rewards[0] - rewards[1]}
    if pairs.mismatched is not None:
        found["mismatched"] = pairs.mismatched.reshape(1)
    if chosen.kl is not None:
        found["answer_kl"] = torch.cat([chosen.sequence_kl(), rejected.sequence_kl()])
    return {name: sum_count(values) for name, values in found.items()}


def sum_count(values: Tensor) -> Tensor:
    """[sum, count] of some values."""
    return torch.stack([exact(values).sum(), torch.tensor(float(values.numel()), device=values.device)])
