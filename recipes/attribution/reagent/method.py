"""ReAGent: credit for tokens from replaced random subsets of them. Pure functions of tensors.

    D   = p(y | x) - p(y | x with the tokens in R replaced)
    S_i = S_i + L  for i in R,  S_i - L  elsewhere,     L = log((1 + D) / (1 - D))
    s   = softmax(S), kept as its logarithm: after many subsets all shares but one are 0 in floats

A probe stops when its most important tokens alone, all others replaced, bring y back among the likeliest.

Source:
    arXiv 2402.00794, algorithm 1; released code and `inseq` where the paper is silent.
"""

import math

import torch
from torch import Tensor

CLAMP = 1e-6  # of (D + 1) / 2, so that a certain prediction that is lost gives no infinite credit


def credit(drop: Tensor) -> Tensor:
    """L = logit((D + 1) / 2) of drops of probability D in [-1, 1]."""
    return torch.logit((drop.double() + 1) / 2, eps=CLAMP)


def update(scores: Tensor, replaced: Tensor, drop: Tensor) -> Tensor:
    """Scores after one subset.

    Args:
        scores: [n, t] of each probe.
        replaced: bool [n, t] the subset R. An empty one says nothing.
        drop: [n] D.
    """
    change = credit(drop) * replaced.any(-1)
    return scores + torch.where(replaced, change[:, None], -change[:, None])


def log_importance(scores: Tensor, free: Tensor, divisor: Tensor | float = 1.0) -> Tensor:
    """[n, t] logarithm of the softmax of scores over the tokens that are free to be replaced; -inf for the others.

    Args:
        scores: [n, t]
        free: bool [n, t]
        divisor: What scores are divided by: the steps of each probe [n, 1] for their mean.
    """
    return (scores / divisor).masked_fill(~free, -torch.inf).log_softmax(-1)


def stop_test_size(share: float, free: int) -> int:
    """How many of `free` tokens a stop test leaves as they are: the share of them, rounded up, at least one, never all.

    The paper's top n. With all of them the test would read the text itself, and always stop.
    """
    return max(1, min(math.ceil(share * free - 1e-9), free - 1))


def most_important(scores: Tensor, free: Tensor, counts: Tensor) -> Tensor:
    """bool [n, t] the `counts` [n] free tokens of each probe with the highest scores; of equal ones the first."""
    order = scores.masked_fill(~free, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    return order.argsort(-1) < counts[:, None]


def combine(logs: Tensor, stopped: Tensor) -> Tensor:
    """[t] log importance of a prediction: of the mean over its probes that stopped, over all where none did.

    Args:
        logs: [probes, t] of `log_importance`.
        stopped: bool [probes]
    """
    meant = logs[stopped] if stopped.any() else logs
    return meant.logsumexp(0) - math.log(len(meant))


def rationale(kept: Tensor, overlap: int) -> Tensor:
    """bool [t] tokens that at least `overlap` probes keep, of bool [probes, t]."""
    return kept.sum(0) >= min(overlap, len(kept))
