"""Scores of passages from the tokens that a search returns: in training over a batch, then over a collection."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

Array = Tensor | np.ndarray


def similarities(queries: Tensor, passages: Tensor) -> Tensor:
    """[B, n, d] and [C, m, d] vectors of tokens to [B, n, C, m] products."""
    return torch.einsum("bnd,cmd->bncm", queries, passages)


def sum_of_max(values: Tensor, query_mask: Tensor, passage_mask: Tensor) -> Tensor:
    """[B, C] f_C(Q, D) = (1/n) sum_i max_j q_i.d_j over the tokens of each query and passage.

    Args:
        values: [B, n, C, m] from `similarities`.
        query_mask: [B, n] bool, False for padding.
        passage_mask: [C, m] bool, the same.

    Source:
        arXiv 2304.01982, equation 1.
    """
    best = values.masked_fill(~passage_mask, -torch.inf).amax(3)
    return _mean(best, query_mask[:, :, None].expand_as(best), query_mask.sum(1)[:, None])


def retrieved_max(values: Tensor, query_mask: Tensor, passage_mask: Tensor, k: int, over_all: bool = False) -> Tensor:
    """[B, C] f_X(Q, D) = (1/Z) sum_i max_j A_ij q_i.d_j.

    A_ij is 1 for the k highest of all tokens in the batch for query token i, a constant. A query token that returned
    none of D adds 0; Z counts those that did, and where none did the score is 0, without a gradient.

    Args:
        values: [B, n, C, m] from `similarities`.
        query_mask: [B, n] bool, False for padding.
        passage_mask: [C, m] bool, the same; padding is never returned.
        k: k_train; as many as there are if there are fewer.
        over_all: Divide by the n tokens of the query in place of Z.

    Source:
        arXiv 2304.01982, equation 4; footnote 4 on the divisor. Selected scores below 0 count as they are, which
        differs from implementations that set others to 0 before the maximum.
    """
    batch, tokens, passages, width = values.shape
    flat = values.masked_fill(~passage_mask, -torch.inf).flatten(2)
    top = flat.topk(min(k, flat.shape[2]), dim=2)
    none = flat.new_full((batch, tokens, passages), -torch.inf)
    best = none.scatter_reduce(2, top.indices // width, top.values, "amax")
    returned = (best > -torch.inf) & query_mask[:, :, None]
    counts = query_mask.sum(1)[:, None].expand(batch, passages) if over_all else returned.sum(1)
    return _mean(best, returned, counts)


def _mean(best: Tensor, counted: Tensor, divisor: Tensor) -> Tensor:
    """Sum over query tokens [B, n, C] of what is counted, over a divisor [B, C] of at least 1."""
    return best.masked_fill(~counted, 0).sum(1) / divisor.clamp(min=1)


class Scored(NamedTuple):
    """Candidates of a query.

    Attributes:
        passages: int64 [c] their numbers, rising.
        scores: float64 [c].
        tokens: int64 [c] pairs of a query token and a token of the passage that it returned.
    """

    passages: Tensor
    scores: Tensor
    tokens: Tensor


def impute(scores: Tensor, how: str, constant: float = 0.0) -> Tensor | None:
    """[n] what counts for a passage of which a query token returned nothing; None: the mean leaves it out.

    Args:
        scores: [n, k'] of each query token, falling: the last is an upper bound of what is missing if the search is
            exact.
        how: "topk_min", "zero", "const", "none".
        constant: For "const".
    """
    if how == "none":
        return None
    if how == "topk_min":
        return scores[:, -1].double()
    return torch.full((len(scores),), constant if how == "const" else 0.0, dtype=torch.float64, device=scores.device)


def score_retrieved(scores: Array, owners: Array, missing: Array | None, counted: Array | None = None) -> Scored:
    """f'(Q, D) = (1/n) sum_i (the highest score of D that q_i returned, else m_i), of passages with a returned token.

    No matrix of imputed values is made: (1/n) (sum_i m_i + sum over what was returned of (score - m_i)).

    Args:
        scores: [n, k'] of the tokens that each query token returned, falling; all are arrays, or on the CPU.
        owners: int64 [n, k'] the passage of each.
        missing: m_i [n]; None: the mean is over the query tokens that returned one.
        counted: bool [n, k'] what is a token of its own, and not the one before once more; None: all.

    Source:
        arXiv 2304.01982, equation 5.
    """
    (query_tokens, k), size, values = scores.shape, scores.shape[0] * scores.shape[1], np.asarray(scores).ravel()
    # One sort in NumPy, which needs a quarter of the time of several tensor operations on so few numbers. What was
    # returned is ordered by passage, then query token, then score: of a pair of both the first is the highest.
    keys = np.sort(np.asarray(owners, np.int64).ravel() * size + np.arange(size))
    pairs = keys // k
    first = _starts(pairs)
    owner = pairs[first] // query_tokens
    starts = _starts(owner)
    best = values[keys[first] - owner * size]
    if missing is not None:
        best = best - np.asarray(missing, best.dtype)[pairs[first] - owner * query_tokens]
    sums = np.add.reduceat(best.astype(np.float64), starts)
    if missing is None:
        means = sums / np.diff(starts, append=len(first))
    else:
        means = (float(missing.sum()) + sums) / query_tokens
    if counted is None:
        tokens = np.diff(first[starts], append=size)
    else:
        tokens = np.add.reduceat(np.asarray(counted).ravel()[keys % size].astype(np.int64), first[starts])
    return Scored(*map(torch.from_numpy, (owner[starts], means, tokens)))


def _starts(values: np.ndarray) -> np.ndarray:
    """Where runs of equal values begin, of at least one."""
    begins = np.empty(len(values), bool)
    begins[0] = True
    np.not_equal(values[1:], values[:-1], out=begins[1:])
    return begins.nonzero()[0]


def score_all(query: Tensor, vectors: Tensor, owners: Tensor, count: int) -> Tensor:
    """[count] f_C of passages whose tokens are given, (1/n) sum_i max_j q_i.d_j; -inf of one without tokens.

    Args:
        query: [n, d]
        vectors: [tokens, d] of all these passages.
        owners: int64 [tokens] the passage of each, below `count`.
        count: How many passages.
    """
    best = query.new_full((len(query), count), -torch.inf)
    values = query @ vectors.T
    return best.scatter_reduce_(1, owners.expand_as(values), values, "amax").double().mean(0)
