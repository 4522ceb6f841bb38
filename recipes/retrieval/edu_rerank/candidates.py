"""The candidates of each document: its plans, and the text that is written for each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from recipes.core.models.dropout import evaluation
from recipes.core.runs.progress import progress
from recipes.core.search.collection import id_seed
from recipes.retrieval.edu_rerank.config import PlansConfig
from recipes.retrieval.edu_rerank.documents import Document
from recipes.retrieval.edu_rerank.method import length_normalised
from recipes.retrieval.edu_rerank.search import (
    Limits,
    NextScores,
    Plan,
    beam_search,
    diverse_beams,
    random_plans,
    sample_plans,
)
from recipes.retrieval.edu_rerank.training import Lesson


@dataclass(frozen=True)
class Candidates:
    """Of one document.

    Attributes:
        document: It.
        edus: The plan of each as EDUs, in the order of the generator.
        texts: What is written for each.
        log_probs: [candidates] of the plans, or of the texts where a language model writes them.
        steps: [candidates] that these are sums over.
        source: [d] vector of the document.
        vectors: [candidates, d] of the texts.
    """

    document: Document
    edus: Sequence[tuple[int, ...]]
    texts: Sequence[str]
    log_probs: Sequence[float]
    steps: Sequence[int]
    source: np.ndarray
    vectors: np.ndarray

    def numbers(self, alpha: float) -> np.ndarray:
        """[candidates, 4] what a scorer sees beside vectors: likelihood, units, words, where the plan begins."""
        units, likely = len(self.document.units.edus), self.log_likelihoods(alpha)
        words = [np.log1p(len(text.split())) for text in self.texts]
        starts = [(edus[0] if edus else 0) / units for edus in self.edus]
        return np.stack([likely, [len(edus) for edus in self.edus], words, starts], 1)

    def log_likelihoods(self, alpha: float) -> np.ndarray:
        """[candidates] sum log p / steps^alpha of each; minus infinity of an empty text."""
        scores = [length_normalised(*pair, alpha) for pair in zip(self.log_probs, self.steps, strict=True)]
        return np.array([score if text else -np.inf for score, text in zip(scores, self.texts, strict=True)])


def write_plans(
    config: PlansConfig, planner: Any, lessons: Sequence[Lesson], sizes: np.ndarray, seed: int, what: str
) -> list[list[Plan]]:
    """Plans of each document, at least one.

    Args:
        config: Which.
        planner: The trained generator; None where none writes.
        lessons: The documents.
        sizes: Lengths of the oracle's plans of training documents, which random plans are drawn with.
        seed: Decides what is drawn, with the document's id.
        what: What is being done, for people.
    """
    limits, plans = Limits(config.shortest, config.longest), list[list[Plan]]()
    with progress(what, len(lessons)) as show:
        for lesson in lessons:
            random = np.random.default_rng((seed, id_seed(lesson.id)))
            if config.name == "none":
                plans.append([Plan(())] * config.count)
            elif config.name == "oracle":
                plans.append([Plan(lesson.plan)])
            elif config.name == "random":
                plans.append(random_plans(len(lesson.vectors), sizes, config.count, random))
            else:
                plans.append(_generate(config, planner, lesson, limits, random))
            show(len(plans))
    return plans


def _generate(
    config: PlansConfig, planner: Any, lesson: Lesson, limits: Limits, random: np.random.Generator
) -> list[Plan]:
    with evaluation(planner), torch.no_grad():
        scores = next_scores(planner, lesson)
        if config.name == "sampling":
            return sample_plans(scores, config.count, limits, config.top_p, random)
        if config.name == "diverse_beam":
            return diverse_beams(scores, config.count, limits, config.penalty)
        return beam_search(scores, config.count, limits, config.alpha)


def next_scores(planner: Any, lesson: Lesson) -> NextScores:
    """What a generator says of the next unit, for plans of one document, which is encoded once."""
    device = next(planner.parameters()).device
    lengths = torch.tensor([len(lesson.vectors)], device=device)
    states, known = planner.encode(torch.from_numpy(np.array(lesson.vectors, np.float32))[None].to(device), lengths)

    def scores(plans: Tensor) -> Tensor:
        rows = len(plans)
        wide = [part.expand(rows, *part.shape[1:]) for part in (states, known, lengths)]
        result = planner.score(wide[0], wide[1], plans.to(device), wide[2])[:, -1]
        return log_softmax(result.float(), -1).cpu()

    return scores


def extract(
    documents: Sequence[Document], lessons: Sequence[Lesson], plans: Sequence[Sequence[Plan]], unit: str
) -> list[Candidates]:
    """Candidates whose text is that of their plan; a vector is the mean of its units', by words."""
    sets = []
    for document, lesson, those in zip(documents, lessons, plans, strict=True):
        units, words = document.units.texts(unit), _words(document.units.texts(unit))
        texts = [" ".join(units[number] for number in plan.units) for plan in those]
        vectors = np.stack([_mean(lesson.vectors, words, plan.units) for plan in those])
        edus = [document.units.as_edus(plan.units, unit) for plan in those]
        source = _mean(lesson.vectors, words, range(len(units)))
        log_probs, steps = [plan.log_prob for plan in those], [plan.steps for plan in those]
        sets.append(Candidates(document, edus, texts, log_probs, steps, source, vectors))
    return sets


def written(
    documents: Sequence[Document],
    lessons: Sequence[Lesson],
    plans: Sequence[Sequence[Plan]],
    texts: Sequence[tuple[str, float, int]],
    vectors: np.ndarray,
) -> list[Candidates]:
    """Candidates that a language model wrote.

    Args:
        documents: Of what.
        lessons: The same as vectors.
        plans: Of each, one for each text.
        texts: One after the other, each with log p and tokens.
        vectors: [texts, d]
    """
    sets, start = list[Candidates](), 0
    for document, lesson, those in zip(documents, lessons, plans, strict=True):
        rows = texts[start : start + len(those)]
        source = _mean(lesson.vectors, _words(document.units.edus), range(len(lesson.vectors)))
        columns = ([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])
        sets.append(
            Candidates(document, [plan.units for plan in those], *columns, source, vectors[start : start + len(those)])
        )
        start += len(those)
    return sets


def _words(texts: Sequence[str]) -> np.ndarray:
    return np.array([len(text.split()) for text in texts], np.float32)


def _mean(vectors: np.ndarray, words: np.ndarray, rows: Sequence[int]) -> np.ndarray:
    taken = list(rows)
    if not taken:
        return np.zeros(vectors.shape[1], np.float32)
    weights = words[taken] / words[taken].sum()
    return np.asarray(weights @ np.asarray(vectors)[taken], np.float32)
