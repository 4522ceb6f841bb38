"""One alignment experiment, loss aside: pairs, reference, policy, and what is measured of it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from recipes.alignment import evaluation as measures
from recipes.alignment.config import ALL_STATES, NO_STATES, AlignmentRunConfig, Reads
from recipes.alignment.data import Ground, States, prepare_ground, states_of
from recipes.alignment.losses import LOSSES
from recipes.alignment.mismatched import add_mismatches
from recipes.alignment.objectives import Preference, PreferenceModel, TokenScores, scores_of
from recipes.alignment.pairs import PairItems, PairSet, pair_collate
from recipes.alignment.reference import pad_id
from recipes.alignment.reference_scores import AnswerScores, StepReference, choose_scores
from recipes.core.evaluation.curves import regular_steps
from recipes.core.evaluation.scores import Scores
from recipes.core.models.adapters import Unadapted, with_adapters
from recipes.core.models.head import output_head
from recipes.core.models.run_models import describer
from recipes.core.recipe import Evaluation
from recipes.core.training.model_options import cast_parameters
from recipes.core.training.task import Objective, Training


@dataclass(frozen=True)
class Prepared:
    """What all arms and seeds share, and this run's columns of fixed token values.

    Attributes:
        ground: Pairs, prompts, judges, tokenizer and reference.
        train: Items to train on.
        test: Held-out items.
        reference: The reference's scores of the held-out answers.
        states: From a batch to the reference's hidden states.
        device: Where the run computes.
        beside: Gives training batches what the loss reads of the reference; None: they bring it along.
    """

    ground: Ground
    train: PairItems
    test: PairItems
    reference: AnswerScores
    states: States
    device: str
    beside: StepReference | None


class AlignmentRecipe:
    """Preference training without token weights. A recipe overrides where its method differs."""

    def prepare(self, config: Any, device: str) -> Prepared:
        """Reference, pairs and what is known of their tokens, each cached by content. Raises UserError on bad data."""
        ground, reads = self.ground(config, device), config.reads
        if config.trainer.dtype != "float32":  # as the policy's are before its first step
            cast_parameters(ground.frozen, getattr(torch, config.trainer.dtype))
        # Of held-out answers, nothing but what masks read beside what is measured.
        states = reads.states if reads.states == ALL_STATES else NO_STATES
        sets = ((ground.data.train, reads), (ground.data.test, Reads(False, states)))
        items, scores, besides = [], [], []
        for index, (pairs, read) in enumerate(sets):
            reference, beside = choose_scores(config, ground.frozen, pairs, read, device)
            columns = self.columns(config, ground, pairs, reference, device, config.seed + index)
            items.append(PairItems(pairs, columns | (reference.columns(read) if beside is None else {})))
            scores.append(reference)
            besides.append(beside)
        scores[1].compute()  # now: the reference's weights may be the policy's, which will have adapters
        train, beside = items[0], besides[0]
        if "mismatched" in LOSSES[config.preference.loss].needs:
            train = add_mismatches(train, ground.frozen if beside is None else None, device)
        if config.one_copy:
            ground = one_copy(ground)
            beside = beside and StepReference(ground.frozen, beside.layers, beside.bf16)
        return Prepared(ground, train, items[1], scores[1], states_of(ground.frozen), device, beside)

    def ground(self, config: Any, device: str) -> Ground:
        """Models and pairs. Raises UserError on bad data."""
        return prepare_ground(config, device)

    def columns(
        self, config: Any, ground: Ground, pairs: PairSet, reference: AnswerScores, device: str, seed: int
    ) -> dict[str, np.ndarray]:
        """[tokens, ...] values of all answers' tokens that batches bring along besides those of the reference.

        Args:
            config: The run's.
            ground: Models and tokenizer.
            pairs: The answers.
            reference: The reference's scores of them.
            device: Where to compute more.
            seed: For what is drawn.
        """
        return {}

    def build(self, config: Any, prepared: Prepared) -> Training:
        """Policy and objective. All arms of a seed share initialisation and data order."""
        return training(config, prepared, Preference(config.preference, token_scores(config, prepared)))

    def watch(self, config: Any, prepared: Prepared, model: Any) -> Scores:
        """Reward and KL of samples."""
        return judge_samples(config, prepared, model.policy)

    def answering(self, prepared: Prepared, model: Any) -> tuple[Any, Any]:
        """The model and its tokenizer, for the user's own questions."""
        return (None if model is None else model.policy), prepared.ground.tokenizer

    def evaluate(self, config: Any, prepared: Prepared, model: Any, curve: dict[int, Scores]) -> Evaluation:
        """The last samples, the frontier, held-out pairs, and facts of the data."""
        ground, test = prepared.ground, prepared.test.pairs
        scores = curve[max(curve)].without_empty_rows()
        start = judge_samples(config, prepared, ground.frozen)
        extra = measures.add_frontier(scores, curve, start, config.evaluation.kl)
        logps = measures.policy_logps(model.policy, test, prepared.device, prepared.reference.bf16)
        self.add_answers(config, prepared, scores, logps)
        for name, (title, higher, value) in ground.data.facts.items():
            scores.define(name, title, higher)
            extra[name] = float(value)
        plots = measures.frontier_plots(curve, start, config.arm)
        return Evaluation(scores.overall() | extra, scores, plots=plots)

    def add_answers(self, config: Any, prepared: Prepared, scores: Scores, logps: np.ndarray) -> None:
        """Add what is read off the policy's log-probs of held-out answers, float32 [tokens]."""
        measures.add_pair_scores(scores, prepared.test.pairs, logps, prepared.reference.logps)


