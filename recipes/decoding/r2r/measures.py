"""What is measured of texts that two models wrote: by question, over usages, token by token."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.data.tasks.prompts import Prompt
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.storage.files import write_text
from recipes.decoding.exactness import GreedyText, matches
from recipes.decoding.generations import CHOSEN, Generation, Step, heatmap
from recipes.decoding.r2r.gates import Score, above, never
from recipes.decoding.r2r.labels import Asked, Checker, Labels
from recipes.decoding.r2r.method import (
    DIVERGENT,
    IDENTICAL,
    additive_parameters,
    curve_weights,
    mixture_parameters,
    quantile_threshold,
    usage_weights,
)
from recipes.decoding.r2r.routing import Pair, Routed, route

SHARES = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75)  # of scores, whose quantiles are the curve's points
ROUTED = "routed"
WEIGHTS = {CHOSEN: 0.25, ROUTED: 4.0}
HINT = "Tokens that the large model wrote weigh 4, those of the small one 1/4; NLL is the small model's."
MILLION = 1e6
TITLES = {
    "accuracy": ("answers that are right", True),
    "accuracy/large": ("answers of the large model alone that are right", True),
    "usage": ("share of the tokens that the large model wrote", False),
    "parameters": ("parameters per token, each token by one model (millions)", False),
    "parameters_additive": ("parameters per token, small model and router on each (millions)", False),
    "cost": ("parameters of all tokens of an answer, each by one model (millions)", False),
    "length": ("tokens of an answer", False),
    "same_answer": ("answers that come to the same as the large model's", True),
    "matches_large": ("answers that are the large model's, token for token", True),
    "share/different": ("share of the large model's tokens that the small one would not write", False),
    "share/divergent": ("share of the large model's tokens whose replacement changes the answer", False),
}


@dataclass(frozen=True)
class Sizes:
    """Parameters of the small model, of the large one and of the router."""

    small: int
    large: int
    router: int


def score(asked: Asked, texts: Sequence[Routed], labels: Labels, checker: Checker, sizes: Sizes) -> Scores:
    """Metrics of texts, by question.

    Args:
        asked: The questions.
        texts: What was written behind each.
        labels: Of the large model's answers to them.
        checker: What counts of an answer.
        sizes: For the cost.
    """
    scores = Scores()
    for name, (title, higher_is_better) in TITLES.items():
        scores.define(name, title, higher_is_better)
    starts = np.cumsum([0, *(len(one.ids) for one in asked.answers)])
    for number, (question, right, large, text) in enumerate(
        zip(asked.ids, asked.right, asked.answers, texts, strict=True)
    ):
        tokens, classes = len(text.ids), labels.classes[starts[number] : starts[number + 1]]
        mixture = mixture_parameters(sizes.small, sizes.large, text.usage) / MILLION
        additive = additive_parameters(sizes.small, sizes.router, sizes.large, text.usage) / MILLION
        rows = {
            "accuracy": (checker.is_right(text.ids, right), 1),
            "accuracy/large": (checker.is_right(large.ids, right), 1),
            "usage": (text.usage, tokens),
            "parameters": (mixture, tokens),
            "parameters_additive": (additive, tokens),
            "cost": (mixture * tokens, 1),
            "length": (tokens, 1),
            "same_answer": (checker.outcome(text.ids, right) == checker.outcome(large.ids, right), 1),
            "matches_large": (matches(text.ids, GreedyText(large.ids, large.gaps)), 1),
            "share/different": ((classes != IDENTICAL).mean(), len(classes)),
            "share/divergent": ((classes == DIVERGENT).mean(), len(classes)),
        }
        for name, (value, count) in rows.items():
            scores.add(name, question, question, float(value), count)
    return scores


@dataclass(frozen=True)
class Curve:
    """Accuracy against usage.

    Attributes:
        usages: [points] share of the tokens that the large model wrote, 0 and 1 among them.
        right: bool [points, questions] which answers were right.
    """

    usages: np.ndarray
    right: np.ndarray

    def add(self, scores: Scores, ids: Sequence[str], usages: Sequence[float]) -> None:
        """Add accuracy at given usages and the area under the curve, by question.

        Args:
            scores: Where to.
            ids: What the questions are called.
            usages: Where to read accuracy off, linear between points.
        """
        weights = {f"accuracy@{usage:g}": usage_weights(self.usages, usage) for usage in usages}
        for usage, name in zip(usages, weights, strict=True):
            scores.define(name, f"answers that are right where the large model writes {usage:.0%} of the tokens", True)
        weights["auc"] = curve_weights(self.usages)
        scores.define("auc", "area under the curve of accuracy against usage", True)
        for name, weight in weights.items():
            for question, value in zip(ids, weight @ self.right, strict=True):
                scores.add(name, question, question, float(value))


def curve_of(pair: Pair, asked: Asked, checker: Checker, live: Score, spread: np.ndarray) -> Curve:
    """Accuracy at thresholds that are quantiles of scores on other questions, between the small and the large model.

    Where the large model writes everything, the answers are those that it has given.

    Args:
        pair: Both models.
        asked: The questions.
        checker: What counts of an answer.
        live: The scores.
        spread: Scores of texts that the small model wrote alone.
    """
    thresholds = sorted({quantile_threshold(spread, share) for share in SHARES}, reverse=True)
    usages, right = list[float](), list[list[bool]]()
    for decide in (never, *(above(live, threshold) for threshold in thresholds)):
        texts = route(pair, asked.prompts, decide)
        usages.append(total_usage(texts))
        right.append([checker.is_right(one.ids, answer) for one, answer in zip(texts, asked.right, strict=True)])
    large = [checker.is_right(one.ids, answer) for one, answer in zip(asked.answers, asked.right, strict=True)]
    return Curve(np.array([*usages, 1.0]), np.array([*right, large]))


def total_usage(texts: Sequence[Routed]) -> float:
    """Share of the tokens of texts that the large model wrote."""
    return sum(sum(one.routed) for one in texts) / sum(len(one.ids) for one in texts)


def plots_of(label: str, texts: Sequence[Routed], curve: Curve | None) -> list[Plot]:
    """Where in a text the large model writes; accuracy against usage."""
    places = np.concatenate([(np.arange(len(one.ids)) + 0.5) / len(one.ids) for one in texts])
    routed = np.concatenate([one.routed for one in texts])
    bins = np.minimum((places * 10).astype(int), 9)
    line = [((number + 0.5) / 10, float(routed[bins == number].mean())) for number in np.unique(bins)]
    title = "Share of the tokens that the large model wrote, by their place in the answer"
    plots = [Plot("places", title, "place in the answer, 0 to 1", "share of the tokens", {label: line})]
    if curve is not None:
        points = sorted(zip(curve.usages.tolist(), curve.right.mean(1).tolist(), strict=True))
        title = "Accuracy against the share of the tokens that the large model wrote"
        plots.append(Plot("usage", title, "share of the tokens", "accuracy", {label: points}))
    return plots


def heatmap_of(asked: Asked, texts: Sequence[Routed], tokenizer: Any) -> dict[str, Any]:
    """Content of `heatmap.json`: tokens that the large model wrote stand out."""
    shown = []
    for name, text, prompt, one in zip(asked.ids, asked.texts, asked.prompts, texts, strict=False):
        columns = zip(one.ids, one.routed, one.nlls, strict=True)
        steps = tuple(Step((token,), (ROUTED if routed else CHOSEN,), (nll,), 1) for token, routed, nll in columns)
        shown.append(Generation(Prompt(name, text, np.array(prompt, np.int32)), steps, 0.0))
    return heatmap(shown, WEIGHTS, tokenizer, HINT)


def write_texts(path: Path, asked: Asked, texts: Sequence[Routed], checker: Checker) -> None:
    """One JSON object a question: `id`, `prompt`, `text`, `ids`, `routed` places, `usage`, `right`.

    Args:
        path: The file.
        asked: The questions.
        texts: What was written behind each.
        checker: What counts of an answer.
    """
    lines = []
    for name, text, right, one in zip(asked.ids, asked.texts, asked.right, texts, strict=True):
        line = {
            "id": name,
            "prompt": text,
            "text": checker.tokenizer.decode(one.ids, skip_special_tokens=True),
            "ids": one.ids,
            "routed": [at for at, routed in enumerate(one.routed) if routed],
            "usage": round(one.usage, 4),
            "right": checker.is_right(one.ids, right),
        }
        lines.append(json.dumps(line, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")
