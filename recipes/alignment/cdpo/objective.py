"""Weights of rejected tokens on the shared preference training."""

from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from recipes.alignment.cdpo.config import CriticalConfig
from recipes.alignment.cdpo.method import positionwise, weights_of
from recipes.alignment.config import PreferenceConfig
from recipes.alignment.losses import PreferenceBatch
from recipes.alignment.objectives import Beside, Preference, TokenScores, sum_count
from recipes.alignment.pairs import TOKENS, PairSet, by_row
from recipes.core.losses.objectives import IGNORE

WEIGHTS = "weights"


def token_weights(config: CriticalConfig, pairs: PairSet, scores: dict[str, np.ndarray], seed: int) -> np.ndarray:
    """What the tokens of all answers weigh.

    Args:
        config: Which weights.
        pairs: The answers.
        scores: The fields of `Contrast` as [tokens], if these weights read them.
        seed: Of random weights.

    Returns:
        float32 [tokens]: the weights of rejected tokens, for chosen ones 1, or 1 less their weight (the score s) where
        chosen answers are weighed, too.
    """
    rejected, important = pairs.rejected(), pairs.important()
    weights = np.ones(len(rejected), np.float32)
    for side in (rejected, ~rejected):
        if side is rejected or not config.only_negative:
            side_scores = {name: values[side] for name, values in scores.items()}
            side_weights = weights_of(config.weights, side_scores, None if important is None else important[side], seed)
            weights[side] = side_weights if side is rejected else 1 - side_weights
    return weights


class Critical(Preference):
    """A preference loss whose rejected tokens are weighed, as one logistic loss a pair or one a position.

    Args:
        config: The loss.
        agg: "sequence" or "position".
        scores: What computes the per-token scores.
    """

    def __init__(self, config: PreferenceConfig, agg: str, scores: TokenScores) -> None:
        super().__init__(config, scores)
        self.positions = agg == "position"
        if self.positions:
            self.compute = positionwise

    def normalizer(self, batch: dict[str, Any]) -> Tensor:
        """Pairs of this micro-batch, or positions where either answer of a pair has a token."""
        if not self.positions:
            return super().normalizer(batch)
        lengths = (batch["labels"] != IGNORE).sum(1).view(2, -1)
        return lengths.max(0).values.sum().float()

    def weigh(
        self, pairs: PreferenceBatch, beside: Beside, batch: dict[str, Tensor]
    ) -> tuple[PreferenceBatch, Tensor | float, dict[str, Tensor]]:
        """The pairs with the weights that the batch brings along, if any."""
        if TOKENS + WEIGHTS not in batch:
            return pairs, 0.0, {}
        chosen, rejected = by_row(batch[TOKENS + WEIGHTS], beside.lengths).chunk(2)
        weighed = replace(
            pairs,
            chosen=replace(pairs.chosen, weights=chosen),
            rejected=replace(pairs.rejected, weights=rejected),
        )
        return weighed, 0.0, {"critical/weight": sum_count(rejected[pairs.rejected.mask])}
