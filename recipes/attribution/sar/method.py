"""Uncertainty of sampled answers: tokens weighted by relevance, samples by agreement. Pure functions of arrays.

Source:
    arXiv 2307.01379 (SAR); semantic entropy is arXiv 2302.09664. Larger always means more uncertain.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import logsumexp

Rows = Sequence[np.ndarray]


def sums(nlls: Rows) -> np.ndarray:
    """[samples] predictive entropy PE of each answer; `nlls` has its tokens' NLL in nats, one array [tokens] each."""
    return np.array([row.sum(dtype=np.float64) for row in nlls])


def means(nlls: Rows) -> np.ndarray:
    """[samples] length-normalised PE of each answer: the mean NLL of its tokens."""
    return np.array([row.sum(dtype=np.float64) / len(row) for row in nlls])


def normalised(relevance: np.ndarray) -> np.ndarray:
    """[tokens] relevances divided by their sum; all equal if none has any (equation 6)."""
    total = relevance.sum(dtype=np.float64)
    return relevance / total if total > 0 else np.full(len(relevance), 1 / len(relevance))


def token_sar(nlls: Rows, weights: Rows) -> np.ndarray:
    """[samples] sum_i w_i nll_i of each answer, the weights of an answer summing to 1 (equations 7 and 8)."""
    return np.array([float(row.astype(np.float64) @ w) for row, w in zip(nlls, weights, strict=True)])


def shifted(energies: np.ndarray, likeness: np.ndarray, t: float) -> np.ndarray:
    """Uncertainty of each answer when the others vouch for it (equations 4, 9 and 11).

    -log(exp(-e_j) + 1/t sum_{k != j} g_jk exp(-e_k)), in logarithms: exp(-e) of a long answer is 0 in floats.

    Args:
        energies: [samples] e: PE for sentSAR, tokenSAR for SAR.
        likeness: [samples, samples] g in [0, 1]; the diagonal is not read.
        t: Temperature: the smaller, the more agreement counts.

    Returns:
        float64 [samples]
    """
    energies = np.asarray(energies, np.float64)
    with np.errstate(divide="ignore"):  # an answer that is like none adds nothing: exp(-inf)
        terms = np.log(np.asarray(likeness, np.float64)) - np.log(t) - energies[None, :]
    np.fill_diagonal(terms, -energies)
    return -np.asarray(logsumexp(terms, axis=1))


def semantic_entropy(energies: np.ndarray, clusters: np.ndarray, average: str) -> float:
    """Minus the mean log-probability of a meaning.

    Args:
        energies: [samples] mean NLL of each answer.
        clusters: int [samples] which meaning it has.
        average: "cluster": every meaning counts once, as in the official code; "sample": as often as it was sampled.
    """
    marks = np.unique(clusters)
    mass = {mark: float(logsumexp(-energies[clusters == mark])) for mark in marks}
    over = marks if average == "cluster" else clusters
    return -float(np.mean([mass[mark] for mark in over]))


def meanings(count: int, same: Callable[[int, int], bool]) -> np.ndarray:
    """int [samples]: each answer joins the first cluster whose first member means the same; else it begins one."""
    first, clusters = list[int](), np.empty(count, np.int64)
    for number in range(count):
        joined = next((mark for mark, member in enumerate(first) if same(member, number)), len(first))
        if joined == len(first):
            first.append(number)
        clusters[number] = joined
    return clusters


def lexical(likeness: np.ndarray) -> float:
    """Minus the mean likeness of the pairs of answers; `likeness` [samples, samples] is their Rouge-L F."""
    return -float(likeness[np.triu_indices(len(likeness), 1)].mean())
