"""What the recipes of this family share: a frozen model, prompts, and what is measured of their continuations."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from recipes.core.data.tasks.prompt_rows import load_prompts
from recipes.core.data.tasks.prompts import Prompt
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.recipe import Evaluation, Untrained
from recipes.core.runs.progress import progress
from recipes.core.scoring.sampling import end_ids
from recipes.core.training.toys.frozen import load_frozen
from recipes.decoding.exactness import GreedyText, greedy_texts, matches
from recipes.decoding.generations import CHOSEN, FILE, Generation, heatmap, write_generations
from recipes.decoding.speculation import DRAFTED, Drafter, Speculation, Verify, check_lengths, verify_with

TOKENS_PER_STEP = "tokens_per_step"
MATCHES = "matches_greedy"
TITLES = {
    TOKENS_PER_STEP: ("tokens per step, a step being one forward of the model", True),
    "read_per_step": ("tokens that a step reads", False),
    "ms_per_token": ("milliseconds per token", False),
    "drafting_share": ("share of the time that is not the model's forwards", False),
    "nll": ("NLL of the continuations (nats per token)", False),
}
HINT = "Tokens of an accepted draft weigh 4; tokens that the model gave after a forward of its own weigh 1/4."
WEIGHTS = {DRAFTED: 4.0, CHOSEN: 0.25}


@dataclass(frozen=True)
class Prepared:
    """What the arms of a seed share.

    Attributes:
        model: A `TextModel` on its device, in evaluation mode.
        tokenizer: Its tokenizer.
        prompts: In the order of this seed.
        ends: Tokens that end a text.
    """

    model: Any
    tokenizer: Any
    prompts: Sequence[Prompt]
    ends: frozenset[int]


def prepare(config: Any, device: str) -> Prepared:
    """The model and the prompts of a `DecodingConfig`.

    Raises:
        UserError: one of them cannot be had, or a continuation may not fit the model's context.
    """
    model, tokenizer = load_frozen(config, device)
    prompts = load_prompts(config.data, tokenizer)
    check_lengths(prompts, config.generation.max_new_tokens, model)
    order = np.random.default_rng(config.seed).permutation(len(prompts))
    ends = frozenset([*end_ids(model.language_model), tokenizer.eos_token_id])
    return Prepared(model, tokenizer, [prompts[i] for i in order], ends)


class SpeculativeRecipe(Untrained, ABC):
    """A recipe whose config is a `DecodingConfig` and which drafts. A method writes `drafter`."""

    @abstractmethod
    def drafter(self, config: Any, prepared: Any) -> Drafter:
        """A new drafter, which knows nothing yet."""

    def verify(self, config: Any, prepared: Any, generator: torch.Generator) -> Verify:
        """How drafts are accepted; here a draft is whatever the model itself chooses."""
        return verify_with(config.generation.temperature, generator)

    def measure(self, scores: Scores, drafter: Drafter, generations: Sequence[Generation]) -> list[Plot]:
        """Add metrics that only this method has, by prompt, and draw what it shows; here nothing."""
        return []

    def prepare(self, config: Any, device: str) -> Any:
        """Model and prompts, and what is made once of them. Raises UserError."""
        return prepare(config, device)

    def evaluate(self, config: Any, prepared: Any, model: object, curve: dict[int, Scores]) -> Evaluation:
        """Continue all prompts, one by one, with one drafter; compare with plain decoding; draw."""
        options, prompts = config.generation, prepared.prompts
        verify = self.verify(config, prepared, torch.Generator().manual_seed(config.seed))
        drafter = self.drafter(config, prepared)
        run = Speculation(prepared.model, drafter, verify, prepared.ends, options.max_new_tokens)
        generations = list[Generation]()
        with progress("continuing prompts", len(prompts)) as show:
            for prompt in prompts:
                generations.append(run.generate(prompt))
                show(len(generations))
        scores = score(generations)
        if not options.temperature:
            add_matches(
                scores, generations, greedy_texts(prepared.model, prompts, prepared.ends, options.max_new_tokens)
            )
        write = partial(write_generations, generations=generations, tokenizer=prepared.tokenizer)
        shown = heatmap(generations[: options.heatmap], WEIGHTS, prepared.tokenizer, HINT)
        plots = [by_prompts(config.variant, generations), *self.measure(scores, drafter, generations)]
        return Evaluation(scores.overall(), scores, shown, plots, files={FILE: write})


def score(generations: Sequence[Generation]) -> Scores:
    """Metrics of continuations, by prompt."""
    scores = Scores()
    for name, (title, higher_is_better) in TITLES.items():
        scores.define(name, title, higher_is_better)
    for one in generations:
        steps, tokens = len(one.steps), len(one.ids)
        rows = {
            TOKENS_PER_STEP: (one.tokens_per_step, steps),
            "read_per_step": (sum(step.read for step in one.steps) / steps, steps),
            "ms_per_token": (1000 * one.seconds / tokens, tokens),
            "drafting_share": (one.drafting / one.seconds, one.seconds),
            "nll": (sum(nll for step in one.steps for nll in step.nlls) / tokens, tokens),
        }
        for name, (value, count) in rows.items():
            scores.add(name, one.prompt.id, one.prompt.id, value, count)
    return scores


def add_matches(scores: Scores, generations: Sequence[Generation], greedy: Sequence[GreedyText]) -> None:
    """Add whether each continuation is that of plain decoding of the same prompt."""
    scores.define(MATCHES, "continuations equal to plain greedy decoding", True)
    for one, plain in zip(generations, greedy, strict=True):
        scores.add(MATCHES, one.prompt.id, one.prompt.id, matches(one.ids, plain))


def by_prompts(label: str, generations: Sequence[Generation]) -> Plot:
    """Tokens per step of each prompt, in the order in which they came."""
    points = [(float(number), one.tokens_per_step) for number, one in enumerate(generations)]
    title = "Tokens per step, by prompts seen before"
    return Plot("prompts-seen", title, "prompts seen before", "tokens per step", {label: points})
