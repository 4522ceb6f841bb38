"""Token heatmaps: what each token of an example weighs, beside what it costs to predict."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def heatmap_example(
    name: str,
    texts: Sequence[str],
    weights: Sequence[float] | np.ndarray,
    nlls: Sequence[float] | np.ndarray | None,
    kinds: Sequence[str | None] | None = None,
    image: str = "",
) -> dict[str, Any]:
    """One example of `heatmap.json`.

    Args:
        name: What it is called.
        texts: What each token says.
        weights: [tokens]
        nlls: [tokens] NLL in nats; None: of no token.
        kinds: What is known of each token; None: nothing of any.
        image: What it is about, as a data URL.
    """
    nothing = [None] * len(texts)
    columns = zip(texts, weights, kinds or nothing, nothing if nlls is None else nlls, strict=True)
    tokens = [
        {
            "text": text or "<end>",
            "weight": round(float(weight), 4),
            "kind": kind,
            "nll": None if nll is None else round(float(nll), 4),
        }
        for text, weight, kind, nll in columns
    ]
    return {"id": name, "image": image, "tokens": tokens}
