"""Preference losses on the shared trainer: one policy forward, per-token scores, masks if a recipe has them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from recipes.alignment.config import PreferenceConfig
from recipes.alignment.losses import LOSSES, Completions, PreferenceBatch, implicit_rewards
from recipes.alignment.mismatched import mismatched_log_ratio
from recipes.alignment.pairs import TOKENS, by_row, prompt_tokens, valid_tokens
from recipes.alignment.reference_scores import LOGPS, STATES, StepReference
from recipes.core.losses.logprobs import log_squares, logprobs_and_kl, project, token_logprobs
from recipes.core.losses.objectives import IGNORE
from recipes.core.models.head import OutputHead
from recipes.core.models.packing import forward_packed
from recipes.core.models.precision import exact
from recipes.core.models.vision_language import Readout, TextModel
from recipes.core.training.parallel.distributed import gather_all

PROMPTS = "prompts"
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
        states: Callable[[dict[str, Tensor]], Tensor] = lambda batch: batch[TOKENS + STATES],
    ) -> None:
        super().__init__()
        self.policy, self.masks, self.states = policy, masks, states

    @property
    def language_model(self) -> Any:
        """The policy's, which is all that is kept of a policy trained for later."""
        return self.policy.language_model

    def forward(self, batch: dict[str, Tensor], readout: Readout[Any]) -> tuple[Any, Any]:
        """What the read-out makes of the policy's hidden states, and the masks of the batch's tokens."""
        output = forward_packed(self.policy, batch, readout)
        return output, None if self.masks is None else self.masks(self.states(batch).unbind(1))


class Beside(NamedTuple):
    """What comes with the scores of a batch's completions.

    Attributes:
        lengths: [rows] completion tokens.
        masks: What the model gave as masks of all tokens [N].
        nll: [pairs, time] the chosen answers with their prompts, if asked for.
    """

    lengths: Tensor
    masks: Any
    nll: Completions | None


