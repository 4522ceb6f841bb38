"""What held-out sequences cost a model: nats per token, sequence by sequence."""

import math
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from recipes.core.evaluation.scores import Scores
from recipes.core.models.vision_language import TextModel
from recipes.core.scoring.rows import text_rows
from recipes.core.scoring.score import TokenScores, score, score_once

NLL, PERPLEXITY = "nll", "perplexity"


def sequence_nlls(model: TextModel, rows: Tensor, device: str, batch_tokens: int, once: bool = False) -> np.ndarray:
    """float64 [sequences] mean NLL in nats of the tokens of each sequence but the first.

    Args:
        model: The model.
        rows: int64 [sequences, length]
        device: Where to compute.
        batch_tokens: Tokens of a forward.
        once: Whether it is computed once and cached, as for a model that other arms and seeds read too.
    """
    pairs, run = text_rows(rows.numpy()), score_once if once else score
    scores: TokenScores = run(model, pairs, device=device, batch_tokens=batch_tokens, what="held-out text")
    return np.array([scores.nll(number).mean(dtype=np.float64) for number in range(len(pairs))])


def score_domains(scores: Scores, nlls: Mapping[str, np.ndarray]) -> None:
    """Write the NLL of each sequence into scores, as `nll/<domain>`, its sequences paired over arms and seeds.

    Args:
        scores: Gets them.
        nlls: Domain, or what it stands for -> [sequences] nats.
    """
    for domain, values in nlls.items():
        scores.define(f"{NLL}/{domain}", f"nats per token, held-out text: {domain}", False)
        for number, value in enumerate(values):
            scores.add(f"{NLL}/{domain}", name := f"{domain}/{number}", name, float(value))


def perplexities(nlls: Mapping[str, np.ndarray]) -> dict[str, float]:
    """`perplexity/<domain>`: exp of the mean NLL per token."""
    return {f"{PERPLEXITY}/{domain}": math.exp(float(values.mean())) for domain, values in nlls.items()}
