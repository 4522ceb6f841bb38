"""AWRS as an experiment: answers under constraints, and small languages whose posterior is known."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.data.files.records import BadRow
from recipes.core.data.tasks.prompt_rows import load_prompts, read_prompts, text_prompt
from recipes.core.data.tasks.prompts import Prompt
from recipes.core.data.text.chats import Chat
from recipes.core.data.text.text_ids import TextIds
from recipes.core.data.text.vocabulary_bytes import VocabularyBytes, tokenizer_kind, vocabulary_bytes
from recipes.core.errors import UserError
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.messages import note
from recipes.core.models.head import output_head
from recipes.core.recipe import Evaluation, Untrained
from recipes.core.runs.progress import progress
from recipes.core.scoring.sampling import end_ids
from recipes.core.training.toys.frozen import build_tokenizer, load_frozen, model_where
from recipes.decoding.awrs.answers import TITLES, Answer, heatmap, score, write_answers
from recipes.decoding.awrs.config import RATIO, TV, AwrsConfig, FormatsConfig, TaskConstraint
from recipes.decoding.awrs.constraints import Constraint, build_constraint, check_satisfiable, regex_constraint
from recipes.decoding.awrs.language import ModelLanguage
from recipes.decoding.awrs.movers import ConstrainedMover
from recipes.decoding.awrs.smc import Cloud, Particle, run
from recipes.decoding.awrs.tasks import requests
from recipes.decoding.awrs.worlds import World, total_variation, with_particles
from recipes.decoding.generations import FILE
from recipes.decoding.speculation import check_lengths


@dataclass(frozen=True)
class Prepared:
    """What the arms of a seed share.

    Attributes:
        model: A `TextModel` on its device, in evaluation mode.
        tokenizer: Its tokenizer.
        vocabulary: Bytes of its tokens.
        ends: Tokens that end a text; the first stands for all.
        asked: Prompts, each with its constraint.
    """

    model: Any
    tokenizer: Any
    vocabulary: VocabularyBytes
    ends: Sequence[int]
    asked: Sequence[tuple[Prompt, Constraint]]


class AwrsRecipe(Untrained):
    """Particles under a constraint, by the method of the config."""

    def prepare(self, config: AwrsConfig, device: str) -> Prepared:
        """Prompts with constraints, then the model. Raises UserError."""
        tokenizer = build_tokenizer(config)
        tokenizer_kind(tokenizer, model_where(config.model))
        asked = prompts_with_constraints(config, tokenizer)
        for constraint in dict.fromkeys(constraint for _, constraint in asked):
            check_satisfiable(constraint)
        model, tokenizer = load_frozen(config, device)
        check_lengths([prompt for prompt, _ in asked], config.generation.max_new_tokens, model)
        ends = list(dict.fromkeys([tokenizer.eos_token_id, *end_ids(model.language_model)]))
        rows = output_head(model.language_model).vocabulary
        return Prepared(
            model, tokenizer, vocabulary_bytes(tokenizer, rows, ends, model_where(config.model)), ends, asked
        )

    def evaluate(self, config: AwrsConfig, prepared: Prepared, model: object, curve: dict[int, Scores]) -> Evaluation:
        """Answer all prompts, then compare with posteriors that are known."""
        answers, movers = answer(config, prepared)
        if dead := [one.prompt.id for one in answers if one.dead]:
            note(f"no answer to {len(dead)} of {len(answers)} prompts, see dead_end in {FILE}: {', '.join(dead)}")
        scores = Scores()
        for name, (title, higher_is_better) in TITLES.items():
            scores.define(name, title, higher_is_better)
        for one in answers:
            score(one, scores)
        for constraint, mover in movers.items():
            if mover.walks:
                scores.add(
                    "walked_per_token",
                    constraint.where,
                    constraint.where,
                    float(np.mean(mover.walks)),
                    len(mover.walks),
                )
        plots = compare_worlds(config, scores)
        scores = scores.without_empty_rows()
        write: Callable[[Path], None] = partial(write_answers, answers=answers)
        shown = heatmap(answers[: config.generation.heatmap], prepared.vocabulary)
        return Evaluation(scores.overall(), scores, shown, plots, files={FILE: write})


def prompts_with_constraints(config: AwrsConfig, tokenizer: Any) -> list[tuple[Prompt, Constraint]]:
    """The prompts of a config, each with its constraint. Raises UserError: one of them cannot be had."""
    named = isinstance(config.constraint, TaskConstraint)
    constraint = None if named else build_constraint(config.constraint)
    if isinstance(config.data, FormatsConfig):
        each = requests(config.data.tasks, config.data.limit)
        return [(_request(one.id, one.text, tokenizer), constraint or one.constraint) for one in each]
    if constraint is not None:
        return [(prompt, constraint) for prompt in load_prompts(config.data, tokenizer)]
    patterns: dict[str, Constraint] = {}
    check = partial(_check_pattern, patterns)
    rows = read_prompts(config.data, str(config.data.path), tokenizer, "pattern", check)
    return [(prompt, patterns[pattern]) for prompt, pattern in rows]


def _check_pattern(patterns: dict[str, Constraint], pattern: str) -> None:
    """Keep the constraint of a row's pattern. Raises BadRow: it cannot be had."""
    if pattern not in patterns:
        try:
            constraint = regex_constraint(pattern, f"pattern {pattern}")
            check_satisfiable(constraint)
        except UserError as error:
            raise BadRow(f"{error.where}: {error.what}") from error
        patterns[pattern] = constraint


