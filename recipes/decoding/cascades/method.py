"""Deferral rules of a cascade and the area under their curve. Pure functions of arrays.

A rule scores the small model's answer; those with the lowest scores are deferred to the large model.

Source:
    arXiv 2404.10136.
"""

from collections.abc import Sequence

import numpy as np

# Quantiles that learned rules see.
GRID = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
# Quantiles among which one is chosen on validation questions.
ALPHAS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
LEAST = -20.0  # log-probs that learned rules see are cut here
Rows = Sequence[np.ndarray]


def chow_sum(logprobs: Rows) -> np.ndarray:
    """[answers] log-probability of each whole answer; `logprobs` has one array [tokens] for each."""
    return np.array([float(row.sum(dtype=np.float64)) for row in logprobs])


def chow_average(logprobs: Rows) -> np.ndarray:
    """[answers] mean log-probability of the tokens of each answer."""
    return np.array([float(row.sum(dtype=np.float64)) / len(row) for row in logprobs])


def chow_quantile(logprobs: Rows, alpha: float) -> np.ndarray:
    """[answers] quantile of the log-probabilities of each answer, interpolated: 0 is the least likely token."""
    return np.array([float(np.quantile(row.astype(np.float64), alpha)) for row in logprobs])


def quantile_features(logprobs: Rows, extra: bool) -> np.ndarray:
    """What a learned rule sees of the tokens.

    Args:
        logprobs: One array [tokens] for each answer.
        extra: Sum, mean and the logarithm of the length as well.

    Returns:
        [answers, features]
    """
    cut = [np.maximum(row.astype(np.float64), LEAST) for row in logprobs]
    features = np.stack([np.quantile(row, GRID) for row in cut])
    if not extra:
        return features
    lengths = np.log([len(row) for row in logprobs])
    return np.column_stack([features, chow_sum(cut), chow_average(cut), lengths])


def ranks(scores: np.ndarray, tie_seed: int) -> np.ndarray:
    """int64 [answers]: 0 for the answer that is deferred first, that of the lowest score; ties in a drawn order."""
    order = np.random.default_rng(tie_seed).permutation(len(scores))
    ranks = np.empty(len(scores), np.int64)
    ranks[order[np.argsort(scores[order], kind="stable")]] = np.arange(len(scores))
    return ranks


def curve(small: np.ndarray, large: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Quality at every share of deferred answers.

    Args:
        small: [answers] quality of the small model's answers.
        large: [answers] of the large model's.
        ranks: [answers] from `ranks`.

    Returns:
        [answers + 1] mean quality when the first 0, 1, ... of them are deferred.
    """
    first = np.argsort(ranks)
    gains = (large - small)[first]
    return np.asarray((small.sum() + np.concatenate([[0.0], np.cumsum(gains)])) / len(small))


def areas(small: np.ndarray, large: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """What each question adds to the area under the curve: their mean is the area by the trapezoidal rule.

    A question of rank k of N is deferred over a share of 1 - (k + 1/2) / N of the curve.
    """
    deferred = 1 - (ranks + 0.5) / len(ranks)
    return np.asarray(small + (large - small) * deferred)


def random_area(small: np.ndarray, large: np.ndarray) -> float:
    """The area of a rule that knows nothing."""
    return float(small.mean() + large.mean()) / 2


def best_alpha(logprobs: Rows, small: np.ndarray, large: np.ndarray, tie_seed: int) -> float:
    """The quantile of `ALPHAS` with the largest area; of equal ones the first."""
    return max(
        ALPHAS,
        key=lambda alpha: float(areas(small, large, ranks(chow_quantile(logprobs, alpha), tie_seed)).mean()),
    )
