"""What held-out sequences cost a model: nats per token, sequence by sequence."""

import math
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from recipes.compression.walk import Walk
from recipes.core.evaluation.scores import Scores
from recipes.core.models.vision_language import TextModel
from recipes.core.scoring.rows import text_rows
from recipes.core.scoring.score import score, score_once

NLL, PERPLEXITY = "nll", "perplexity"


def token_nlls(
    model: TextModel, rows: Tensor, device: str, batch_tokens: int, once: bool = False, offload: bool = False
) -> np.ndarray:
    """float32 [sequences, length - 1] NLL in nats of the tokens of each sequence but the first.

    Args:
        model: The model.
        rows: int64 [sequences, length]
        device: Where to compute.
        batch_tokens: Tokens of a forward.
        once: Whether it is computed once and cached, as for a model that other arms and seeds read too.
        offload: Whether the model stays where it is, and one block at a time is on the device; nothing is cached then.
    """
    if offload:
        batch = max(1, batch_tokens // rows.shape[1])
        return Walk(model.language_model, rows, "model", batch=batch, device=device).nlls()
    run = score_once if once else score
    scores = run(model, text_rows(rows.numpy()), device=device, batch_tokens=batch_tokens, what="held-out text")
    return -scores["logprob"].reshape(len(rows), -1)


def sequence_nlls(
    model: TextModel, rows: Tensor, device: str, batch_tokens: int, once: bool = False, offload: bool = False
) -> np.ndarray:
    """float64 [sequences] mean NLL in nats of a sequence; arguments as of `token_nlls`."""
    return token_nlls(model, rows, device, batch_tokens, once, offload).mean(1, dtype=np.float64)


def score_domains(scores: Scores, nlls: Mapping[str, np.ndarray], prefix: str = "") -> None:
    """Write the NLL of each sequence into scores, as `nll/<domain>`, its sequences paired over arms and seeds.

    Args:
        scores: Gets them.
        nlls: Domain, or what it stands for -> [sequences] nats.
        prefix: What the names of the metrics begin with, where a run measures several models ("at_0.3/").
    """
    for domain, values in nlls.items():
        metric = f"{prefix}{NLL}/{domain}"
        scores.define(metric, f"nats per token, held-out text: {domain}{of_prefix(prefix)}", False)
        for number, value in enumerate(values):
            scores.add(metric, name := f"{domain}/{number}", name, float(value))


def of_prefix(prefix: str) -> str:
    """What the title of a metric ends with whose name begins with a prefix."""
    return f" ({prefix.rstrip('/').replace('_', ' ')})" if prefix else ""


def perplexities(nlls: Mapping[str, np.ndarray], prefix: str = "") -> dict[str, float]:
    """`perplexity/<domain>`: exp of the mean NLL per token; `prefix` as in `score_domains`."""
    return {f"{prefix}{PERPLEXITY}/{domain}": math.exp(float(values.mean())) for domain, values in nlls.items()}
