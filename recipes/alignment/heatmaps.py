"""Answers with a weight on every token, as the report shows them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recipes.alignment.pairs import PairSet


def heatmap(
    pairs: PairSet, masks: Mapping[str, np.ndarray], ref_logps: np.ndarray, pieces: Sequence[str], count: int
) -> dict[str, Any] | None:
    """The first held-out pairs, chosen beside rejected, with each mask relative to its mean over the pair."""
    examples = []
    for number, pair in enumerate(pairs.pairs[:count]):
        for name, values in masks.items():
            mean = values[pairs.offsets[2 * number] : pairs.offsets[2 * number + 2]].mean() or 1.0
            for side, label in enumerate(("chosen", "rejected")):
                tokens = range(int(pairs.offsets[2 * number + side]), int(pairs.offsets[2 * number + side + 1]))
                ids = pairs.answer(2 * number + side)
                marks = pair.important[side] if pair.important else np.zeros(len(ids), bool)
                rows = [
                    {
                        "text": pieces[token] or "<end>",
                        "weight": round(float(values[place] / mean), 4),
                        "kind": "known to the judge" if mark else None,
                        "nll": round(float(-ref_logps[place]), 4),
                    }
                    for place, token, mark in zip(tokens, ids, marks, strict=True)
                ]
                start = "".join(pieces[i] for i in pair.prompt).strip()[-60:]
                examples.append({"id": f"{name} mask, {label}: {start} ...", "image": "", "tokens": rows})
    return {"examples": examples} if examples else None
