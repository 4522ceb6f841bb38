"""What `cdpo` measures of token scores: whether they find the first wrong token, and what tokens weigh."""

from collections.abc import Mapping

import numpy as np

from recipes.alignment.cdpo.objective import WEIGHTS
from recipes.alignment.evaluation import auroc, define
from recipes.alignment.pairs import PairItems
from recipes.alignment.reference_scores import LOGPS
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores

# Detector -> (what it is, column of `PairItems` whose negative it is).
DETECTORS = {
    "contrast": ("1 - s", "log_s"),
    "surprisal": ("-log P of the positive model", "log_positive"),
    "reference": ("-log P of the reference", LOGPS),
    "random": ("control: numbers drawn at random", ""),
}


def add_detection(scores: Scores, items: PairItems, where: str = "") -> dict[str, float]:
    """How well each detector finds the first wrong token among the tokens of rejected answers.

    Args:
        scores: Where to say what the metrics mean.
        items: The pairs, with the columns of `DETECTORS` that are known.
        where: "train_" for training pairs; else held-out ones are meant.

    Returns:
        AUROC and hit rate (share of answers with the largest value on the first wrong token) of each, and the mean
        score of first wrong tokens and of the others. Empty if nobody knows first wrong tokens.
    """
    important = items.pairs.important()
    if important is None:
        return {}
    rejected = items.pairs.rejected()
    marks, starts = important[rejected], np.concatenate([[0], np.cumsum(items.pairs.lengths[1::2])])
    if not marks.any() or marks.all():
        return {}
    detection: dict[str, float] = {}
    pairs_text = "training pairs" if where else "held-out pairs"
    drawn = np.random.default_rng(0).random(len(marks))
    for name, (title, column) in DETECTORS.items():
        if column and column not in items.columns:
            continue
        values = -items.columns[column][rejected] if column else drawn
        area, hit = f"critical/{where}auroc_{name}", f"critical/{where}hit_{name}"
        define(
            scores,
            {
                area: (f"AUROC of {title} for the first wrong token, {pairs_text}", True),
                hit: (f"rejected answers where {title} is largest on the first wrong token, {pairs_text}", True),
            },
        )
        detection |= {area: auroc(marks, values), hit: _hit_rate(marks, values, starts)}
    return detection | _mean_scores(scores, items.columns, rejected, important, where)


def add_weights(scores: Scores, items: PairItems) -> None:
    """Mean weight of the rejected tokens of each held-out pair."""
    scores.define("critical/weight", "weight of rejected tokens, mean over held-out answers' tokens", False)
    weights, offsets = items.columns[WEIGHTS], items.pairs.offsets
    for number, pair in enumerate(items.pairs.pairs):
        answer_weights = weights[offsets[2 * number + 1] : offsets[2 * number + 2]]
        scores.add("critical/weight", pair.id, pair.id, float(answer_weights.mean()), len(answer_weights))


def curve_plots(curve: Mapping[int, Scores], metric: str, start: float | None) -> list[Plot]:
    """The judge's first metric over training, if there is one, with what the reference starts at."""
    steps = [step for step in sorted(curve) if metric in curve[step].metrics]
    if not steps:
        return []
    way = [(float(step), curve[step].overall()[metric]) for step in steps]
    series = {"policy": way if start is None else [(0.0, start), *way]}
    return [
        Plot("learning", f"{metric.capitalize()} over training", "step", curve[steps[0]].metrics[metric].title, series)
    ]


def _hit_rate(marks: np.ndarray, values: np.ndarray, starts: np.ndarray) -> float:
    largest = [start + int(values[start:end].argmax()) for start, end in zip(starts[:-1], starts[1:], strict=True)]
    return float(marks[largest].mean())


def _mean_scores(
    scores: Scores, columns: Mapping[str, np.ndarray], rejected: np.ndarray, important: np.ndarray, where: str
) -> dict[str, float]:
    if "log_s" not in columns:
        return {}
    means = {}
    for name, title, tokens in (
        ("wrong", "first wrong tokens", important & rejected),
        ("other", "other rejected tokens", ~important & rejected),
    ):
        scores.define(f"critical/{where}score_{name}", f"mean score s of {title}", name == "other")
        means[f"critical/{where}score_{name}"] = float(np.exp(columns["log_s"][tokens]).mean())
    return means
