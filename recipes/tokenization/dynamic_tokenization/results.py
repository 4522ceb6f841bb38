"""What a run says: task losses at each reduction, how short texts became, and files that people read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.storage.files import write_text
from recipes.tokenization.dynamic_tokenization.config import ABSOLUTE, ACCURACY, BITS, LOSS, RELATIVE
from recipes.tokenization.dynamic_tokenization.cuts import Cuts
from recipes.tokenization.dynamic_tokenization.method import absolute, relative
from recipes.tokenization.dynamic_tokenization.vocabulary import Tokens

CUTS, COSINE = "cuts.jsonl", "rows/cosine"
HINT = "A token weighs as many base tokens as it holds."
TITLES = {
    ACCURACY: ("share of texts in their class", True),
    LOSS: ("loss of the class, nats", False),
    BITS: ("bits per byte of what follows the prompt", False),
    ABSOLUTE: ("tokens saved, percent of the base tokens", True),
    RELATIVE: ("tokens saved, percent of the way to words", True),
    "tokens": ("tokens of a text", False),
    "merges": ("merges of a batch", False),
}


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes:
        names: Id and document of each text.
        counts: What each text counts in a mean of task losses.
        cuts: The texts at each reduction.
        values: Reduction -> metric -> value of each text.
        cosine: Of predicted and true rows of known tokens.
    """

    names: Sequence[tuple[str, str]]
    counts: Sequence[float]
    cuts: Cuts
    values: Mapping[float, Mapping[str, Sequence[float]]]
    cosine: Sequence[float]


def score(measured: Measured, scores: Scores) -> None:
    """Metrics of each text at each reduction; lengths are weighted so that means are those of all texts together."""
    cuts = measured.cuts
    for reduction, values in measured.values.items():
        label = f"{reduction:g}"
        for metric, column in values.items():
            _add(scores, metric, label, measured.names, column, measured.counts)
        lengths = [len(text) for text in cuts.levels[reduction]]
        _add_lengths(scores, label, measured, lengths)
        _add(scores, "tokens", label, measured.names, lengths, [1.0] * len(lengths))
        batches = [(f"batch {at}", f"batch {at}") for at in range(len(cuts.merges[reduction]))]
        _add(scores, "merges", label, batches, cuts.merges[reduction], [1.0] * len(batches))
    for count, lengths in cuts.counted.items():
        _add_lengths(scores, f"{count}m", measured, lengths)
    if measured.cosine:
        scores.define(COSINE, "cosine of predicted and true rows of known tokens", True)
        for at, value in enumerate(measured.cosine):
            scores.add(COSINE, f"token {at}", f"token {at}", value)


def _add_lengths(scores: Scores, label: str, measured: Measured, lengths: Sequence[int]) -> None:
    """abs and rel of each text; rel only of texts that have anything to merge."""
    plain, words = [len(text) for text in measured.cuts.plain], measured.cuts.words
    saved = [absolute(length, whole) for length, whole in zip(lengths, plain, strict=True)]
    _add(scores, ABSOLUTE, label, measured.names, saved, plain)
    way = [relative(*each) for each in zip(lengths, plain, words, strict=True)]
    _add(scores, RELATIVE, label, measured.names, way, [a - b for a, b in zip(plain, words, strict=True)])


def _add(
    scores: Scores,
    metric: str,
    label: str,
    names: Sequence[tuple[str, str]],
    values: Sequence[float],
    counts: Sequence[float],
) -> None:
    title, higher_is_better = TITLES[metric]
    where = f"after {label[:-1]} merges" if label.endswith("m") else f"{label}% of the way to words"
    scores.define(f"{metric}@{label}", f"{title}, {where}", higher_is_better)
    for (name, document), value, count in zip(names, values, counts, strict=True):
        if count > 0:
            scores.add(f"{metric}@{label}", name, document, value, count)


def plots(arm: str, metrics: Mapping[str, float], reductions: Sequence[float]) -> list[Plot]:
    """Task losses against the tokens that are saved."""
    drawn = []
    for metric in (ACCURACY, LOSS, BITS):
        labels = [f"{each:g}" for each in sorted(reductions) if f"{metric}@{each:g}" in metrics]
        points = [(metrics[f"{ABSOLUTE}@{label}"], metrics[f"{metric}@{label}"]) for label in labels]
        if points:
            title, name = TITLES[metric][0], metric.replace("_", "-")
            drawn.append(Plot(name, f"{title}, by tokens saved", "tokens saved, percent", title, {arm: points}))
    return drawn


def heatmap(measured: Measured, tokens: Tokens, shown: int) -> dict[str, Any]:
    """Content of `heatmap.json`: the first texts at the largest reduction, each token shaded by what it holds."""
    largest = measured.cuts.levels[max(measured.cuts.levels)]
    examples = []
    for (name, _), text in list(zip(measured.names, largest, strict=True))[:shown]:
        sizes = [len(tokens.pieces(token)) for token in text]
        kinds = ["merged" if not tokens.is_base(token) else None for token in text]
        columns = zip([tokens.text(token) for token in text], sizes, kinds, strict=True)
        cells = [{"text": string, "weight": float(size), "kind": kind, "nll": None} for string, size, kind in columns]
        examples.append({"id": name, "image": "", "tokens": cells})
    return {"examples": examples, "hint": HINT}


def write_cuts(path: Path, measured: Measured, tokens: Tokens) -> None:
    """Each text as it is cut at each reduction, and what it costs there."""
    lines = []
    for at, (name, _) in enumerate(measured.names):
        line: dict[str, Any] = {"id": name, "base": [tokens.text(token) for token in measured.cuts.plain[at]]}
        for reduction, texts in measured.cuts.levels.items():
            values = {metric: column[at] for metric, column in measured.values[reduction].items()}
            cut = [tokens.text(token) for token in texts[at]]
            line[f"{reduction:g}"] = {"tokens": len(cut), **values, "cut": cut}
        lines.append(json.dumps(line, ensure_ascii=False))
    write_text(path, "".join(f"{line}\n" for line in lines))
