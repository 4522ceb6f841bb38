"""References: frozen text models whose log-probs of a split's texts are computed once and cached.

One stored column serves every weighting: with the NLL of a token, 1 - p = -expm1(-nll).
"""

from typing import Any, Protocol

import numpy as np

from recipes.core.models.padded import batches
from recipes.core.scoring.rows import text_rows
from recipes.core.scoring.score import TokenScores, score_once


class Tokens(Protocol):
    """What scoring reads of a split's tokens (`recipes.core.data.images.tokenized.TokenizedCaptions`)."""

    lengths: np.ndarray  # int32 [texts]

    def ids(self, i: int) -> np.ndarray:
        """int32 [k] token ids of text i, end of text included."""


def reference_scores(model: Any, tokenized: Tokens, bos_id: int, batch_tokens: int, device: str) -> TokenScores:
    """The scores of a split under a reference, computed only if no run has done so before.

    Args:
        model: A `TextModel`.
        tokenized: The texts' tokens, from the tokenizer that the trained model uses.
        bos_id: Token id put before every text.
        batch_tokens: Padded tokens per forward; no result depends on it beyond rounding.
        device: "cpu" or "cuda"; the model is moved there if it has to score.

    Raises:
        RunFailed: the reference gives a token no finite log-probability.
    """
    rows = text_rows([tokenized.ids(i) for i in range(len(tokenized.lengths))], bos_id)
    # What the model reads of a text is as long as the text, as its last token is only predicted.
    groups = batches(tokenized.lengths, batch_tokens)
    return score_once(model, rows, device=device, groups=groups, what="scoring texts with the reference")
