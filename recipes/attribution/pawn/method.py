"""Perplexity attention: five statistics of a token, weights over the tokens of a text, the loss. Pure math of tensors.

The tokens of all texts of a batch stand one behind the other, and `segments` says which text each belongs to: there is
no padding that a weight could fall on.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from recipes.core.models.precision import exact

# The order in which the head reads them: that of the official names, which are these, alphabetically.
METRICS = ("entropy", "max_logprob", "logprob", "rank", "mass")


def metrics(columns: Mapping[str, np.ndarray], vocabulary: int) -> Tensor:
    """What the head reads of each predicted token.

    Args:
        columns: Of `score`, each [n]: `METRICS` in nats, counts and probability.
        vocabulary: V, by which the rank is divided, so that it lies in [1/V, 1].

    Returns:
        float32 [n, 5]

    Source:
        arXiv 2501.03940, Section 3: entropy, largest and actual log-probability, rank and mass of what is at least as
        likely, the actual token counted.
    """
    parts = [np.asarray(columns[name], np.float32) / (vocabulary if name == "rank" else 1) for name in METRICS]
    return torch.from_numpy(np.stack(parts, 1))


def segment_softmax(logits: Tensor, segments: Tensor, count: int) -> Tensor:
    """Softmax of each column over the rows of a text.

    Args:
        logits: [rows, gates]; -inf for a row without weight. A text has a row that is finite in each column.
        segments: int64 [rows] number of the text.
        count: Texts.

    Returns:
        [rows, gates] in float32 or float64, which sum to 1 over the rows of a text in each column.
    """
    logits = exact(logits)
    index = segments[:, None].expand_as(logits)
    top = logits.new_full((count, logits.shape[1]), -torch.inf).scatter_reduce(0, index, logits.detach(), "amax")
    powers = (logits - top[segments]).exp()
    return powers / powers.new_zeros(count, logits.shape[1]).index_add(0, segments, powers)[segments]


def pool(weights: Tensor, features: Tensor, segments: Tensor, count: int) -> Tensor:
    """[texts, F] sum of features over the rows of a text, each channel by its gate's weights.

    Args:
        weights: [rows, G], G a divisor of F; the gates are repeated up to F.
        features: [rows, F]
        segments: int64 [rows] number of the text.
        count: Texts.
    """
    weighted = features * weights.repeat(1, features.shape[1] // weights.shape[1])
    return weighted.new_zeros(count, features.shape[1]).index_add(0, segments, weighted)


def dropout_mask(tokens: int, rate: float, random: np.random.Generator) -> np.ndarray:
    """bool [tokens] token dropout of one text: False with probability `rate`; drawn anew where all would be dropped."""
    while True:
        kept = random.random(tokens) >= rate
        if kept.any():
            return kept


def detection_loss(logits: Tensor, machine: Tensor, smoothing: float, pos_weight: float) -> Tensor:
    """[texts] -w y' log s(z) - (1 - y') log s(-z), with y' = y (1 - eps) + eps / 2.

    Args:
        logits: [texts] z, larger for what is taken to be written by a machine.
        machine: [texts] y in {0, 1}.
        smoothing: eps.
        pos_weight: w.
    """
    logits = logits.float()
    smooth = machine.float() * (1 - smoothing) + smoothing / 2
    return -pos_weight * smooth * logsigmoid(logits) - (1 - smooth) * logsigmoid(-logits)


def zero_shot(name: str, columns: Mapping[str, np.ndarray]) -> float:
    """One number of a text, larger for what is likelier to be written by a machine, without training.

    Args:
        name: A key of `ZERO_SHOT`.
        columns: As in `metrics`, and variance.
    """
    return ZERO_SHOT[name]({key: np.asarray(values, np.float64) for key, values in columns.items()})


def _lrr(columns: Mapping[str, np.ndarray]) -> float:
    """|sum log p| / sum log rank; tokens of rank 1 add nothing to the latter, which is at least log 2 / 2."""
    return float(np.abs(columns["logprob"].sum()) / max(np.log(columns["rank"]).sum(), np.log(2) / 2))


def _fast_detectgpt(columns: Mapping[str, np.ndarray]) -> float:
    """(sum log p - sum mu) / sqrt(sum var), mu = -entropy and var those of log p of a token drawn from the model."""
    surprise = columns["logprob"] + columns["entropy"]
    return float(surprise.sum() / np.sqrt(max(columns["variance"].sum(), 1e-12)))


ZERO_SHOT = {
    "log_prob": lambda columns: float(columns["logprob"].mean()),
    "rank": lambda columns: -float(columns["rank"].mean()),
    "log_rank": lambda columns: -float(np.log(columns["rank"]).mean()),
    "entropy": lambda columns: -float(columns["entropy"].mean()),
    "lrr": _lrr,
    "fast_detectgpt": _fast_detectgpt,
    "log_prob_entropy": lambda columns: float((columns["logprob"] + columns["entropy"]).mean()),
}


def summary(metrics_of_text: Tensor) -> np.ndarray:
    """float64 [10] mean and standard deviation of the five metrics [n, 5] over a text."""
    values = metrics_of_text.double().numpy()
    return np.concatenate([values.mean(0), values.std(0)])


def rank_buckets(ranks: np.ndarray) -> np.ndarray:
    """float64 [4] shares of tokens among the 10, 100, 1,000 likeliest, and of the others (GLTR)."""
    edges = np.searchsorted([10, 100, 1000], ranks)
    return np.bincount(edges, minlength=4) / len(ranks)
