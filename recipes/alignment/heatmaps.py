"""Token heatmaps of pairs: what each token of an answer weighs, chosen beside rejected."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recipes.alignment.pairs import PairSet
from recipes.core.evaluation.heatmaps import heatmap_example


def heatmap(
    pairs: PairSet, masks: Mapping[str, np.ndarray], ref_logps: np.ndarray, pieces: Sequence[str], count: int
) -> dict[str, Any] | None:
    """The first pairs, chosen beside rejected, each weight relative to its mean over the pair.

    Args:
        pairs: The answers.
        masks: What the weights are called -> [tokens] of all answers, in the order of `PairSet.offsets`.
        ref_logps: [tokens] log-probs under the reference, in nats.
        pieces: Text of each token id.
        count: Most pairs.

    Returns:
        Content of `heatmap.json`; None if there is nothing to show.
    """
    examples = []
    for number, pair in enumerate(pairs.pairs[:count]):
        for name, values in masks.items():
            mean = values[pairs.offsets[2 * number] : pairs.offsets[2 * number + 2]].mean() or 1.0
            for side, label in enumerate(("chosen", "rejected")):
                tokens = range(int(pairs.offsets[2 * number + side]), int(pairs.offsets[2 * number + side + 1]))
                ids = pairs.answer(2 * number + side)
                marks = pair.important[side] if pair.important else np.zeros(len(ids), bool)
                start = "".join(pieces[i] for i in pair.prompt).strip()[-60:]
                examples.append(
                    heatmap_example(
                        f"{name}, {label}: {start} ...",
                        [pieces[token] for token in ids],
                        [values[position] / mean for position in tokens],
                        [-ref_logps[position] for position in tokens],
                        ["known to matter" if mark else None for mark in marks],
                    )
                )
    return {"examples": examples} if examples else None
