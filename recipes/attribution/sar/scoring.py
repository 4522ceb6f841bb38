"""Uncertainty of questions by any of the methods, from answers, weights of tokens and likeness of answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recipes.attribution.sar import method
from recipes.attribution.sar.answers import Answer
from recipes.attribution.sar.config import COMPARED, EMBED, LENGTH, LNPE, LS, PE, SE, SENTENCE, UncertaintyConfig
from recipes.attribution.sar.questions import plain
from recipes.core.errors import UserError


@dataclass(frozen=True)
class Evidence:
    """What is known of the sampled answers to a question.

    Attributes:
        answers: The answers.
        weights: Of the tokens of each, summing to 1; empty for methods that weigh none.
        likeness: [answers, answers] in [0, 1]; None for methods that compare none.
        vectors: [answers, d] of length 1, of the answers alone; None but for clusters of vectors.
    """

    answers: Sequence[Answer]
    weights: Sequence[np.ndarray] = ()
    likeness: np.ndarray | None = None
    vectors: np.ndarray | None = None

    def first(self, count: int | None) -> "Evidence":
        """What is known of the first answers alone."""
        like = None if self.likeness is None else self.likeness[:count, :count]
        vectors = None if self.vectors is None else self.vectors[:count]
        return Evidence(self.answers[:count], self.weights[:count], like, vectors)


def uncertainty(config: UncertaintyConfig, evidence: Evidence) -> float:
    """How unsure the model is of its answer; larger is less sure."""
    known = evidence.first(config.samples)
    nlls = [answer.nlls for answer in known.answers]
    if config.method == LENGTH:
        return float(np.mean([len(row) for row in nlls]))
    if config.method == LS:
        return method.lexical(rouge([answer.text for answer in known.answers]))
    if config.method == SE:
        return method.semantic_entropy(method.means(nlls), clusters(config, known), config.average)
    if config.method in (PE, SENTENCE):
        energies = method.sums(nlls)
    else:
        energies = method.means(nlls) if config.method == LNPE else method.token_sar(nlls, known.weights)
    if config.method in COMPARED:
        assert known.likeness is not None
        energies = method.shifted(energies, known.likeness, config.t)
    return float(energies.mean())


def uncertainties(config: UncertaintyConfig, evidence: Sequence[Evidence], ids: Sequence[str]) -> np.ndarray:
    """float64 [questions]. Raises UserError that names the question whose uncertainty is no number."""
    values = np.array([uncertainty(config, each) for each in evidence])
    if not np.isfinite(values).all():
        name = ids[int(np.flatnonzero(~np.isfinite(values))[0])]
        hint = "look at the model and at relevance.path: one of them gives numbers that are none"
        raise UserError(f"the uncertainty ({config.method}) of a question is no number", f"question {name}", hint)
    return values


def clusters(config: UncertaintyConfig, evidence: Evidence) -> np.ndarray:
    """int [answers]: which answers mean the same, by their words or by the cosine of their vectors."""
    texts = [plain(answer.text) for answer in evidence.answers]
    if config.cluster != EMBED:
        return method.meanings(len(texts), lambda one, other: texts[one] == texts[other])
    assert evidence.vectors is not None
    cosines = evidence.vectors @ evidence.vectors.T
    same = [[texts[one] == text or bool(cosine >= config.alike) for text, cosine in zip(texts, row, strict=True)]
            for one, row in enumerate(cosines)]  # fmt: skip
    return method.meanings(len(texts), lambda one, other: same[one][other])


def rouge(texts: Sequence[str]) -> np.ndarray:
    """float [texts, texts] Rouge-L F of each two; equal texts have 1, also where they have no word that it counts."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    table = np.eye(len(texts))
    for one in range(len(texts)):
        for other in range(one):
            same = texts[one] == texts[other]
            value = 1.0 if same else scorer.score(texts[one], texts[other])["rougeL"].fmeasure
            table[one, other] = table[other, one] = value
    return table
