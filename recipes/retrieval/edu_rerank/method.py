"""The losses of EDU plans: of the plan generator, of the writer that follows plans, and of the re-ranker.

Source: arXiv 2305.17779, sections 4 and 5; `model/` and `BRIO/` of griff4692/edu-sum.
"""

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, relu

MASKED = -1000.0  # score of what a plan cannot take
SHARPNESS = 10.0  # of soft labels
SMALLEST = 1e-20


def mask_scores(scores: Tensor, previous: Tensor, lengths: Tensor) -> Tensor:
    """Scores of what may follow: units behind the last one, and STOP.

    Args:
        scores: [batch, steps, units + 1], STOP last.
        previous: [batch, steps] unit that was taken last, -1 at the start.
        lengths: [batch] units of each document; what is beyond is padding.

    Returns:
        The same with -1000 for units up to the last one, and for padding.
    """
    places = torch.arange(scores.shape[-1], device=scores.device)
    closed = (places <= previous[..., None]) | (places >= lengths[:, None, None])
    closed[..., -1] = False
    return scores.masked_fill(closed, MASKED)


def plan_nll(scores: Tensor, targets: Tensor, is_step: Tensor) -> Tensor:
    """[batch] mean over a plan's steps, STOP included, of -log p of what the oracle takes.

    Args:
        scores: [batch, steps, units + 1], masked.
        targets: [batch, steps] number of the unit, or of STOP.
        is_step: bool [batch, steps].
    """
    nll = -log_softmax(scores, -1).gather(-1, targets[..., None]).squeeze(-1)
    return nll.masked_fill(~is_step, 0.0).sum(1) / is_step.sum(1)


def salience_kl(salience: Tensor, labels: Tensor, is_unit: Tensor) -> Tensor:
    """[batch] KL(softmax(10 * labels) || softmax(salience)) over the units of a document.

    Args:
        salience: [batch, units] scores of the salience head.
        labels: [batch, units] the largest alignment of each unit.
        is_unit: bool [batch, units].
    """
    hidden = ~is_unit
    target = log_softmax((SHARPNESS * labels).masked_fill(hidden, MASKED), -1)
    predicted = log_softmax(salience.masked_fill(hidden, MASKED), -1)
    return (target.exp() * (target - predicted)).masked_fill(hidden, 0.0).sum(-1)


def smoothed(log_terms: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """[tokens] (1 - eps) * (-l_y) + eps / V * sum_v (-l_v).

    Args:
        log_terms: [tokens, V] a log term of each item of the vocabulary.
        targets: [tokens] the right one.
        smoothing: eps.
    """
    right = -log_terms.gather(-1, targets[:, None]).squeeze(-1)
    return (1 - smoothing) * right - smoothing * log_terms.mean(-1)


def smoothed_nll(logits: Tensor, targets: Tensor, smoothing: float = 0.1) -> Tensor:
    """[tokens] label-smoothed NLL."""
    return smoothed(log_softmax(logits.float(), -1), targets, smoothing)


def smoothed_unlikelihood(logits: Tensor, targets: Tensor, smoothing: float = 0.1) -> Tensor:
    """[tokens] label-smoothed unlikelihood: the log term of v is log(clamp(1 - p_v, 1e-20))."""
    others = (1 - log_softmax(logits.float(), -1).exp()).clamp_min(SMALLEST)
    return smoothed(others.log(), targets, smoothing)


def margin_loss(scores: Tensor, is_candidate: Tensor, margin: float = 0.001) -> Tensor:
    """[documents] sum over i < j of max(0, f_j - f_i + (j - i) * margin), candidates sorted from the best.

    Args:
        scores: [documents, candidates] f.
        is_candidate: bool, the same shape; those that are none stand last.
        margin: By which the better of two neighbours is to lead.
    """
    rank = torch.arange(scores.shape[1], device=scores.device)
    behind = rank[None, :] - rank[:, None]  # j - i
    loss = relu(scores[:, None, :] - scores[:, :, None] + behind.to(scores.dtype) * margin)
    counts = (behind > 0) & is_candidate[:, None, :] & is_candidate[:, :, None]
    return loss.masked_fill(~counts, 0.0).sum((1, 2))


def length_normalised(log_prob: float, steps: int, alpha: float) -> float:
    """sum log p / steps^alpha; minus infinity of nothing."""
    return log_prob / steps**alpha if steps else float("-inf")
