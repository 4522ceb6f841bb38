"""EDU plans as an experiment: a generator of plans is trained, candidates are written and re-ranked, and compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from recipes.core.data.text.splits import TEST, TRAIN
from recipes.core.evaluation.curves import regular_steps
from recipes.core.evaluation.scores import Scores
from recipes.core.models.build import local_seed
from recipes.core.models.dropout import evaluation
from recipes.core.models.sentences import load_sentence_encoder
from recipes.core.recipe import Evaluation
from recipes.core.training.trainer import Training, check_one_batch
from recipes.retrieval.edu_rerank.candidates import Candidates, extract, write_plans
from recipes.retrieval.edu_rerank.choosing import chooser
from recipes.retrieval.edu_rerank.config import EDURerankConfig
from recipes.retrieval.edu_rerank.documents import RANK, Document, Documents, load_documents
from recipes.retrieval.edu_rerank.oracles import grams_of, oracle_plan
from recipes.retrieval.edu_rerank.planner import Planner
from recipes.retrieval.edu_rerank.results import FILE, Results, add_scores, heatmap, measure, write_candidates
from recipes.retrieval.edu_rerank.training import Lesson, Lessons, PlanObjective, collate, plan_losses
from recipes.retrieval.edu_rerank.units import divide_text
from recipes.retrieval.first_stage import embed_once

BATCH = 64  # documents of a forward that measures


@dataclass(frozen=True)
class Prepared:
    """What a run needs.

    Attributes:
        documents: By part.
        lessons: The same as vectors, with the oracle's plan of each.
        device: Where the run computes.
    """

    documents: Documents
    lessons: dict[str, list[Lesson]]
    device: str


class EDURerankRecipe:
    """Trains a generator of plans, where plans are learned."""

    def prepare(self, config: EDURerankConfig, device: str) -> Prepared:
        """Documents, vectors of their units (cached by content) and the oracle's plans. Raises UserError."""
        documents = load_documents(config.data, config.plans.longest_document)
        flat = [document for those in documents.values() for document in those]
        if config.plans.is_learned:
            check_one_batch(len(documents[TRAIN]), config.trainer)
        texts = [text for document in flat for text in document.units.texts(config.plans.unit)]
        encoder = load_sentence_encoder(config.encoder.path, "encoder.path", device, config.encoder.max_tokens)
        vectors = embed_once(encoder, texts, "unit-vectors")
        ends = np.cumsum([0, *(len(document.units.texts(config.plans.unit)) for document in flat)])
        lessons = [
            _lesson(document, config.plans.unit, vectors[start:end])
            for document, (start, end) in zip(flat, pairwise(ends), strict=True)
        ]
        rest = iter(lessons)
        return Prepared(documents, {part: [next(rest) for _ in those] for part, those in documents.items()}, device)

    def build(self, config: EDURerankConfig, prepared: Prepared) -> Training | None:
        """The generator and its lessons; None where plans are not learned."""
        if not config.plans.is_learned:
            return None
        lessons = prepared.lessons[TRAIN]
        with local_seed(config.seed):
            planner = Planner(lessons[0].vectors.shape[1], config.plans.longest_document, config.planner)
        steps = regular_steps(config.trainer.max_steps, config.evaluation.watch_every)
        rows: Any = Lessons(lessons)
        return Training(planner, PlanObjective(config.planner.salience_weight), rows, collate, {}, steps)

    def watch(self, config: EDURerankConfig, prepared: Prepared, model: Any) -> Scores:
        """How likely the oracle's plans of measured documents are."""
        scores, lessons = Scores(), prepared.lessons[TEST]
        scores.define("plan_nll", "mean NLL of a step of the oracle's plan, nats", False)
        with evaluation(model), torch.no_grad():
            for start in range(0, len(lessons), BATCH):
                part = lessons[start : start + BATCH]
                batch = collate(part)
                tensors = {name: each.to(prepared.device) for name, each in batch.items() if name != "ids"}
                for lesson, nll in zip(part, plan_losses(model, tensors)[0].tolist(), strict=True):
                    scores.add("plan_nll", lesson.id, lesson.id, nll)
        return scores

    def evaluate(self, config: EDURerankConfig, prepared: Prepared, model: Any, curve: dict[int, Scores]) -> Evaluation:
        """Candidates of measured documents, the one that the re-ranker takes, and what is measured of both."""
        if model is not None:
            model.to(prepared.device)
        ranked = _candidates(config, prepared, model, RANK) if config.reranker.name == "brio" else []
        choose = chooser(config.reranker, ranked, config.seed)
        scores = curve[max(curve)].without_empty_rows() if curve else Scores()
        results = list[Results]()
        for candidates in _candidates(config, prepared, model, TEST):
            results.append(measure(candidates, choose))
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
    lessons = prepared.lessons[part]
    sizes = np.array([len(lesson.plan) for lesson in prepared.lessons[TRAIN]])
    plans = write_plans(config.plans, model, lessons, sizes, config.seed, f"plans of {part} documents")
    return extract(prepared.documents[part], lessons, plans, config.plans.unit)


RECIPE = EDURerankRecipe
