"""What a run says: bits of texts through each new tokenizer, rows that were held out, and files that people read."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recipes.core.data.text.text_ids import token_texts
from recipes.core.data.text.windows import Window
from recipes.core.evaluation.heatmaps import heatmap_example
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.scoring.bits import TextBits
from recipes.core.storage.files import write_text
from recipes.tokenization.old_rows import OldRows
from recipes.tokenization.zett.config import BITS, COSINE, TOKENS
from recipes.tokenization.zett.method import cosines
from recipes.tokenization.zett.targets import Target

TITLES = {
    BITS: ("bits per byte of held-out text", False),
    TOKENS: ("tokens per byte", False),
    "exact": ("texts that the tokenizer gives back to the byte", True),
}
OF_VOCABULARY = {
    "shared": ("share of its tokens that the old vocabulary has", True),
    "truncated": ("tokens of more pieces than are read", False),
    "unspelled": ("tokens with bytes that no old token spells", False),
    "fallback": ("tokens that got the fallback row", False),
}
CUTS = "cuts.jsonl"
HINT = "A token weighs as many old tokens as spell it: 1 where the old vocabulary has it."
Read = Mapping[str, Sequence[TextBits]]  # target -> what each text costs


def score_texts(read: Read, windows: Sequence[Window], scores: Scores, prefix: str = "") -> None:
    """Metrics of each text through each target, and of each target alone; weighted by bytes."""
    names = TITLES if not prefix else {BITS: TITLES[BITS]}
    for name, (title, higher_is_better) in names.items():
        of = " of the fine-tuned variant" if prefix else ""
        scores.define(prefix + name, title + of, higher_is_better)
        if name != "exact":
            for target in read:
                scores.define(f"{prefix}{name}/{target}", f"{title}{of}, {target}", higher_is_better)
    for target, texts in read.items():
        for window, one in zip(windows, texts, strict=True):
            values = {BITS: one.per_byte, TOKENS: len(one.ids) / one.size}
            example = f"{target}: {window.id}"
            for name in names.keys() & values.keys():
                scores.add(prefix + name, example, window.document, values[name], one.size)
                scores.add(f"{prefix}{name}/{target}", window.id, window.document, values[name], one.size)
            if not prefix:
                scores.add("exact", example, window.document, float(one.exact))


def score_vocabulary(target: Target, source: OldRows, longest: int, missing: int, seed: int, scores: Scores) -> None:
    """Metrics of a new vocabulary, one value a run."""
    mapped, pieces = target.both.mapped, target.pieces(source)
    values = {
        "shared": len(mapped.shared) / max(len(target.tokens), 1),
        "truncated": sum(len(row) > longest for row in pieces),
        "unspelled": len(target.both.unspelled),
        "fallback": missing,
    }
    for name, value in values.items():
        title, higher_is_better = OF_VOCABULARY[name]
        metric, run = f"vocabulary/{name}/{target.name}", f"{target.name} {seed}"
        scores.define(metric, f"{title}, {target.name}", higher_is_better)
        scores.add(metric, run, run, value)


def score_held_out(source: OldRows, tokens: Sequence[int], rows: Tensor, scores: Scores) -> None:
    """How near predicted rows [n, width] of old tokens are to what they are."""
    true = source.rows[torch.tensor(tokens, device=source.rows.device)]
    scores.define(COSINE, "cosine of predicted rows of held-out old tokens and what they are", True)
    scores.define("held_out/distance", "squared distance of them over the mean squared length", False)
    distances = (rows - true).square().sum(1) / true.square().sum(1).mean()
    for token, cosine, distance in zip(tokens, cosines(rows, true).tolist(), distances.tolist(), strict=True):
        scores.add(COSINE, f"token {token}", f"token {token}", cosine)
        scores.add("held_out/distance", f"token {token}", f"token {token}", distance)


def heatmap(target: Target, source: OldRows, texts: Sequence[TextBits], windows: Sequence[Window], shown: int) -> Any:
    """Content of `heatmap.json`: the first texts in tokens of a target, shaded by how many old ones spell each."""
    names, table = token_texts(target.tokenizer), target.both.new.table
    examples = [
        heatmap_example(
            window.id,
            [names[token] for token in one.ids],
            [len(source.spell(table[token])) if table[token] else 1 for token in one.ids],
            one.bits * torch.log(torch.tensor(2.0)).item(),
        )
        for window, one in list(zip(windows, texts, strict=True))[:shown]
    ]
    return {"examples": examples, "hint": HINT}


def curve_plots(curve: Mapping[str, Sequence[tuple[float, float]]], means: Mapping[str, float]) -> list[Plot]:
    """Bits per byte of a few texts as training goes on, beside those of the mean of the pieces.

    Args:
        curve: Target -> (step, bits per byte).
        means: Target -> bits per byte of the mean of the pieces.
    """
    series = {name: list(points) for name, points in curve.items() if points}
    for name, points in list(series.items()):
        series[f"{name}, mean of pieces"] = [(points[0][0], means[name]), (points[-1][0], means[name])]
    title = "bits per byte of a few held-out texts during training"
    return [Plot("curve", title, "steps", BITS, series)] if series else []


def write_cuts(path: Path, read: Read, windows: Sequence[Window], tokenizers: Mapping[str, Any]) -> None:
    """Each text as each tokenizer cuts it, and what it costs."""
    names = {target: token_texts(tokenizer) for target, tokenizer in tokenizers.items()}
    rows = [
        {
            "id": window.id,
            "target": target,
            BITS: one.per_byte,
            "tokens": [names[target][token] for token in one.ids],
        }
        for target, texts in read.items()
        for window, one in zip(windows, texts, strict=True)
    ]
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
