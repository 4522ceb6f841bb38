"""Pictures: which patches are left of an image, which words of a text, and scores against what they cost."""

from collections.abc import Sequence
from math import isqrt
from statistics import fmean
from typing import Any

import numpy as np
from torch import Tensor

from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.strips import Shot, Strip, data_uri
from recipes.pruning.adapters import Cells, View
from recipes.pruning.token_pruning.evaluation import budget_words
from recipes.pruning.token_pruning.measuring import FULL, Measured, Seen, Tally
from recipes.pruning.token_pruning.subjects import Batch

PAPER = np.array([236, 232, 222], np.float32)  # what pruned patches fade to
LEFT = 0.22  # of a pruned patch that is still seen
WIDEST = 1000  # pixels of the pictures of one sample, about
GAP = 2  # pixels between the pictures of one sample
FADED = "Faded patches were pruned, the others go on; tokens that merging made have no place and are counted below."

Image = np.ndarray[Any, np.dtype[np.uint8]]


def strips(measured: Measured, budgets: Sequence[tuple[str, float | int]], chosen: float, number: int) -> list[Strip]:
    """The first questions unpruned and at every budget.

    Args:
        measured: A run.
        budgets: (label, share or number of tokens).
        chosen: Share at which arms are put below each other; the nearest budget stands in.
        number: Questions to show.
    """
    shown = [(name, batch, index) for batch in measured.shown for index, name in enumerate(batch.ids)][:number]
    images = {name: _views(batch, batch.rows[index], measured.full.seen[name]) for name, batch, index in shown}
    if not shown or not all(images.values()):
        return []
    first = next(iter(measured.full.seen.values()))
    nearest = min(budgets, key=lambda each: abs(_share(each[1], first.patches) - chosen), default=(FULL, 1.0))[0]
    strips = []
    for tally in measured.every:
        shots = [
            Shot(name, batch.questions[index], _note(seen), data_uri(_sample_picture(images[name], seen)))
            for name, batch, index in shown
            for seen in [tally.seen[name]]
        ]
        label = _label(tally)
        strips.append(Strip(f"kept-{tally.label}", label, shots, tally.label == nearest, FADED))
    return strips


def heatmap(
    measured: Measured, budgets: Sequence[tuple[str, float | int]], chosen: float, number: int
) -> dict[str, Any] | None:
    """Content of `heatmap.json`: the first texts, words that are left weighing 1 and others 0. None for images.

    Args:
        measured: A run.
        budgets: (label, share or number of tokens).
        chosen: Share that is shown; the nearest budget stands in.
        number: Texts to show.
    """
    shown = [(name, words) for batch in measured.shown for name, words in zip(batch.ids, batch.words, strict=False)]
    if not shown or not budgets or not number:
        return None
    longest = max(len(words) for _, words in shown)
    nearest = min(budgets, key=lambda each: abs(_share(each[1], longest) - chosen))[0]
    tally = next(each for each in measured.tallies if each.label == nearest)
    at = budget_words(nearest, measured.terms.tokens)
    return {
        "hint": f"Word tokens that are left at the end of the encoder weigh 1, dropped and merged ones 0, at {at}.",
        "examples": [
            {"id": name, "image": "", "tokens": _heatmap_tokens(words, set(tally.seen[name].kept))}
            for name, words in shown[:number]
        ],
    }


def _heatmap_tokens(words: Sequence[str], kept: set[int]) -> list[dict[str, Any]]:
    texts = [word.removeprefix("##") if word.startswith("##") else f" {word}" for word in words]
    return [
        {"text": text, "weight": float(index in kept), "kind": None, "nll": None} for index, text in enumerate(texts)
    ]


def picture(pixels: Tensor) -> Image:
    """What the encoder sees [3, height, width], its values spread from black to white."""
    values = pixels.float().cpu()
    low, high = values.amin(), values.amax()
    spread = (values - low) / (high - low).clamp(min=1e-6)
    return (255 * spread).round().byte().permute(1, 2, 0).numpy()


def _views(batch: Batch, row: int, seen: Seen) -> list[View]:
    """Pictures of a sample in which its tokens have places; empty if they have none."""
    if batch.views:
        return batch.views[row]
    side = isqrt(seen.patches)
    if batch.pixels is None or not side or side**2 != seen.patches:
        return []
    return [View(batch.pixels[row], np.arange(seen.patches).reshape(side, side))]


def _sample_picture(views: Sequence[View], seen: Seen) -> Image:
    """The pictures of a sample beside each other, pruned patches faded to paper."""
    step = max(
        1, sum(view.pixels.shape[2] for view in views) // WIDEST
    )  # wide rows of crops show every step-th pixel only
    dimmed = [dim(picture(view.pixels[:, ::step, ::step]), view.cells, seen) for view in views]
    tallest = max(len(each) for each in dimmed)
    paper = PAPER.round().astype(np.uint8)
    columns = []
    for each in dimmed:
        below = np.broadcast_to(paper, (tallest - len(each), each.shape[1], 3))
        columns += [np.concatenate([each, below]), np.broadcast_to(paper, (tallest, GAP, 3))]
    return np.concatenate(columns[:-1], 1)


def dim(image: Image, cells: Cells, seen: Seen) -> Image:
    """The image with pruned patches faded to paper.

    Args:
        image: [height, width, 3]
        cells: [rows, columns] number of the token that shows each part of it.
        seen: What is left.
    """
    height, width = image.shape[:2]
    kept = np.isin(cells, seen.kept)
    rows, columns = np.arange(height) * len(cells) // height, np.arange(width) * cells.shape[1] // width
    faded = LEFT * image + (1 - LEFT) * PAPER
    return np.where(kept[rows][:, columns, None], image, faded).round().astype(np.uint8)


def plots(measured: Measured, ratios: dict[str, float], scores: dict[str, float], arm: str) -> list[Plot]:
    """Scores against MACs and against tokens.

    Args:
        measured: A run.
        ratios: Label -> share of the unpruned model's MACs.
        scores: Label -> mean score.
        arm: The arm.
    """
    plots, metric = [], measured.terms.metric
    for name, title, x in (
        ("macs", "MACs of the prefill, share of the unpruned model's", ratios),
        ("tokens", f"{measured.terms.tokens}, mean over layers", {t.label: fmean(t.tokens) for t in measured.every}),
    ):
        line = sorted((x[label], scores[label]) for label in x)
        against = f"{metric.capitalize()} against {name.replace('macs', 'MACs')}"
        plots.append(Plot(name, against, title, metric, {arm: line}))
    return plots


def _share(budget: float | int, patches: int) -> float:
    return budget / patches if isinstance(budget, int) else budget


def _label(tally: Tally) -> str:
    """What a strip is: how many tokens are left of its questions' images."""
    patches = _range({seen.patches for seen in tally.seen.values()})
    if tally.label == FULL:
        return f"all {patches}"
    return f"{_range({len(seen.kept) + seen.made for seen in tally.seen.values()})} of {patches} tokens"


def _range(counts: set[int]) -> str:
    return f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def _note(seen: Seen) -> str:
    merged = f", {seen.made} merged" if seen.made else ""
    return f"{seen.answer or 'no answer'}: {'right' if seen.right else 'wrong'}{merged}"
