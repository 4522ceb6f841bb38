"""PRIOR and its relatives as pure math: scores of caption tokens, and how they become a loss.

Scores say how much a token should count before normalisation. The way through, for every weighting:

    scores (below) -> word_pool -> [permute_within, for `random`] -> loss_coefficients
    loss = sum(coefficients * nll) / normalizer

All tensors are padded [batch, time] over predicted caption tokens (end of text included, image positions
excluded), `mask` is bool, NLLs are in nats. No weight carries a gradient.
"""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d

from recipes.core.losses.weights import apply_cap, apply_floor, normalize_mean_one, sequence_means


def ntp_scores(mask: Tensor) -> Tensor:
    """Next-token prediction: every token counts the same."""
    return mask.to(torch.float32)


def prior_scores(ref_nll: Tensor, mask: Tensor, alpha: float = 1.0) -> Tensor:
    """Importance of tokens: how badly a text-only reference predicts them.

    Args:
        ref_nll: [batch, time] NLL under the frozen reference.
        mask: [batch, time].
        alpha: Exponent; 0 is next-token prediction.

    Returns:
        (1 - p_ref)^alpha in [0, 1], [batch, time].

    Source:
        arXiv 2505.08971, importance score w_i.
    """
    return torch.where(mask, _one_minus_p(ref_nll) ** alpha, 0)


def inverse_scores(ref_nll: Tensor, mask: Tensor) -> Tensor:
    """The opposite of PRIOR, expected to hurt grounding: weight p_ref."""
    return torch.where(mask, torch.exp(-_exact(ref_nll)), 0)


def drop_scores(ref_nll: Tensor, mask: Tensor, keep: float) -> Tensor:
    """Hard selection: 1 for the tokens of each caption that the reference predicts worst, 0 for the rest.

    Args:
        ref_nll: [batch, time] NLL under the frozen reference.
        mask: [batch, time].
        keep: Share of a caption's tokens to keep, rounded up; of equals, the earlier ones.
    """
    # The slack keeps 0.7 * 10 = 7.000000000000001 from rounding up to 8.
    count = (mask.sum(1, keepdim=True).double() * keep - 1e-6).ceil().clamp(min=1)
    order = torch.where(mask, ref_nll, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1)
    return (mask & (rank < count)).to(torch.float32)


def surprisal_scores(ref_nll: Tensor, mask: Tensor, cap: float) -> Tensor:
    """Weight -log p_ref, at most `cap` nats."""
    return torch.where(mask, _exact(ref_nll).clamp(max=cap), 0)


def focal_scores(live_nll: Tensor, mask: Tensor, alpha: float = 1.0) -> Tensor:
    """(1 - p)^alpha of the model in training: hard for the model, rather than hard for text.

    Args:
        live_nll: [batch, time] NLL under the live model; detached here.
        mask: [batch, time].
        alpha: Exponent.
    """
    return prior_scores(live_nll.detach(), mask, alpha)


def oracle_scores(determined: Tensor, mask: Tensor) -> Tensor:
    """1 on the tokens known to be determined by the image ([batch, time] bool), 0 elsewhere."""
    return (mask & determined).to(torch.float32)


def cal_scores(logit_difference: Tensor, mask: Tensor, low: float = 1.0, high: float = 5.0, window: int = 3) -> Tensor:
    """Contrastive alignment: how much the image raises a token's logit, clamped and smoothed over neighbours.

    Args:
        logit_difference: [batch, time] logit of the target with the image minus without it; detached here.
        mask: [batch, time].
        low: Lower clamp.
        high: Upper clamp.
        window: Odd width of the mean; at a caption's ends it covers the neighbours that exist.

    Source:
        foundation-multimodal-models/CAL (NeurIPS 2024): AvgPool3(clamp(difference, 1, 5)).
    """
    clamped = torch.where(mask, _exact(logit_difference).detach().clamp(low, high), 0)
    sums, present = (avg_pool1d(x[:, None], window, 1, window // 2)[:, 0] for x in (clamped, mask.to(clamped.dtype)))
    return torch.where(mask, sums / present, 0)


def word_pool(scores: Tensor, mask: Tensor, word_index: Tensor, how: str) -> Tensor:
    """Give every piece of a word the word's largest or mean score.

    Continuation pieces of a rare noun are easy for text alone and would lose their weight.

    Args:
        scores: [batch, time].
        mask: [batch, time].
        word_index: [batch, time] int, the word a piece belongs to; negative: no word, the score stays.
        how: "none", "max" or "mean".
    """
    if how == "none":
        return scores
    starts = (word_index < 0) | ~mask
    starts[:, 1:] |= word_index[:, 1:] != word_index[:, :-1]
    starts[:, :1] = False
    word = starts.cumsum(1)
    reduce = {"max": "amax", "mean": "mean"}[how]
    return torch.zeros_like(scores).scatter_reduce(1, word, scores, reduce, include_self=False).gather(1, word)


def token_weights(scores: Tensor, mask: Tensor, floor: float = 0.0, cap: float | None = None) -> Tensor:
    """Weights of mean 1 in each caption: normalised, then floored, then capped.

    Args:
        scores: [batch, time] non-negative.
        mask: [batch, time].
        floor: Uniform share of every weight, 0 to 1.
        cap: Where to clip before normalising again; None for no clipping.

    Returns:
        [batch, time]; uniform where all scores of a caption vanish, zero at padding.

    Source:
        arXiv 2505.08971: k * w_i / sum_j w_j; floor and cap are ours.
    """
    weights = apply_floor(normalize_mean_one(scores, mask), mask, floor)
    return weights if cap is None else apply_cap(weights, mask, cap)


def loss_coefficients(
    scores: Tensor, mask: Tensor, reduction: str = "token", floor: float = 0.0, cap: float | None = None
) -> tuple[Tensor, Tensor]:
    """What to multiply each token's NLL by, and what to divide the sum by.

    Args:
        scores: [batch, time] non-negative.
        mask: [batch, time].
        reduction: "token": mean over predicted tokens. "caption": mean over captions of their token means.
            "global_norm": sum w nll / sum w, so captions of low scores lose weight as a whole; floor and cap
            act inside each caption and leave its mean score.
        floor: As in `token_weights`.
        cap: As in `token_weights`.

    Returns:
        Coefficients [batch, time] and the scalar normalizer of this batch; both add up over micro-batches and
        processes, so a global batch divides the summed losses by the summed normalizers.
    """
    weights = token_weights(scores, mask, floor, cap)
    tokens = mask.sum(1, keepdim=True)
    if reduction == "token":
        return weights, tokens.sum().to(weights.dtype)
    if reduction == "caption":
        return weights / tokens.clamp(min=1), (tokens > 0).sum().to(weights.dtype)
    if reduction == "global_norm":
        coefficients = weights * sequence_means(scores, mask)[:, None]
        return coefficients, coefficients.sum()
    raise ValueError(f"unknown reduction {reduction!r}; use token, caption or global_norm")


def _exact(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _one_minus_p(nll: Tensor) -> Tensor:
    """1 - exp(-nll) without cancellation near p = 1."""
    return -torch.expm1(-_exact(nll))