class TokenScores:
    """Per-token scores of a policy beside its reference, as the losses read them.

    Args:
        needs: Fields of `Completions` to fill besides `logps`.
        head: That of the reference; None if no KL is needed.
        prompts: Whether a loss that reads the NLL of whole texts gets that of prompts with answers.
        beside: Gives batches the reference's scores of their tokens; None: they bring them along.
    """

    def __init__(
        self,
        needs: tuple[str, ...],
        head: OutputHead | None,
        prompts: bool = False,
        beside: StepReference | None = None,
    ) -> None:
        self.needs, self.head, self.prompts, self.beside = needs, head, prompts, beside

    def __call__(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Completions, Completions, Beside]:
        """Chosen and rejected answers [pairs, time], and what comes with them.

        Args:
            model: A `PreferenceModel`, or what wraps it.
            batch: As in `recipes.alignment.pairs`.
        """
        if self.beside is not None:
            batch = self.beside.complete(batch)
        predicted = batch["labels"] != IGNORE
        targets = batch["labels"][predicted]

        def read(hidden: Tensor, head: OutputHead) -> dict[str, Tensor]:
            scores = self._read(hidden[predicted], head, targets, batch)
            if self.prompts:
                asked = prompt_tokens(batch)
                asked[len(asked) // 2 :] = False
                scores[PROMPTS] = token_logprobs(hidden[asked], head, batch["input_ids"].roll(-1, 1)[asked])
            return scores

        columns, masks = model(batch, read)
        lengths = predicted.sum(1)
        if "ref_logps" in self.needs:
            columns[LOGPS] = batch[TOKENS + LOGPS]
        prompts = columns.pop(PROMPTS, None)
        rows = {name: by_row(values, lengths) for name, values in columns.items()}
        chosen, rejected = halves(Completions(mask=valid_tokens(lengths), **rows))
        nll = None if prompts is None else with_prompts(chosen, prompts, batch)
        return chosen, rejected, Beside(lengths, masks, nll)

    def _read(self, hidden: Tensor, head: OutputHead, targets: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if "kl" in self.needs and self.head is not None:
            self.head = self.head.to(hidden.device)
            reference = project(batch[TOKENS + STATES][:, -1], self.head)
            scores = logprobs_and_kl(hidden, head, targets, reference)
            return {"logps": scores.logps, "kl": scores.kl}
        columns = {"logps": token_logprobs(hidden, head, targets)}
        if "log_squares" in self.needs:
            columns["log_squares"] = log_squares(hidden.detach(), head.detach())
        return columns


def scores_of(config: PreferenceConfig, head: OutputHead | None, beside: StepReference | None = None) -> TokenScores:
    """The scores that a config's loss reads; arguments as in `TokenScores`."""
    loss = LOSSES[config.loss]
    return TokenScores(loss.needs, head, config.nll_prompt and "nll" in loss.optional, beside)


def chosen_prompts(batch: dict[str, Tensor]) -> Tensor:
    """bool [pairs, time]: where the tokens of the chosen answers' prompts are predicted."""
    return prompt_tokens(batch)[: len(batch["labels"]) // 2]


def with_prompts(chosen: Completions, logps: Tensor, batch: dict[str, Tensor]) -> Completions:
    """Chosen answers with their prompts before them, whose tokens' log-probs are `logps` [N]."""
    lengths = chosen_prompts(batch).sum(1)
    both = torch.cat([by_row(logps, lengths), chosen.logps], 1)
    return Completions(both, torch.cat([valid_tokens(lengths), chosen.mask.bool()], 1))


class Preference:
    """A preference loss without masks.

    Args:
        config: Which loss, with its coefficients.
        scores: What computes the per-token scores.
    """

    def __init__(self, config: PreferenceConfig, scores: TokenScores) -> None:
        self.config, self.scores = config, scores
        self.compute, self.coefficients = loss_of(config)
        loss = LOSSES[config.loss]
        self.drifts = "mismatched" in loss.needs
        self.by_batch = config.nll == "batch" and "nll_length" in loss.optional
        self.mismatched: Tensor | None = None
        self.nll_length: Tensor | None = None
        # What the trainer calls before each step, if the loss reads something of the whole batch.
        self.before_step = self._look if self.drifts or self.by_batch else None

    def normalizer(self, batch: dict[str, Any]) -> Tensor:
        """Pairs of this micro-batch."""
        return torch.tensor(float(len(batch["labels"]) // 2))

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch and its metrics as [sum, count] pairs."""
        chosen, rejected, beside = self.scores(model, batch)
        pairs, penalty, metrics = self.weigh(self.pairs(chosen, rejected, beside, batch), beside, batch)
        # `kto` has one value an answer; there are as many chosen as rejected ones, so that this is their mean.
        values = self.compute(pairs, **self.coefficients).view(-1, len(chosen.mask)).mean(0)
        loss = (values + penalty).sum() / normalizer
        return loss, pair_metrics(pairs, self.config.beta) | metrics

    def _look(self, step: int, model: nn.Module, batches: list[dict[str, Any]]) -> None:
        if self.drifts:
            self.mismatched = mismatched_log_ratio(model, batches, self.scores.beside)
        if self.by_batch:
            self.nll_length = mean_nll_length(batches, self.scores.prompts)

    def pairs(
        self, chosen: Completions, rejected: Completions, beside: Beside, batch: dict[str, Tensor]
    ) -> PreferenceBatch:
        """The batch as the losses take it."""
        gap = batch.get("score_gap")
        return PreferenceBatch(chosen, rejected, beside.nll, self.nll_length, gap, self.mismatched)

    def weigh(
        self, pairs: PreferenceBatch, beside: Beside, batch: dict[str, Tensor]
    ) -> tuple[PreferenceBatch, Tensor | float, dict[str, Tensor]]:
        """The pairs with weights, what is added to the loss of each, and metrics: here nothing of it."""
        return pairs, 0.0, {}


def mean_nll_length(batches: list[dict[str, Any]], prompts: bool) -> Tensor:
    """Scalar: mean number of tokens that the NLL of a chosen answer is of, over the global batch and all processes.

    Args:
        batches: This process's micro-batches; each process has as many rows.
        prompts: Whether prompts count as well.
    """
    tokens, rows = torch.zeros(()), 0
    for batch in batches:
        pairs = len(batch["labels"]) // 2
        counted = batch["labels"][:pairs] != IGNORE
        tokens = tokens.to(counted.device) + (counted | chosen_prompts(batch) if prompts else counted).sum()
        rows += pairs
    return gather_all((tokens / rows)[None]).mean()


def loss_of(config: PreferenceConfig) -> tuple[Callable[..., Tensor], dict[str, Any]]:
    """The loss function that a config names, and its coefficients."""
    loss = LOSSES[config.loss]
    fields = COEFFICIENTS | {"alpha": "offset_weight" if config.loss == "odpo" else "alpha"}
    coefficients = {name: getattr(config, fields[name]) for name in loss.coefficients if name in fields}
    return loss.compute, coefficients


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
    logged = {"logp_chosen": chosen.logp(), "logp_rejected": rejected.logp()}
    if chosen.ref_logps is not None:
        rewards = implicit_rewards(pairs, beta)
        logged |= {"accuracy": (rewards[0] > rewards[1]).float(), "margin": rewards[0] - rewards[1]}
    if pairs.mismatched is not None:
        logged["mismatched"] = pairs.mismatched.reshape(1)
    if chosen.kl is not None:
        logged["answer_kl"] = torch.cat([chosen.sequence_kl(), rejected.sequence_kl()])
    return {name: sum_count(values) for name, values in logged.items()}


def sum_count(values: Tensor) -> Tensor:
    """[sum, count] of some values."""
    return torch.stack([exact(values).sum(), torch.tensor(float(values.numel()), device=values.device)])
