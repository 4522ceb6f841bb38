"""What a list is worth: its right answers, where its first tokens rank, and how a run shows it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.evaluation.heatmaps import heatmap_example
from recipes.core.evaluation.scores import Scores
from recipes.core.storage.files import write_text
from recipes.decoding.icn.config import DISTINCT, GAP, MASS, NEAR, SHARE, ProbeConfig
from recipes.decoding.icn.method import in_main, mean_precision, normalise, precision, share_of_vocabulary
from recipes.decoding.icn.topics import Topic
from recipes.decoding.icn.writer import Listing

RIGHT, WRONG, REPEAT = "right", "wrong", "repeat"
TITLES = {
    DISTINCT: ("distinct right answers of a list", True),
    "coverage": ("share of the right answers that a list has, of as many as it has room for", True),
    "precision": ("items that are right, repeats included", True),
    "mean_precision": ("precision of the first items of a list, mean over how many", True),
    "duplicates": ("items that stood in the list before", False),
    "read_per_item": ("tokens that the model reads for an item", False),
    SHARE: ("ranks behind the first that lie in their clusters", True),
    "cluster_chance": ("share of the vocabulary that lies in the clusters of the first ranks", False),
    "precision/main": ("items right, first token in the clusters of the first ranks", True),
    "precision/other": ("items right, first token in other clusters", True),
    GAP: ("precision in other clusters above that in those of the first ranks", True),
    "rank/main": ("mean rank of first tokens in the clusters of the first ranks", False),
    "rank/other": ("mean rank of first tokens in other clusters", False),
    MASS: ("probability of the first tokens of the right answers that are listed", False),
    NEAR: ("probability of the other tokens in their clusters", False),
}
HINT = "Right answers weigh 4, repeats 1 and wrong items 1/4; the NLL is that of an item's first token."
WEIGHTS = {RIGHT: 4.0, REPEAT: 1.0, WRONG: 0.25}


@dataclass(frozen=True)
class Judged:
    """A list and what is known of it.

    Attributes:
        topic: What was asked for.
        listing: What came.
        order: Tokens behind the initial prompt, likeliest first.
        mass: Probability of the first tokens of some right answers.
        near: Probability of the other tokens in their clusters.
    """

    topic: Topic
    listing: Listing
    order: np.ndarray
    mass: float
    near: float

    @property
    def answers(self) -> list[str | None]:
        """Of each item the answer that it is; None if it is wrong."""
        return [self.topic.judge(item.text) for item in self.listing.items]

    @property
    def marks(self) -> list[str]:
        """Of each item whether it is right or wrong, or repeats one before."""
        marks, seen = list[str](), set[str]()
        for item, answer in zip(self.listing.items, self.answers, strict=True):
            name = normalise(item.text if answer is None else answer)
            marks.append(REPEAT if name in seen else WRONG if answer is None else RIGHT)
            seen.add(name)
        return marks

    @property
    def right(self) -> list[bool]:
        """Of each item whether it is right, repeats included."""
        return [answer is not None for answer in self.answers]


def score(
    lists: Sequence[Judged],
    items: int,
    clusters: np.ndarray,
    probe: ProbeConfig,
    plain: bool,
    random: np.random.Generator | None = None,
) -> Scores:
    """Metrics by list.

    Args:
        lists: All that were written.
        items: How many were asked for; what a list lacks counts as wrong.
        clusters: int [V] the cluster of each token.
        probe: How many ranks are first, and how many are looked at.
        plain: Whether items begin with the first ranks of one distribution, so that their ranks say something.
        random: Draws the tokens behind the first ranks, and which items count as in the main clusters: the control.
    """
    scores, top = Scores(), probe.top
    for name, (title, higher_is_better) in TITLES.items():
        scores.define(name, title, higher_is_better)
    for one in lists:
        order = one.order
        if random is not None:
            order = np.concatenate([order[:top], random.permutation(order[top:])])
        values = _of_items(one, items) | {
            SHARE: float(in_main(order, clusters, top, probe.ranks).mean()),
            "cluster_chance": share_of_vocabulary(one.order, clusters, top),
            MASS: one.mass,
            NEAR: one.near,
        }
        for name, value in values.items():
            scores.add(name, one.topic.id, one.topic.id, value)
        if plain:
            tokens = np.array([item.token for item in one.listing.items], np.int64)
            main = in_main(tokens, clusters, top, probe.ranks)
            _add_parts(scores, one, main if random is None else random.permutation(main), top)
    return scores.without_empty_rows()


def _of_items(one: Judged, items: int) -> dict[str, float]:
    """Metrics of what a list says."""
    marks, right = one.marks, [*one.right, *[False] * (items - len(one.listing.items))]
    distinct, number = marks.count(RIGHT), max(len(marks), 1)
    return {
        DISTINCT: float(distinct),
        "coverage": distinct / min(items, len(one.topic.usual)),
        "precision": precision(right),
        "mean_precision": mean_precision(right),
        "duplicates": marks.count(REPEAT) / number,
        "read_per_item": one.listing.read / number,
    }


def _add_parts(scores: Scores, one: Judged, main: np.ndarray, top: int) -> None:
    """Add precision and rank of the items behind the first `top`, of those in `main` [items] and of the others."""
    name, right = one.topic.id, np.array(one.right[top : top + len(main)])
    for part, rows in (("main", main), ("other", ~main)):
        if rows.any():
            scores.add(f"precision/{part}", name, name, float(right[rows].mean()), float(rows.sum()))
            scores.add(f"rank/{part}", name, name, float(np.flatnonzero(rows).mean()) + top + 1, float(rows.sum()))
    if main.any() and not main.all():
        scores.add(GAP, name, name, float(right[~main].mean() - right[main].mean()))


def write_lists(path: Path, lists: Sequence[Judged], texts: Sequence[str], clusters: np.ndarray) -> None:
    """One JSON object a list: `id`, `instruction`, how many `distinct` right answers, and its `items`.

    An item has its `text`, its `mark` (right, wrong, repeat), the `answer` that it is, its `first` token, that token's
    `nll` where it was chosen, its `rank` behind the initial prompt and its `cluster`.

    Args:
        path: The file.
        lists: One for each line.
        texts: [V] what each token says.
        clusters: int [V] the cluster of each token.
    """
    lines = []
    for one in lists:
        ranks, items = {int(token): rank for rank, token in enumerate(one.order, 1)}, []
        for item, mark, answer in zip(one.listing.items, one.marks, one.answers, strict=True):
            row: dict[str, Any] = {"text": item.text, "mark": mark, "answer": answer, "first": texts[item.token]}
            row |= {"nll": round(item.nll, 4), "rank": ranks.get(item.token), "cluster": int(clusters[item.token])}
            items.append(row)
        line = {"id": one.topic.id, "instruction": one.topic.instruction, "distinct": one.marks.count(RIGHT)}
        lines.append(json.dumps(line | {"items": items}, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")


def heatmap(lists: Sequence[Judged]) -> dict[str, Any]:
    """Content of `heatmap.json`: each item of a list shaded by whether it is right."""
    examples = []
    for one in lists:
        texts = [f"{number}. {item.text}\n" for number, item in enumerate(one.listing.items, 1)]
        nlls = [item.nll for item in one.listing.items]
        weights = [WEIGHTS[mark] for mark in one.marks]
        examples.append(heatmap_example(one.topic.id, texts, weights, nlls, list(one.marks)))
    return {"hint": HINT, "examples": examples}
