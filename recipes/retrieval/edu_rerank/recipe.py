"""EDU plans as an experiment: a generator of plans is trained, candidates are written and re-ranked, and compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from recipes.core.data.text.splits import TEST, TRAIN
from recipes.core.evaluation.curves import regular_steps
from recipes.core.evaluation.scores import Scores
from recipes.core.models.adapters import with_adapters
from recipes.core.models.build import local_seed
from recipes.core.models.run_models import describer
from recipes.core.models.sentences import load_sentence_encoder
from recipes.core.recipe import Evaluation
from recipes.core.scoring.vectors import sentence_vectors
from recipes.core.training.task import Training
from recipes.core.training.toys.frozen import build_tokenizer, load_frozen
from recipes.core.training.trainer import check_one_batch
from recipes.retrieval.edu_rerank.candidates import Candidates, extract, write_plans, written
from recipes.retrieval.edu_rerank.choosing import chooser
from recipes.retrieval.edu_rerank.config import EDURerankConfig
from recipes.retrieval.edu_rerank.documents import RANK, Document, Documents, load_documents
from recipes.retrieval.edu_rerank.oracles import grams_of, oracle_plan
from recipes.retrieval.edu_rerank.planner import Planner
from recipes.retrieval.edu_rerank.results import FILE, add_scores, heatmap, measure, write_candidates
from recipes.retrieval.edu_rerank.training import Lesson, Lessons, Summariser, SummaryObjective, collate, watch
from recipes.retrieval.edu_rerank.units import divide_text
from recipes.retrieval.edu_rerank.writing import Prompts, check_room, with_rows, write_texts


@dataclass(frozen=True)
class Prepared:
    """What a run needs.

    Attributes:
        documents: By part.
        lessons: The same as vectors, with the oracle's plan of each.
        encoder: Of texts that are written in the run.
        tokenizer: Of the language model; None where none writes.
        prompts: Makes its prompts; None where none writes.
        device: Where the run computes.
    """

    documents: Documents
    lessons: dict[str, list[Lesson]]
    encoder: Any
    tokenizer: Any
    prompts: Prompts | None
    device: str


class EDURerankRecipe:
    """Trains a generator of plans, where plans are learned."""

    def prepare(self, config: EDURerankConfig, device: str) -> Prepared:
        """Documents, vectors of their units (cached by content) and the oracle's plans. Raises UserError."""
        documents = load_documents(config.data, config.plans.longest_document)
        flat = [document for those in documents.values() for document in those]
        if config.plans.is_learned or config.writes:
            check_one_batch(len(documents[TRAIN]), config.trainer)
        texts = [text for document in flat for text in document.units.texts(config.plans.unit)]
        encoder = load_sentence_encoder(config.encoder.path, "encoder.path", device, config.encoder.max_tokens)
        vectors = sentence_vectors(encoder, texts)
        ends = np.cumsum([0, *(len(document.units.texts(config.plans.unit)) for document in flat)])
        lessons = [
            _lesson(document, config.plans.unit, vectors[start:end])
            for document, (start, end) in zip(flat, pairwise(ends), strict=True)
        ]
        rest = iter(lessons)
        by_part = {part: [next(rest) for _ in those] for part, those in documents.items()}
        tokenizer = build_tokenizer(config) if config.writes else None
        prompts = Prompts(tokenizer, config.writer) if config.writes else None
        if prompts is not None:
            for part in (TRAIN, TEST):
                by_part[part] = with_rows(config.writer, prompts, documents[part], by_part[part], config.seed)
            prompts.note_cut()
        return Prepared(documents, by_part, encoder, tokenizer, prompts, device)

    def build(self, config: EDURerankConfig, prepared: Prepared) -> Training | None:
        """Plan generator and writer, as far as they are trained, and what they learn from; None if neither is."""
        if not (config.plans.is_learned or config.writes):
            return None
        lessons, planner, writer = prepared.lessons[TRAIN], None, None
        if config.plans.is_learned:
            with local_seed(config.seed):
                planner = Planner(lessons[0].vectors.shape[1], config.plans.longest_document, config.planner)
        if config.writes:
            writer, _ = load_frozen(config, prepared.device)
            check_room(writer, config.writer)
            writer = with_adapters(writer.requires_grad_(not config.lora.rank), config.lora, config.seed)
        model = Summariser(planner, writer)
        objective = SummaryObjective(config.planner.salience_weight, config.writer.smoothing)
        steps = regular_steps(config.trainer.max_steps, config.evaluation.watch_every)
        rows: Any = Lessons(lessons)
        describe = describer(model, prepared.tokenizer) if config.writes else None
        rates = {"writer.": config.writer.learning_rate}
        return Training(model, objective, rows, collate, rates, steps, describe=describe)

    def watch(self, config: EDURerankConfig, prepared: Prepared, model: Any) -> Scores:
        """How likely the oracle's plans of measured documents are, and their references."""
        return watch(model, prepared.lessons[TEST], config.writer.smoothing, prepared.device)

    def evaluate(self, config: EDURerankConfig, prepared: Prepared, model: Any, curve: dict[int, Scores]) -> Evaluation:
        """Candidates of measured documents, the one that the re-ranker takes, and what is measured of both."""
        if model is not None:
            model.to(prepared.device)
        ranked = _candidates(config, prepared, model, RANK) if config.reranker.name == "brio" else []
        choose = chooser(config.reranker, ranked, config.seed)
        scores = curve[max(curve)].without_empty_rows() if curve else Scores()
        results = [measure(candidates, choose) for candidates in _candidates(config, prepared, model, TEST)]
        add_scores(scores, results)
        files = {FILE: partial(write_candidates, results=results)}
        shown = heatmap(results[: config.evaluation.heatmap])
        return Evaluation(scores.overall(), scores, heatmap=shown, files=files)


