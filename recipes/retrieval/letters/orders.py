"""An order of passages from the logits of their names. Pure functions of tensors."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def name_scores(logits: Tensor, forms: Sequence[Sequence[int]]) -> Tensor:
    """[rows, n] of each name the largest logit of the tokens that say it.

    Args:
        logits: [rows, V] of the next token.
        forms: Tokens of each name.
    """
    return torch.stack([logits[:, list(tokens)].amax(1) for tokens in forms], 1)


def visible(logits: Tensor, count: int) -> Tensor:
    """[rows, V] the largest `count` logits of each row, -inf elsewhere: what a server says of a next token."""
    seen = torch.zeros_like(logits, dtype=torch.bool)
    seen.scatter_(1, logits.topk(min(count, logits.shape[1]), dim=1).indices, True)
    return logits.masked_fill(~seen, -torch.inf)


def order_of(scores: Tensor) -> list[int]:
    """Places by falling scores [n]; of equal ones, as of those that were not seen, the first stays in front."""
    return scores.argsort(descending=True, stable=True).tolist()


def name_orders(
    logits: Tensor, forms: Sequence[Sequence[int]], counts: Sequence[int], best: int | None = None
) -> list[list[int]]:
    """Order of each list by the logits of its names; a name that is not seen follows in the order of the prompt.

    Args:
        logits: [lists, V] of the next token.
        forms: Tokens that say each name.
        counts: Passages of each list.
        best: How many of all tokens, the likeliest, are seen, as by a server; None: all.
    """
    scores = name_scores(logits if best is None else visible(logits, best), forms)
    return [order_of(row[:count]) for row, count in zip(scores, counts, strict=True)]


def kendall_tau(first: Sequence[int], second: Sequence[int]) -> float:
    """(concordant - discordant) / pairs of two orders of the same n > 1 places."""
    a, b = np.argsort(first), np.argsort(second)  # rank of each place
    above = np.triu_indices(len(a), 1)
    signs = np.sign(a[:, None] - a[None])[above] * np.sign(b[:, None] - b[None])[above]
    return float(signs.mean())
