"""Data importance as an experiment: weights of sources learnt from some questions, used to answer others."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recipes.core.data.tasks.labelled import load_labelled
from recipes.core.errors import UserError
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.messages import note
from recipes.core.recipe import Evaluation, Untrained
from recipes.core.storage.files import write_text
from recipes.retrieval.rag_importance.config import LEARNT, METRIC, RAGImportanceConfig
from recipes.retrieval.rag_importance.corpus import Corpus, Lists, build_corpus, divide, retrieve
from recipes.retrieval.rag_importance.method import (
    Floats,
    ascend,
    draws_needed,
    gradient,
    gradient_by_counts,
    sampled_gradient,
    used,
)
from recipes.retrieval.rag_importance.values import (
    draw_sources,
    leave_one_out,
    nearest_shapley,
    removals,
    sampled_shapley,
    vote,
)

FILE = "sources.jsonl"


@dataclass(frozen=True)
class Prepared:
    """What a run needs.

    Attributes:
        corpus: What is retrieved from.
        weights: Questions that weights are learnt from, with what is retrieved for them.
        threshold: Those that the share to remove is chosen by.
        test: Those that are tested on.
    """

    corpus: Corpus
    weights: Lists
    threshold: Lists
    test: Lists


@dataclass(frozen=True)
class Choice:
    """What weights are and which sources answer.

    Attributes:
        values: [sources] what each is worth.
        keeps: bool [draws, sources] which are kept; one draw unless sources are drawn.
        course: U~ before each step of ascent; empty for other methods.
        curve: (share removed, right votes of the threshold's questions) of each share that was tried.
    """

    values: Floats
    keeps: NDArray[np.bool_]
    course: Sequence[float] = ()
    curve: Sequence[tuple[float, float]] = ()


class RAGImportanceRecipe(Untrained):
    """Weighs sources; no model is trained."""

    def prepare(self, config: RAGImportanceConfig, device: str) -> Prepared:
        """Corpus, questions and what is retrieved. Raises UserError."""
        data, asked = load_labelled(config.data), config.questions
        texts, *questions = divide(data, asked.weights, asked.threshold, asked.test, config.seed)
        labels = [data.numbers(part) for part in (texts, *questions)]
        corpus = build_corpus(texts, labels[0], len(data.classes), config.corpus, config.corruption, config.seed)
        lists = retrieve(corpus, questions, labels[1:], config.retrieval)
        if not lists[0].there.any():
            raise UserError("no question shares a word with any passage", data.name, "give texts that are alike")
        return Prepared(corpus, *lists)

    def evaluate(
        self, config: RAGImportanceConfig, prepared: Prepared, model: object, curve: dict[int, Scores]
    ) -> Evaluation:
        """Weigh sources, choose what is kept, answer the questions of the test."""
        choice = _choose(config, prepared)
        scores = _scores(config, prepared, choice)
        files = {FILE: partial(write_sources, prepared=prepared, choice=choice)}
        return Evaluation(scores.overall(), scores, plots=_plots(prepared, choice), files=files)


def write_sources(path: Path, prepared: Prepared, choice: Choice) -> None:
    """One JSON object a source, the lowest weight first: weight, whether it is kept, passages, items, those spoiled."""
    corpus, retrieved, passages = prepared.corpus, _counts(prepared), _passages(prepared.corpus)
    spoiled = np.bincount(corpus.source, corpus.spoiled, minlength=len(corpus.names)).astype(int)
    lines = []
    for number in np.argsort(choice.values, kind="stable"):
        row = {
            "source": corpus.names[number],
            "weight": round(float(choice.values[number]), 6),
            "kept": round(float(choice.keeps[:, number].mean()), 4),
            "passages": int(passages[number]),
            "retrieved": int(retrieved[number]),
            "spoiled": int(spoiled[number]),
        }
        lines.append(json.dumps(row, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")


def _choose(config: RAGImportanceConfig, prepared: Prepared) -> Choice:
    """Weights of sources, and which are kept."""
    rng, use = np.random.default_rng([config.seed, 2]), config.use
    values, course = _values(config, prepared, rng)
    counts, everyone = _counts(prepared), np.ones((1, len(values)), bool)
    if use.name == "none":
        return Choice(values, everyone, course)
    if use.name == "reweight":
        keeps = draw_sources(values, use.draws, rng)
        keeps[:, counts == 0] = use.unseen == "keep"
        return Choice(values, keeps, course)
    asked = prepared.threshold if use.threshold == "held_out" else prepared.weights
    shares = tuple(sorted(use.shares))
    tried = removals(values, counts, shares)
    right = [float(_right(asked, keep, config.retrieval.used).mean()) for keep in tried]
    best = max(range(len(shares)), key=lambda number: (right[number], number))
    keep = tried[best]
    if use.name == "random":
        gone = counts[~keep].sum() / max(counts.sum(), 1)
        (keep,) = removals(rng.permutation(len(values)).astype(float), counts, (float(gone),))
    keep = keep & ((counts > 0) | (use.unseen == "keep"))
    return Choice(values, keep[None], course, list(zip(shares, right, strict=True)))


def _values(config: RAGImportanceConfig, prepared: Prepared, rng: np.random.Generator) -> tuple[Floats, list[float]]:
    """[sources] what each is worth, and the course of the ascent."""
    options, lists, k = config.weights, prepared.weights, config.retrieval.used
    if options.method == LEARNT:
        slope = gradient_by_counts if options.form == "b" else gradient
        if options.approximation == "truncate":
            slope = partial(gradient, epsilon=options.epsilon)
        elif options.approximation == "sample":
            slope = partial(sampled_gradient, draws=draws_needed(options.epsilon, options.delta), rng=rng)
        learnt = ascend(
            lists.utilities, lists.sources, k, slope,
            steps=options.steps, rate=options.rate, grouping=options.grouping,
        )  # fmt: skip
        return learnt.weights, learnt.utilities.tolist()
    if options.method == "loo":
        return leave_one_out(lists.answers, lists.right, lists.sources, k), []
    if options.method == "count":
        return _counts(prepared).astype(np.float64), []
    if options.method == "truth":
        if not prepared.corpus.spoiled.any():
            note("nothing was spoiled on purpose: weights.method=truth holds all sources for right")
        return prepared.corpus.truth, []
    if options.method == "shapley_knn":
        return lists.sources.mean(nearest_shapley(lists.utilities, lists.lengths, k)), []
    return lists.sources.mean(sampled_shapley(lists.utilities, lists.lengths, k, options.draws, rng)), []


def _counts(prepared: Prepared) -> NDArray[np.int64]:
    """[sources] items retrieved of each when weights are learnt."""
    sources = prepared.weights.sources
    return np.bincount(sources.of_item[prepared.weights.there], minlength=sources.count)


def _passages(corpus: Corpus) -> NDArray[np.int64]:
    return np.bincount(corpus.source, minlength=len(corpus.names))


def _of_sources(lists: Lists, keep: np.ndarray) -> NDArray[np.bool_]:
    """[N, M] items whose source is kept."""
    return lists.there & keep[lists.sources.of_item]


def _right(lists: Lists, keep: np.ndarray, k: int) -> NDArray[np.bool_]:
    """[N] whether the vote of the items that are kept is right."""
    return vote(lists.answers, _of_sources(lists, keep), k) == lists.right


def _scores(config: RAGImportanceConfig, prepared: Prepared, choice: Choice) -> Scores:
    """Everything that is measured: of questions, and of passages that are removed."""
    scores, k, corpus = Scores(), config.retrieval.used, prepared.corpus
    right = np.mean([_right(prepared.test, keep, k) for keep in choice.keeps], 0)
    worth = np.mean(
        [(prepared.test.utilities * used(_of_sources(prepared.test, keep), k)).sum(1) for keep in choice.keeps], 0
    )
    stay = np.mean([_of_sources(prepared.test, keep).sum(1) for keep in choice.keeps], 0)
    removed = 1 - stay / np.maximum(prepared.test.lengths, 1)
    of_test = {
        METRIC: ("share of questions that are answered right", True, right),
        "utility": ("right passages among the first K, over K", True, worth / k),
        "removed": ("share of the retrieved items that are removed", False, removed),
    }
    for name, (title, higher, values) in of_test.items():
        scores.define(name, title, higher)
        for id, value in zip(prepared.test.ids, values, strict=True):
            scores.add(name, id, id, value)
    if choice.curve:
        scores.define("accuracy/threshold", "the same of the questions that the share is chosen by", True)
        asked = prepared.threshold if config.use.threshold == "held_out" else prepared.weights
        for id, value in zip(asked.ids, _right(asked, choice.keeps[0], k), strict=True):
            scores.add("accuracy/threshold", id, id, value)
        gone = ~choice.keeps[0][corpus.source]
        if corpus.spoiled.any():
            _add_share(scores, "precision", "share of the removed passages that were spoiled", corpus.spoiled, gone)
        _add_share(scores, "recall", "share of the spoiled passages that are removed", gone, corpus.spoiled)
    return scores


def _add_share(scores: Scores, name: str, title: str, values: np.ndarray, among: np.ndarray) -> None:
    """A share of passages; none if there are no such passages."""
    if among.any():
        scores.define(name, title, True)
        for number in np.flatnonzero(among):
            scores.add(name, f"passage-{number}", f"passage-{number}", float(values[number]))


def _plots(prepared: Prepared, choice: Choice) -> list[Plot]:
    truth = prepared.corpus.truth
    points = [(float(x), float(y)) for x, y in zip(truth, choice.values, strict=True)]
    plots = [
        Plot("weights", "Weights of sources beside what they are worth", "share of passages not spoiled", "weight",
             {"sources": points}, kind="scatter"),
    ]  # fmt: skip
    if len(choice.course):
        course = list(enumerate(map(float, choice.course)))
        plots.append(Plot("ascent", "Expected utility", "step", "mean of U~", {"questions for weights": course}))
    if choice.curve:
        title, x_label = "Right answers by how much is removed", "share of retrieved items to remove"
        plots.append(Plot("threshold", title, x_label, "share answered right", {"questions": choice.curve}))
    return plots


RECIPE = RAGImportanceRecipe