def _lesson(document: Document, unit: str, vectors: np.ndarray) -> Lesson:
    grams = [grams_of(text) for text in document.units.texts(unit)]
    reference = divide_text(document.reference).texts(unit)
    plan, labels = oracle_plan(grams, [grams_of(text) for text in reference])
    return Lesson(document.id, vectors, labels.astype(np.float32), tuple(plan))


def _candidates(config: EDURerankConfig, prepared: Prepared, model: Any, part: str) -> Sequence[Candidates]:
    """Plans of the documents of a part, and a text for each."""
    documents, lessons = prepared.documents[part], prepared.lessons[part]
    sizes = np.array([len(lesson.plan) for lesson in prepared.lessons[TRAIN]])
    planner = None if model is None else model.planner
    plans = write_plans(config.plans, planner, lessons, sizes, config.seed, f"plans of {part} documents")
    if prepared.prompts is None:
        return extract(documents, lessons, plans, config.plans.unit)
    asked = [
        (prepared.prompts.prompt(document, plan.units), times)
        for document, those in zip(documents, plans, strict=True)
        for plan, times in ([(those[0], len(those))] if config.plans.name == "none" else [(plan, 1) for plan in those])
    ]
    texts = write_texts(config.writer, config.plans, model.writer, prepared.tokenizer, asked, config.seed)
    return written(documents, lessons, plans, texts, _embed(prepared.encoder, [text for text, *_ in texts]))


def _embed(encoder: Any, texts: Sequence[str]) -> np.ndarray:
    """[texts, d] vectors of length 1; zeros of an empty text, of which some encoders have no token."""
    filled = [number for number, text in enumerate(texts) if text]
    vectors = np.zeros((len(texts), encoder.model.config.hidden_size), np.float32)
    if filled:
        vectors[filled] = encoder.embed([texts[number] for number in filled]).numpy()
    return vectors


RECIPE = EDURerankRecipe
