"""Which tokens of a small model a large one should write: labels, thresholds, baselines and costs. Pure functions.

Source:
    arXiv 2505.21600.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

IDENTICAL, NEUTRAL, DIVERGENT = 0, 1, 2
GRID = np.linspace(0.01, 0.99, 100)  # thresholds among which one is chosen by recall
TOP = 10  # logits that the evidence of `aleatoric` is made of
HALVINGS = 8  # of the interval in which a threshold by usage is looked for


def token_classes(small: np.ndarray, large: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """int8 [tokens]: `IDENTICAL`, `NEUTRAL` or `DIVERGENT`.

    Args:
        small: [tokens] what the small model would write at each place of the large model's text.
        large: [tokens] that text.
        changes: bool [tokens] whether the small model's token, continued by the large one, leads to another answer;
            read only where the two differ.
    """
    return np.where(small == large, IDENTICAL, np.where(changes, DIVERGENT, NEUTRAL)).astype(np.int8)


def positive_weight(labels: np.ndarray, recall_factor: float = 1.0) -> float:
    """What a positive counts in the loss: n0 / n1 times the factor.

    Args:
        labels: bool [tokens]
        recall_factor: More than 1 favours recall.

    Raises:
        ValueError: there is no positive.
    """
    positives = int(labels.sum())
    if not positives:
        raise ValueError("no token is positive")
    return (len(labels) - positives) / positives * recall_factor


def threshold_by_recall(scores: np.ndarray, labels: np.ndarray, least: float) -> tuple[float, float]:
    """The threshold of `GRID` that routes fewest tokens among those with enough recall; of equal ones the first.

    Args:
        scores: [tokens] a token is routed from the threshold on.
        labels: bool [tokens], some of them.
        least: Share of the positives that must be routed.

    Returns:
        The threshold, and the share of all tokens that it routes.

    Raises:
        ValueError: there is no positive, or no threshold finds enough of them.
    """
    if not labels.any():
        raise ValueError("no token is positive")
    routed = scores[None] >= GRID[:, None]
    enough = routed[:, labels].mean(1) >= least
    if not enough.any():
        raise ValueError(f"no threshold routes {least:g} of the positive tokens")
    shares = np.where(enough, routed.mean(1), np.inf)
    best = int(shares.argmin())
    return float(GRID[best]), float(shares[best])


def threshold_by_usage(scores: np.ndarray, usage_of: Callable[[float], float], wanted: float) -> tuple[float, float]:
    """The threshold at which the large model writes a wanted share of the tokens, by halving.

    Args:
        scores: [tokens] of texts that the small model wrote alone: their quantiles are tried.
        usage_of: Threshold -> share of the tokens that the large model then writes.
        wanted: That share.

    Returns:
        The threshold that came closest, and its usage.
    """
    low, high, share = 0.0, 1.0, wanted
    tried = list[tuple[float, float]]()
    for _ in range(HALVINGS):
        threshold = quantile_threshold(scores, share)
        tried.append((threshold, usage_of(threshold)))
        # Texts that are routed are other texts, with a usage of their own.
        low, high = (low, share) if tried[-1][1] > wanted else (share, high)
        share = (low + high) / 2
    return min(tried, key=lambda pair: abs(pair[1] - wanted))


def quantile_threshold(scores: np.ndarray, share: float) -> float:
    """The threshold from which on a share of the scores lies, in (0, 1)."""
    return float(np.quantile(scores, 1 - share))


def entropy(logits: Tensor) -> Tensor:
    """[rows] entropy in nats of the softmax of `logits` [rows, vocabulary]."""
    return torch.special.entr(logits.double().softmax(-1)).sum(-1)


def aleatoric(logits: Tensor) -> Tensor:
    """[rows] aleatoric uncertainty of the largest logits as evidence of a Dirichlet distribution (LogU).

        a = sum_i x_i,    -sum_i x_i / a (digamma(x_i + 1) - digamma(a + 1))

    The formula needs x_i >= 0: what is negative counts as no evidence, and without any the result is 0.

    Args:
        logits: [rows, vocabulary]
    """
    x = logits.double().topk(min(TOP, logits.shape[-1]), -1).values.clamp_min(0)
    total = x.sum(-1, keepdim=True)
    shares = x / total.clamp_min(torch.finfo(x.dtype).tiny)
    return -(shares * (torch.digamma(x + 1) - torch.digamma(total + 1))).sum(-1)


def mixture_parameters(small: float, large: float, usage: float) -> float:
    """Parameters per token if each is written by one of the two models: the paper's count."""
    return (1 - usage) * small + usage * large


def additive_parameters(small: float, router: float, large: float, usage: float) -> float:
    """Parameters per token if small model and router work on every token: the stricter count [ours]."""
    return small + router + usage * large


def curve_weights(usages: Sequence[float] | np.ndarray) -> np.ndarray:
    """[points] what each point of a curve over usage adds to the area under it, by the trapezoidal rule.

    Args:
        usages: [points] share of the tokens that the large model wrote, 0 and 1 among them.
    """
    order = np.argsort(usages, kind="stable")
    steps = np.diff(np.asarray(usages, np.float64)[order])
    weights = np.zeros(len(order))
    weights[order] = (np.concatenate([[0], steps]) + np.concatenate([steps, [0]])) / 2
    return weights


def usage_weights(usages: Sequence[float] | np.ndarray, wanted: float) -> np.ndarray:
    """[points] what each point of a curve counts at exactly one usage, linear between the two points beside it.

    Args:
        usages: As in `curve_weights`.
        wanted: In [0, 1].
    """
    order, weights = np.argsort(usages, kind="stable"), np.zeros(len(usages))
    xs = np.asarray(usages, np.float64)[order]
    right = int(np.searchsorted(xs, wanted))
    if xs[right] == wanted:
        weights[order[right]] = 1.0
    else:
        part = (wanted - xs[right - 1]) / (xs[right] - xs[right - 1])
        weights[order[right - 1]], weights[order[right]] = 1 - part, part
    return weights
