"""Token importance: what each token of a text weighs by several methods or in several layers, as a table and a heatmap.

The table is `importance.jsonl`: one line a text, method, layer and token. The heatmap is that of `heatmap.json`, with
several named rows over the same tokens.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.evaluation.heatmaps import heatmap_example
from recipes.core.storage.files import write_text

FILE = "importance.jsonl"


@dataclass(frozen=True)
class Importance:
    """What each token weighs.

    Attributes:
        method: What the weights come from.
        weights: [tokens] not negative; only their proportions are shown.
        layer: Where in a model they hold; None: in all of it.
    """

    method: str
    weights: Sequence[float] | np.ndarray
    layer: int | None = None

    @property
    def label(self) -> str:
        """What its row is called."""
        return self.method if self.layer is None else f"{self.method}, layer {self.layer}"


@dataclass(frozen=True)
class WeighedText:
    """A text with the importance of its tokens.

    Attributes:
        id: The same in every run that shows the text.
        tokens: What each says.
        rows: At least one; the first is the one that a trial shows beside other arms.
        kinds: What is known of each token ("evidence"); None: nothing of any.
        title: What stands above it (what the tokens are important for); empty: nothing.
    """

    id: str
    tokens: Sequence[str]
    rows: Sequence[Importance]
    kinds: Sequence[str | None] | None = None
    title: str = ""


def relative(weights: Sequence[float] | np.ndarray) -> np.ndarray:
    """[tokens] weights over their mean: 2 is twice what a token weighs on average. All 0 stay so.

    Raises:
        ValueError: one is negative or no number.
    """
    values = np.asarray(weights, np.float64)
    if not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"importance is finite and not negative, not {values.tolist()}")
    return values / (values.mean() or 1.0) if len(values) else values


def importance_heatmap(texts: Sequence[WeighedText], hint: str) -> dict[str, Any]:
    """Content of `heatmap.json`: each text with a row a method, shaded relative to the mean of the row.

    Args:
        texts: What is shown.
        hint: What a token's importance is, in a sentence.

    Raises:
        ValueError: as in `relative`, or a row has another length than the tokens.
    """
    return {"examples": [_example(text) for text in texts], "hint": hint}


def write_importance(path: Path, texts: Sequence[WeighedText]) -> None:
    """Write the table: {"text", "method", "layer", "position", "token", "kind", "weight"} a line, weights as given."""
    lines = [
        json.dumps(
            {
                "text": text.id,
                "method": row.method,
                "layer": row.layer,
                "position": position,
                "token": token,
                "kind": kind,
                "weight": float(f"{float(weight):.6g}"),
            },
            ensure_ascii=False,
        )
        for text in texts
        for row in text.rows
        for position, (token, kind, weight) in enumerate(
            zip(text.tokens, text.kinds or [None] * len(text.tokens), row.weights, strict=True)
        )
    ]
    write_text(path, "".join(f"{line}\n" for line in lines))


def _example(text: WeighedText) -> dict[str, Any]:
    """An example whose own weights are those of the first row, for what shows one row alone."""
    shown = [relative(row.weights) for row in text.rows]
    example = heatmap_example(text.id, text.tokens, shown[0], None, text.kinds)
    rows = [
        {"label": row.label, "weights": np.round(weights, 4).tolist()}
        for row, weights in zip(text.rows, shown, strict=True)
    ]
    if wrong := [row["label"] for row in rows if len(row["weights"]) != len(text.tokens)]:
        raise ValueError(f"{wrong[0]} has not one weight for each of {len(text.tokens)} tokens")
    return example | {"title": text.title, "rows": rows}
