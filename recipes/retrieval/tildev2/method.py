"""Weighed terms: the score of a passage, the likelihood of terms, and which terms a passage lacks. Tensors alone.

Symbols: B queries of n tokens, C passages of m tokens, V entries of the vocabulary.
"""

from collections.abc import Iterable, Sequence
from math import log

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def score_matrix(query_ids: Tensor, query_weights: Tensor, passage_ids: Tensor, weights: Tensor) -> Tensor:
    """s(q, p) = sum over i of v_i W_p[t_i], where W_p[t] = max over the tokens j of p with p_j = t of w_j.

    A term that stands several times in a query counts each time; one that the passage lacks gives 0.

    Args:
        query_ids: int64 [B, n]
        query_weights: [B, n] v: 1 for a term that counts, 0 for one that does not and for padding.
        passage_ids: int64 [C, m]
        weights: [C, m] w, not negative; 0 for padding.

    Returns:
        [B, C] scores, not negative.

    Source:
        arXiv 2108.08513, equations 2 and 3.
    """
    asked, place = query_ids.unique(return_inverse=True)  # [u] terms, [B, n] which of them
    counts = query_weights.new_zeros(len(query_ids), len(asked)).scatter_add(1, place, query_weights)
    column = torch.searchsorted(asked, passage_ids).clamp(max=len(asked) - 1)
    matched = torch.where(asked[column] == passage_ids, weights, 0)  # what is not asked for lies nowhere
    largest = weights.new_zeros(len(passage_ids), len(asked)).scatter_reduce(1, column, matched, "amax")
    return counts @ largest.T


def term_sets(ids: Tensor, vocabulary: int, stop: Tensor) -> Tensor:
    """float [rows, V] 1 for the terms of each row of ids [rows, T], 0 elsewhere and for those that `stop` [V] holds."""
    sets = torch.zeros(len(ids), vocabulary, device=ids.device).scatter_(1, ids, 1.0)
    return sets.masked_fill_(stop, 0.0)


def likelihood_losses(of_passage: Tensor, of_query: Tensor, query: Tensor, passage: Tensor, valid: Tensor) -> Tensor:
    """[B] loss of TILDE: the passage is to predict the terms of its query, the query those of its passage.

    (sum over valid t of BCE(x_t, query_t) + sum over valid t of BCE(y_t, passage_t)) / (2 N_valid)

    Args:
        of_passage: [B, V] logits x.
        of_query: [B, V] logits y.
        query, passage: [B, V] 1 for the terms that they hold.
        valid: bool [V] the terms.

    Source:
        `modeling.py` of the official code; from logits, as log(sigmoid) overflows; ours: the mean over pairs.
    """
    pairs = ((of_passage, query), (of_query, passage))
    losses = [
        binary_cross_entropy_with_logits(logits[:, valid], sets[:, valid], reduction="none").sum(1)
        for logits, sets in pairs
    ]
    return (losses[0] + losses[1]) / (2 * int(valid.sum()))


def log_likelihoods(logits: Tensor) -> Tensor:
    """log10 sigmoid of logits, by which TILDE ranks: of the terms of a query those of passages are summed."""
    return torch.nn.functional.logsigmoid(logits) / log(10)


def likely_terms(logits: Tensor, top: int) -> Tensor:
    """int64 [rows, top] the terms with the largest logits [rows, V], the largest first; of equal ones the first."""
    return logits.argsort(dim=1, descending=True, stable=True)[:, :top]


def missing_terms(likely: Iterable[int], present: Iterable[int], bad: frozenset[int]) -> list[int]:
    """Those of some terms that a passage neither holds nor may be expanded by, in their order."""
    there = set(present)
    return [term for term in likely if term not in there and term not in bad]


def expand(row: Sequence[int], terms: Sequence[int], longest: int) -> list[int]:
    """Terms behind the ids of a passage, whose closing SEP stays where it is; what is too long is cut."""
    return [*row, *terms][:longest]
