"""The mathematics of cDPO: contrast distribution, token weights, losses. Pure functions.

Names: s_t is the score of token t, its probability under the contrast of a positive and a negative model; a low score
marks a critical token. u_t is the log-ratio of policy and reference.

Source: arXiv 2411.19943 (Critical Tokens Matter, ICML 2025) and its code.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from recipes.alignment.losses import Completions, PreferenceBatch, dpo, require
from recipes.core.losses.logprobs import CHUNK, Logits
from recipes.core.models.precision import exact, softmax_dtype


class Contrast(NamedTuple):
    """What the two models say of each token, in nats.

    Attributes:
        log_s: [N] log of its score.
        log_positive: [N] its log-prob under the positive model.
        log_negative: [N] the same under the negative model.
    """

    log_s: Tensor
    log_positive: Tensor
    log_negative: Tensor


@torch.no_grad()
def contrast(positive: Logits, negative: Logits, targets: Tensor, beta_ce: float = 1.0, chunk: int = CHUNK) -> Contrast:
    """Scores of tokens under the contrast of two models, without gradient.

    Args:
        positive: Logits [n, V] of the positive model for a slice of the N tokens, as from `projected`.
        negative: The same of the negative model.
        targets: [N] int64 token ids.
        beta_ce: Strength of the contrast; 0 leaves the positive model.
        chunk: Tokens whose logits exist at a time.

    Source:
        log s = (1 + b) log P_p(y) - b log P_n(y) - log Z, which is softmax((1 + b) z_p - b z_n)[y] of the logits z.
    """
    parts: list[Tensor] = []
    for start in range(0, len(targets), chunk):
        part = slice(start, start + chunk)
        z = positive(part)
        dtype = softmax_dtype(z.dtype)
        logp, logn = torch.log_softmax(z, 1, dtype=dtype), torch.log_softmax(negative(part), 1, dtype=dtype)
        mixed = torch.log_softmax((1 + beta_ce) * logp - beta_ce * logn, 1)
        at = targets[part, None]
        parts.append(torch.cat([mixed.gather(1, at), logp.gather(1, at), logn.gather(1, at)], 1))
    columns = torch.cat(parts) if parts else torch.zeros(0, 3, device=targets.device)
    return Contrast(*columns.unbind(1))


def weights_of(kind: str, scores: Mapping[str, np.ndarray], important: np.ndarray | None, seed: int) -> np.ndarray:
    """What each token of some rejected answers weighs.

    Args:
        kind: contrast: 1 - s. surprisal: 1 - P_p(y), the same without the negative model. ratio: 1 - min(1, P_p / P_n),
            the same without the softmax. random: those of contrast in another order. uniform: their mean.
            oracle: 1 on the first wrong token and 0 elsewhere.
        scores: The fields of `Contrast` as [tokens].
        important: bool [tokens]: the first wrong token of each answer.
        seed: Of the order.

    Returns:
        float32 [tokens] in [0, 1].

    Raises:
        ValueError: oracle, and nobody knows the first wrong tokens.
    """
    if kind == "oracle":
        if important is None:
            raise ValueError("nobody knows the first wrong tokens of these answers")
        return important.astype(np.float32)
    if kind == "surprisal":
        return -np.expm1(scores["log_positive"])
    if kind == "ratio":
        return -np.expm1(np.minimum(scores["log_positive"] - scores["log_negative"], 0))
    weights = -np.expm1(scores["log_s"])
    if kind == "random":
        return np.random.default_rng([seed, 2]).permutation(weights)
    return np.full_like(weights, weights.mean()) if kind == "uniform" and len(weights) else weights


def cdpo(batch: PreferenceBatch, weights: Tensor, *, beta: float = 0.1) -> Tensor:
    """The loss of each pair.

    Args:
        batch: The pairs, with `ref_logps`.
        weights: [pairs, time] 1 - s of the rejected tokens. No gradient flows into them.
        beta: The paper's gamma.

    Returns:
        [pairs]

    Source:
        -log sigmoid(gamma sum u_t (chosen) - gamma sum (1 - s_t) u_t (rejected)). Ones give DPO.
    """
    return dpo(replace(batch, rejected=replace(batch.rejected, weights=weights.detach())), beta=beta)


def positionwise(batch: PreferenceBatch, *, beta: float = 0.1) -> Tensor:
    """DPO as the released code computes it: a logistic loss at each position, chosen token against rejected token.

    Args:
        batch: The pairs, chosen and rejected answers [pairs, time] with equal `time` and their tokens from 0 on.
        beta: Strength of the pull to the reference.

    Returns:
        [pairs] sum over the positions where either answer has a token; the code's mean also counts prompt and padding,
        each of which adds log 2.
    """
    margins = _log_ratios(batch.chosen) - _log_ratios(batch.rejected)
    some = batch.chosen.mask.bool() | batch.rejected.mask.bool()
    return torch.where(some, -logsigmoid(beta * margins), 0).sum(1)


def _log_ratios(side: Completions) -> Tensor:
    ratios = exact(side.logps) - exact(require(side.ref_logps, "ref_logps"))
    weighed = ratios if side.weights is None else ratios * exact(side.weights)
    return torch.where(side.mask.bool(), weighed, 0)
