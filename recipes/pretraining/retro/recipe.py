"""RETRO as an experiment: trained with neighbours or without, measured by how much neighbours share with the text."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.core.data.text.mixture import DomainCorpus, Mixture, load_mixture
from recipes.core.evaluation.curves import regular_steps
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.models.text import build_text_tokenizer
from recipes.core.recipe import Evaluation
from recipes.core.scoring.neighbours import MISSING
from recipes.core.storage.files import write_text
from recipes.core.training.sequences import MixtureItems
from recipes.core.training.stages import Stages
from recipes.core.training.task import Training
from recipes.pretraining.next_token import NextToken
from recipes.pretraining.retro.config import RetroConfig
from recipes.pretraining.retro.database import Database, Sequences
from recipes.pretraining.retro.items import Collate, RetroItems
from recipes.pretraining.retro.measures import (
    Example,
    add_answers,
    add_losses,
    add_shares,
    chunk_losses,
    held_out_examples,
    losses_by_overlap,
    sequence_losses,
)
from recipes.pretraining.retro.model import RetroLM, build_model, token_losses

HELD_OUT, QUESTIONS = 1, 2  # seeds of the random neighbours of what is measured: the same for all seeds


@dataclass(frozen=True)
class Prepared:
    """What a run reads.

    Attributes:
        mixture: Packed texts.
        database: Chunks of the training documents.
        training: Training sequences with what the arm reads beside them.
        held_out: Held-out sequences, with the same.
        questions: Chunks of the database with the chunks that follow them, with the same.
        examples: Held-out chunks by overlap.
        device: Where to compute.
    """

    mixture: Mixture
    database: Database
    training: Sequences
    held_out: Sequences
    questions: Sequences
    examples: list[Example]
    device: str


class RetroRecipe:
    """A small decoder that reads neighbours of its chunks."""

    def prepare(self, config: RetroConfig, device: str) -> Prepared:
        """Packed texts and neighbours. Raises UserError: there is too little text, or one document alone."""
        corpus = DomainCorpus(config.data)
        tokenizer = build_text_tokenizer(config.model, corpus.texts(), corpus.fingerprint)
        mixture = load_mixture(config.data, corpus, tokenizer)
        database = Database(config, mixture, tokenizer, device)
        training, held_out = database.training(), database.held_out()
        questions = database.questions(config.retrieval.chunk)
        examples = held_out_examples(config, database, held_out)
        exclude = config.retrieval.exclude_same_document
        return Prepared(
            mixture,
            database,
            database.of_arm(training, config.seed, exclude),
            database.of_arm(held_out, HELD_OUT, False),
            database.of_arm(questions, QUESTIONS, False),
            examples,
            device,
        )

    def build(self, config: RetroConfig, prepared: Prepared) -> Training:
        """The model; all arms of a seed share texts, their order and the initial decoder, unless it is wider."""
        retrieval, tokenizer = config.retrieval, prepared.database.tokenizer
        read = retrieval if retrieval.is_read else None
        model = build_model(config.model, read, config.inner, len(tokenizer), config.sequence_tokens, config.seed)
        trainer = config.trainer
        steps = trainer.max_steps
        stages = None
        if config.stages:
            stages = Stages(model, config.stages, model.groups(), trainer, config.seed, where="retrieval.plain_share")
        texts = MixtureItems(prepared.mixture, steps * trainer.batch_size, config.seed)
        chunks, end = prepared.database.chunks, tokenizer.eos_token_id
        items: Any = RetroItems(texts, prepared.training, chunks, retrieval, end, config.seed)

        def open_gate(step: int, model: Any, _: list[dict[str, Any]]) -> None:
            model.gate = float(stages is None or stages.at(step) > 0)

        watched = regular_steps(steps, config.evaluation.watch_every)
        return Training(model, NextToken(token_losses), items, Collate(chunks), {}, watched, open_gate, stages=stages)

    def watch(self, config: RetroConfig, prepared: Prepared, model: Any) -> Scores:
        """Losses of held-out text."""
        scores = Scores()
        add_losses(scores, prepared.examples, _losses(config, prepared, model, prepared.held_out))
        return scores

    def evaluate(self, config: RetroConfig, prepared: Prepared, model: Any, curve: dict[int, Scores]) -> Evaluation:
        """The same by overlap, and questions about the database."""
        scores, examples = Scores(), prepared.examples
        model.gate = 1.0
        losses = _losses(config, prepared, model, prepared.held_out)
        add_losses(scores, examples, losses)
        add_shares(scores, examples)
        if len(prepared.questions):
            answers = _losses(config, prepared, model, prepared.questions)
            add_answers(scores, prepared.questions, answers, config.retrieval.chunk)
        series = {config.variant: losses_by_overlap(examples, losses)}
        title = "Loss of a chunk by the longest run of tokens that its neighbours share with it"
        plot = Plot("loss-by-overlap", title, "tokens in a row", "nats per token", series)
        files = {"neighbours.jsonl": lambda path: _write_neighbours(path, config, prepared, losses)}
        return Evaluation(scores.overall(), scores, plots=[plot], files=files)


def _losses(config: RetroConfig, prepared: Prepared, model: RetroLM, sequences: Sequences) -> Any:
    return sequence_losses(config, prepared.database, model, sequences, prepared.device)


def _write_neighbours(path: Path, config: RetroConfig, prepared: Prepared, losses: Any) -> None:
    """Some held-out chunks, those with the largest overlap first: what stands before them, and what was looked up."""
    database, sequences, lines = prepared.database, prepared.held_out, []
    for example in sorted(prepared.examples, key=lambda each: -each.overlap)[: config.evaluation.shown]:
        if example.overlap < 0:
            continue
        begin, last = example.tokens
        tokens, numbers = sequences.tokens[example.row], sequences.numbers[example.row, example.chunk - 1]
        decode = database.tokenizer.decode
        lines.append(
            {
                "chunk": example.name,
                "overlap": example.overlap,
                "before": decode(tokens[:begin].tolist()),
                "text": decode(tokens[begin:last].tolist()),
                "neighbours": [database.text(n) for n in numbers[: config.retrieval.k].tolist() if n != MISSING],
                "nats_per_token": float(chunk_losses(example, losses).mean()),
            }
        )
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


RECIPE = RetroRecipe