def one_copy(ground: Ground) -> Ground:
    """The ground with the reference as the policy without its adapters, so that its weights are held once."""
    policy = ground.frozen
    return replace(ground, reference=lambda: policy, frozen=Unadapted(policy))


def token_scores(config: AlignmentRunConfig, prepared: Prepared) -> TokenScores:
    """What computes the per-token scores that the config's loss reads."""
    head = output_head(prepared.ground.frozen.language_model).detach()
    return scores_of(config.preference, head, prepared.beside)


def training(
    config: AlignmentRunConfig,
    prepared: Prepared,
    objective: Objective,
    masks: Any = None,
    rates: dict[str, float] | None = None,
) -> Training:
    """A new policy on the run's pairs.

    Args:
        config: The run's.
        prepared: Its data.
        objective: What is minimised.
        masks: What is trained along with the policy to weigh its tokens.
        rates: Learning rates of parameters whose names begin so.
    """
    ground = prepared.ground
    policy = with_adapters(ground.reference(), config.lora, config.seed)
    model = PreferenceModel(policy, masks, prepared.states)
    rows: Any = prepared.train
    steps = regular_steps(config.trainer.max_steps, config.evaluation.watch_every)
    frozen = () if config.one_copy else (ground.frozen,)
    before, describe = getattr(objective, "before_step", None), describer(model, ground.tokenizer)
    collate = pair_collate(pad_id(ground.tokenizer))
    return Training(model, objective, rows, collate, rates or {}, steps, before, describe, frozen=frozen)


def judge_samples(
    config: AlignmentRunConfig, prepared: Prepared, policy: Any, others: Mapping[str, Any] | None = None
) -> Scores:
    """Judged samples of a policy, and its KL to the reference and to others, by name."""
    options = {
        "samples": config.evaluation.samples,
        "max_new_tokens": config.data.max_new_tokens,
        "seed": config.seed,
        "device": prepared.device,
    }
    ground = prepared.ground
    data, frozen = ground.data, ground.frozen
    return measures.sample_scores(policy, frozen, data.prompts, data.judges, ground.tokenizer, options, others)