def _request(name: str, text: str, tokenizer: Any) -> Prompt:
    if not tokenizer.chat_template:
        return text_prompt(name, f"{text}\n", tokenizer)
    ids = Chat(TextIds(tokenizer)).ids([{"role": "user", "content": text}], ask=True)
    return Prompt(name, text, np.array(ids, np.int32))


def answer(config: AwrsConfig, prepared: Prepared) -> tuple[list[Answer], dict[Constraint, ConstrainedMover]]:
    """Answers to all prompts, as many at once as `smc.rows` allows.

    Raises:
        UserError: all particles of all prompts came to a dead end.
    """
    smc, options = config.smc, config.generation
    language = ModelLanguage(
        prepared.model, prepared.vocabulary, prepared.ends, options.temperature, model_where(config.model), smc.rows
    )
    movers = {
        constraint: ConstrainedMover(smc, constraint, prepared.vocabulary, prepared.ends[0], options.max_new_tokens)
        for _, constraint in prepared.asked
    }
    answers, each = list[Answer](), max(1, smc.rows // smc.particles)
    with progress("answering prompts", len(prepared.asked)) as show:
        for first in range(0, len(prepared.asked), each):
            part = prepared.asked[first : first + each]
            for _, constraint in part:
                constraint.start()
            clouds = [
                Cloud(
                    [Particle()] * smc.particles, movers[constraint], smc.tau, smc.resampling, _random(config, prompt)
                )
                for prompt, constraint in part
            ]
            start, before = time.perf_counter(), language.seconds
            read = run(language, [prompt.ids.tolist() for prompt, _ in part], clouds)
            seconds, forwards = time.perf_counter() - start, language.seconds - before
            moves = sum(cloud.moves for cloud in clouds)
            answers += [
                Answer(prompt, constraint, cloud, rows, seconds / moves, forwards / seconds)
                for (prompt, constraint), cloud, rows in zip(part, clouds, read, strict=True)
            ]
            show(len(answers))
    if smc.method in ("awrs", "mask") and all(one.stuck for one in answers):
        raise max(answers, key=lambda each: len(each.dead_text)).refusal()
    return answers, movers


def _random(config: AwrsConfig, prompt: Prompt) -> np.random.Generator:
    """What is drawn for a prompt does not depend on the others."""
    return np.random.default_rng([config.seed, int.from_bytes(sha256(prompt.id.encode()).digest()[:8], "big")])


def compare_worlds(config: AwrsConfig, scores: Scores) -> list[Plot]:
    """Add how far answers are from posteriors that are known; draw it by the number of particles."""
    options = config.worlds
    if not options.count:
        return []
    numbers = sorted({config.smc.particles, *options.particles})
    lines = {number: list[float]() for number in numbers}
    floors = list[float]()
    with progress("languages whose posterior is known", options.count) as show:
        for count in range(options.count):
            world, name = World(options, count), f"world-{count}"
            floors.append(world.floor(options.draws))
            for number in numbers:
                random = np.random.default_rng([config.seed, count, number])
                repetitions = max(1, options.draws // number)
                outputs, ratio = world.answers(with_particles(config.smc, number), repetitions, random)
                distance = total_variation(outputs, world.posterior)
                lines[number].append(distance)
                if number == config.smc.particles:
                    scores.add(TV, name, name, distance)
                    scores.add("tv_floor", name, name, floors[-1])
                    if ConstrainedMover(config.smc, world.constraint, world.vocabulary, 0, 0).weighted:
                        scores.add(RATIO, name, name, ratio)
            show(count + 1)
    points = [(float(number), float(np.mean(lines[number]))) for number in numbers]
    floor = [(float(number), float(np.mean(floors))) for number in numbers]
    title = "Total variation to the posterior, by particles"
    series = {config.variant: points, "as many draws of the posterior itself": floor}
    return [Plot("particles", title, "particles", "total variation", series)]


RECIPE = AwrsRecipe
