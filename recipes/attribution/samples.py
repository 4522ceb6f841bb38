"""Texts with what a frozen model says of their tokens: one pass over all of them, cached by content."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from recipes.core.models.head import output_head
from recipes.core.scoring.columns import column_tensor
from recipes.core.scoring.forward import HEAD
from recipes.core.scoring.score import TokenScores, score_once
from recipes.core.scoring.statistics import Ask

STATISTICS = Ask(entropy=True, max_logprob=True, rank=True, mass=True, variance=True)
FEWEST = 2  # tokens: the first is predicted by nothing


@dataclass(frozen=True)
class Sample:
    """One text, by a person or by a machine.

    Attributes:
        id: Unique in its set.
        text: As it is read.
        machine: Whether a machine wrote it.
        document: What must not stand on both sides of a split.
        source: Which generator or domain it is of; empty where nobody says.
    """

    id: str
    text: str
    machine: bool
    document: str
    source: str = ""


@dataclass(frozen=True)
class TextStatistics:
    """What a model says of the tokens of texts.

    Attributes:
        scores: Of each text's second and later tokens, and behind them of one token that is not of it, so that there is
            a state at each of its tokens.
        rows: Ids of each text.
        vocabulary: Tokens that the model chooses among.
    """

    scores: TokenScores
    rows: Sequence[Sequence[int]]
    vocabulary: int

    def columns(self, number: int) -> dict[str, np.ndarray]:
        """Statistics of the N - 1 predicted tokens of a text of N, by name."""
        return {name: self.scores.row(name, number)[:-1] for name in self.scores.columns if name != "hidden"}

    def states(self, number: int) -> Tensor:
        """[N, H] what the model's head gets at each token of a text, in the dtype in which it is kept."""
        return column_tensor(self.scores.row("hidden", number)[:, 0])


def text_statistics(
    model: Any, rows: Sequence[Sequence[int]], *, device: str, bf16: bool = False, states: bool = True
) -> TextStatistics:
    """What a model says of every token of texts, computed once.

    Args:
        model: A `TextModel`.
        rows: Ids of each text, at least `FEWEST`.
        device: Where to compute.
        bf16: Compute in bf16, and keep states in it.
        states: Keep the states that the head gets.

    Raises:
        RunFailed: the model gives a token no finite log-probability.
    """
    continued = [(row[:1], [*row[1:], row[0]]) for row in rows]
    ask = replace(STATISTICS, hidden=(HEAD,) if states else ())
    scores = score_once(model, continued, ask, device=device, bf16=bf16, what="reading texts")
    return TextStatistics(scores, rows, output_head(model.language_model).vocabulary)
