"""What a row of the decoder sees, bags of words, and the similarity of two parts: pure functions of tensors.

Symbols: L tokens x_0 = [CLS] to x_{L-1} = [SEP], vocabulary V, h the encoder's state of [CLS], G [L, V] the logits of
its ordinary tokens.

    M_ij  = 1 if token j is not hidden by the mask that row i drew, and j != i         a row never sees itself
    mu_v  = max_i G_iv                                                                 over ordinary tokens
    L_bow = - sum over distinct x of w_x log softmax(mu)_x                             w_x = 1 / L', or 1
    sim   = h'_q . h'_d + sum over i in I_d of mu_q[i] mu_d[i]                         I_d: the k largest of mu_d

Source:
    RetroMAE-2 / DupMAE (arXiv 2305.02564, 2211.08769), Sections 3.2 to 3.4; weights of the bag as in the official code.
"""

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, relu

from recipes.core.models.precision import exact


def visible_tokens(hidden: Tensor, picks: Tensor) -> Tensor:
    """What each row of a sequence sees.

    Args:
        hidden: bool [masks, L] tokens that each mask hides.
        picks: int64 [L] the mask of each row.

    Returns:
        bool [L, L], True where a row sees a token; never itself.
    """
    seen: Tensor = ~hidden[picks]
    return seen.fill_diagonal_(False)


def bag_loss(mu: Tensor, types: Tensor, weights: Tensor) -> Tensor:
    """- sum_x w_x log softmax(mu)_x of each text.

    Args:
        mu: [B, V]
        types: int64 [B, T] distinct tokens of each text, padded with any.
        weights: [B, T] of each, 0 for padding.

    Returns:
        [B]
    """
    return -(log_softmax(exact(mu), 1).gather(1, types) * weights).sum(1)


def activate(mu: Tensor, how: str) -> Tensor:
    """mu as similarities read it: log(1 + relu(mu)), relu(mu), or as it is ("none")."""
    if how == "none":
        return exact(mu)
    positive = relu(exact(mu))
    return positive.log1p() if how == "relu_log1p" else positive


def top_terms(mu: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Of each row of mu [N, V] the k largest, or all: int64 [N, k] terms and [N, k] values, falling."""
    values, terms = mu.topk(min(k, mu.shape[1]), 1)
    return terms, values


def similarity(cls: Tensor, mu: Tensor, cls_of: Tensor, terms: Tensor, values: Tensor) -> Tensor:
    """sim(q, d) of all pairs.

    Args:
        cls: [B, d] dense part of the queries; d may be 0.
        mu: [B, V] of the queries.
        cls_of: [C, d] dense part of the documents.
        terms: int64 [C, k] the terms I_d of each document; k may be 0.
        values: [C, k] its mu at them.

    Returns:
        [B, C]
    """
    return cls @ cls_of.T + torch.einsum("bck,ck->bc", mu[:, terms], values)


def whole_vectors(cls: Tensor, terms: Tensor, values: Tensor, vocabulary: int) -> Tensor:
    """[N, d + V] vectors of documents whose product with [cls, mu] of a query is `similarity`; 0 outside of I_d."""
    sparse = values.new_zeros(len(values), vocabulary).scatter_(1, terms, values)
    return torch.cat([cls, sparse], 1)
