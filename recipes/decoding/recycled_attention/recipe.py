"""Recycled Attention as an experiment: long texts, questions about them, and prompts, read with different caches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from recipes.core.data.tasks.prompt_rows import load_prompts
from recipes.core.data.tasks.prompts import Prompt
from recipes.core.data.tasks.prompts_config import PromptsConfig
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.models.text import check_context
from recipes.core.recipe import Evaluation, Untrained
from recipes.core.runs.progress import progress
from recipes.core.scoring.sampling import end_ids
from recipes.core.training.toys.frozen import load_frozen, model_where
from recipes.decoding.exactness import greedy_texts, matches
from recipes.decoding.generations import FILE, Generation, heatmap, write_generations
from recipes.decoding.recycled_attention.config import (
    ACCURACY,
    GLOBAL,
    NLL,
    RECOVERED,
    LongDocumentsConfig,
    RecallConfig,
    RecallerConfig,
    RecycledAttentionConfig,
)
from recipes.decoding.recycled_attention.emulation import Reading, emulate_texts, keys_held, read_in_steps, with_budget
from recipes.decoding.recycled_attention.generating import HINT, WEIGHTS, generate
from recipes.decoding.recycled_attention.interface import check_attention
from recipes.decoding.recycled_attention.recall import COPY, RECALL, recall_texts, recaller, recaller_tokenizer
from recipes.decoding.recycled_attention.texts import Text, long_documents
from recipes.decoding.recycled_attention.training import continue_training
from recipes.decoding.speculation import check_lengths

TITLES = {
    NLL: ("NLL behind the prompt (nats per token)", False),
    RECOVERED: ("share of full attention on the keys that are seen", True),
    "agrees": ("tokens whose likeliest is that of full attention", True),
    "keys_read": ("keys that a step reads, for each layer and key head", False),
    "keys_held": ("keys in memory at the end of a text, for each layer and key head", False),
    "full_steps": ("share of the steps that read all keys", False),
}
BINS = 8
TOGETHER = 2048  # tokens that a forward reads, of texts of one shape


@dataclass(frozen=True)
class Prepared:
    """What the arms of a seed share.

    Attributes:
        model: A `TextModel` on its device, in evaluation mode.
        tokenizer: Its tokenizer.
        texts: What is read.
        prompts: What is continued besides; empty where texts are given whole.
        ends: Tokens that end a text.
    """

    model: Any
    tokenizer: Any
    texts: Sequence[Text]
    prompts: Sequence[Prompt]
    ends: frozenset[int]


class RecycledAttentionRecipe(Untrained):
    """Texts read with one cache, next to full attention."""

    def prepare(self, config: RecycledAttentionConfig, device: str) -> Prepared:
        """Model and texts.

        Raises:
            UserError: one of them cannot be had, a text does not fit the context, or the model's attention is not to be
                replaced.
        """
        model, tokenizer = _load(config, device)
        check_attention(model.language_model, model_where(config.model))
        if config.continued.attention != "none":
            check_context(model, config.continued.length, "continued.length")
            continue_training(config, model, tokenizer)
            model.to(device)
        ends = frozenset([*end_ids(model.language_model), tokenizer.eos_token_id])
        if isinstance(config.data, PromptsConfig):
            prompts, most = load_prompts(config.data, tokenizer), config.generation.max_new_tokens
            check_lengths(prompts, most, model)
            greedy = greedy_texts(model, prompts, ends, most)
            pairs = zip(prompts, greedy, strict=True)
            texts = [Text(each.id, np.array([*each.ids, *one.ids], np.int64), len(each.ids)) for each, one in pairs]
            return Prepared(model, tokenizer, texts, prompts, ends)
        if isinstance(config.data, LongDocumentsConfig):
            check_context(model, config.data.tokens, "data.tokens")
            return Prepared(model, tokenizer, long_documents(config.data, tokenizer, config.seed), (), ends)
        return Prepared(model, tokenizer, recall_texts(config.data, tokenizer, config.seed), (), ends)

    def evaluate(
        self, config: RecycledAttentionConfig, prepared: Prepared, model: object, curve: dict[int, Scores]
    ) -> Evaluation:
        """Read all texts, then continue all prompts."""
        readings = _read(config, prepared)
        scores = score(config, prepared.texts, readings)
        plots = [_by_place(config.variant, readings)] if isinstance(config.data, LongDocumentsConfig) else []
        if not prepared.prompts:
            return Evaluation(scores.overall(), scores, plots=plots)
        generations = _continue(config, prepared)
        _score_generations(config, prepared, generations, scores)
        write = partial(write_generations, generations=generations, tokenizer=prepared.tokenizer)
        shown = heatmap(generations[: config.generation.heatmap], WEIGHTS, prepared.tokenizer, HINT)
        return Evaluation(scores.overall(), scores, shown, plots, files={FILE: write})


def _load(config: RecycledAttentionConfig, device: str) -> tuple[Any, Any]:
    if not isinstance(config.model, RecallerConfig):
        return load_frozen(config, device)
    assert isinstance(config.data, RecallConfig)
    model = recaller(config.model, config.data, config.trainer, config.seed)
    return model.requires_grad_(False).eval().to(device), recaller_tokenizer(config.model)


def _read(config: RecycledAttentionConfig, prepared: Prepared) -> list[Reading]:
    """One for each text; texts of one shape are read in one forward."""
    lm, texts, readings = prepared.model.language_model, prepared.texts, dict[int, Reading]()
    shapes: dict[tuple[int, int], list[int]] = {}
    for number, text in enumerate(texts):
        shapes.setdefault((len(text.ids), text.start), []).append(number)
    with progress("reading texts", len(texts)) as show:
        for (length, start), numbers in shapes.items():
            options, size = with_budget(config.cache, start, length), max(TOGETHER // length, 1)
            for first in range(0, len(numbers), size):
                group = numbers[first : first + size]
                ids = torch.tensor(np.stack([texts[number].ids for number in group]), device=lm.device)
                if options.schedule == GLOBAL:
                    read = [read_in_steps(lm, options, row, start, config.seed) for row in ids]
                else:
                    read = emulate_texts(lm, options, ids, start, config.seed)
                readings |= dict(zip(group, read, strict=True))
                show(len(readings))
    return [readings[number] for number in range(len(texts))]


def score(config: RecycledAttentionConfig, texts: Sequence[Text], readings: Sequence[Reading]) -> Scores:
    """Metrics of texts, by text."""
    scores = Scores()
    for name, (title, higher_is_better) in TITLES.items():
        scores.define(name, title, higher_is_better)
    scores.define(ACCURACY, "answers that are right in all tokens", True)
    for task in (RECALL, COPY):
        scores.define(f"{ACCURACY}/{task}", f"of them those of {task}", True)
    for text, one in zip(texts, readings, strict=True):
        options = with_budget(config.cache, text.start, len(text.ids))
        count, rows = len(one.nlls), max(len(one.nlls) - 1, 1)
        values = {
            NLL: (float(one.nlls.mean()), count),
            RECOVERED: (one.recovered, rows),
            "agrees": (float(one.agrees.float().mean()), count),
            "keys_read": (one.keys_read, rows),
            "keys_held": (keys_held(options, len(text.ids)), 1),
            "full_steps": (one.full_steps, rows),
        }
        for name, (value, weight) in values.items():
            if not math.isnan(value):
                scores.add(name, text.id, text.id, value, weight)
        if text.answers:
            right = [float(one.right[first - text.start : end - text.start].all()) for first, end in text.answers]
            for name in (ACCURACY, f"{ACCURACY}/{text.task}"):
                scores.add(name, text.id, text.id, float(np.mean(right)))
    return scores


def _continue(config: RecycledAttentionConfig, prepared: Prepared) -> list[Generation]:
    draw, generations = torch.Generator().manual_seed(config.seed), list[Generation]()
    with progress("continuing prompts", len(prepared.prompts)) as show:
        for prompt in prepared.prompts:
            generations.append(
                generate(prepared.model, prompt, config.cache, config.generation, prepared.ends, draw, config.seed)
            )
            show(len(generations))
    return generations


def _score_generations(
    config: RecycledAttentionConfig, prepared: Prepared, generations: Sequence[Generation], scores: Scores
) -> None:
    scores.define("ms_per_token", "milliseconds per token", False)
    scores.define("matches_full", "continuations equal to those of full attention", True)
    greedy = greedy_texts(prepared.model, prepared.prompts, prepared.ends, config.generation.max_new_tokens)
    for one, plain in zip(generations, greedy, strict=True):
        name, tokens = one.prompt.id, len(one.ids)
        scores.add("ms_per_token", name, name, 1000 * one.seconds / tokens, tokens)
        if not config.generation.temperature:
            scores.add("matches_full", name, name, matches(one.ids, plain))


def _by_place(label: str, readings: Sequence[Reading]) -> Plot:
    """NLL by how far behind the prompt a token stands."""
    nlls = torch.stack([each.nlls for each in readings]).mean(0)
    parts = nlls.tensor_split(min(BINS, len(nlls)))
    ends = np.cumsum([len(part) for part in parts])
    points = [(float(end - len(part) / 2), float(part.mean())) for end, part in zip(ends, parts, strict=True)]
    return Plot("by-place", "NLL by place", "tokens behind the prompt", "nats per token", {label: points})


RECIPE = RecycledAttentionRecipe
