"""Preference losses: pure functions of per-token log-probs, with one hook for token weights.

Every loss takes a `PreferenceBatch` and its own coefficients and returns one value a pair (`kto`: one an answer),
whose mean is the loss of the batch. `LOSSES` lists them by name with what each needs beyond the policy's log-probs.

Names of sums over the completion tokens of an answer: L of the policy's log-probs l, r of the log-ratios l - l_ref,
both of w x token where weights w are given; n tokens; SeqKL of KL(reference || policy) over the whole vocabulary.
Subscripts w and l are the chosen and the rejected answer, and h = r_w - r_l.

Everything is computed in fp32 (float64 for float64 inputs). Tokens outside the completion mask never matter, not even
if they are NaN.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import log
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from recipes.core.models.precision import exact


@dataclass(frozen=True)
class Completions:
    """One answer a row, its tokens beside each other; the entry of a token is that of the position predicting it.

    Attributes:
        logps: [rows, time] log-probs under the policy, in nats.
        mask: [rows, time] bool or 0/1, the completion tokens: end of text included, prompt and padding not.
        ref_logps: [rows, time] log-probs under the reference.
        kl: [rows, time] KL between reference and policy over the whole vocabulary, at the position of the token.
        log_squares: [rows, time] log of the sum of the policy's squared probabilities.
        weights: [rows, time] what the log-prob or log-ratio of each token is multiplied by; ones if left out.
        kl_weights: [rows, time] what the KL of each token is multiplied by; ones if left out.
    """

    logps: Tensor
    mask: Tensor
    ref_logps: Tensor | None = None
    kl: Tensor | None = None
    log_squares: Tensor | None = None
    weights: Tensor | None = None
    kl_weights: Tensor | None = None

    @property
    def lengths(self) -> Tensor:
        """[rows] number of completion tokens, at least 1."""
        return self.mask.sum(1).clamp(min=1)

    def logp(self) -> Tensor:
        """[rows] weighted sum of the policy's log-probs."""
        return self._sum(self.logps, self.weights)

    def mean_logp(self) -> Tensor:
        """[rows] that sum divided by the number of tokens, whatever they weigh."""
        return self.logp() / self.lengths

    def log_ratio(self) -> Tensor:
        """[rows] weighted sum of the log-ratios of policy and reference."""
        return self._sum(exact(self.logps) - exact(require(self.ref_logps, "ref_logps")), self.weights)

    def mean_log_ratio(self) -> Tensor:
        """[rows] that sum divided by the number of tokens, whatever they weigh."""
        return self.log_ratio() / self.lengths

    def sequence_kl(self) -> Tensor:
        """[rows] weighted sum of the token KLs."""
        return self._sum(require(self.kl, "kl"), self.kl_weights)

    def confidence(self) -> Tensor:
        """[rows] geometric mean of p(token) / sum_v p(v)^2, without gradient (WPO's weight of an answer)."""
        aligned = exact(self.logps.detach()) - exact(require(self.log_squares, "log_squares").detach())
        return (self._sum(aligned, None) / self.lengths).exp()

    def _sum(self, values: Tensor, weights: Tensor | None) -> Tensor:
        mask = self.mask.bool()
        values = torch.where(mask, exact(values), 0)
        if weights is not None:
            values = values * torch.where(mask, exact(weights), 0)
        return values.sum(1)


@dataclass(frozen=True)
class PreferenceBatch:
    """Pairs of answers. `kto` alone allows different numbers of chosen and rejected ones.

    Attributes:
        chosen: [pairs, time] the preferred answers.
        rejected: [pairs, time] the others; `time` may differ from that of `chosen`.
        nll: What `orpo` takes the NLL of, if more than the chosen completion: there, the tokens of prompt and
            completion.
        nll_length: Scalar, mean number of tokens of an NLL row in the global batch: every token of the batch then
            counts the same. If left out, every answer counts the same.
        score_gap: [pairs] > 0, score of the chosen less that of the rejected answer.
        mismatched: [rows] summed log-ratios of completions behind the prompts of others, of the global batch.
    """

    chosen: Completions
    rejected: Completions
    nll: Completions | None = None
    nll_length: Tensor | float | None = None
    score_gap: Tensor | None = None
    mismatched: Tensor | None = None

    def margin(self) -> Tensor:
        """[pairs] h, the difference of the summed log-ratios."""
        return self.chosen.log_ratio() - self.rejected.log_ratio()

    def mean_margin(self) -> Tensor:
        """[pairs] the difference of the mean log-ratios."""
        return self.chosen.mean_log_ratio() - self.rejected.mean_log_ratio()


def sft(batch: PreferenceBatch) -> Tensor:
    """NLL of the chosen answer, -L_w / n_w."""
    return _nll(batch, batch.chosen)


def dpo(batch: PreferenceBatch, *, beta: float = 0.1) -> Tensor:
    """Direct preference optimisation. Source: arXiv 2305.18290, Eq. 7: -log sigmoid(beta h)."""
    return -logsigmoid(beta * batch.margin())


def dpo_smooth(batch: PreferenceBatch, *, beta: float = 0.1, label_smoothing: float = 0.1) -> Tensor:
    """Conservative DPO: a share of the labels is expected to be wrong.

    Source: E. Mitchell's note on noisy preferences: -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h).
    """
    z = beta * batch.margin()
    return -(1 - label_smoothing) * logsigmoid(z) - label_smoothing * logsigmoid(-z)


def dpo_robust(batch: PreferenceBatch, *, beta: float = 0.1, label_smoothing: float = 0.1) -> Tensor:
    """DPO unbiased under flipped labels (`label_smoothing` < 0.5). It has no lower bound: clip the gradient.

    Source: arXiv 2403.00409: [-(1 - e) log sigmoid(beta h) + e log sigmoid(-beta h)] / (1 - 2e).
    """
    z = beta * batch.margin()
    mixed = -(1 - label_smoothing) * logsigmoid(z) + label_smoothing * logsigmoid(-z)
    return mixed / (1 - 2 * label_smoothing)


def hinge(batch: PreferenceBatch, *, beta: float = 0.1) -> Tensor:
    """The margin loss of SLiC and RSO, max(0, 1 - beta h)."""
    return torch.relu(1 - beta * batch.margin())


def ipo(batch: PreferenceBatch, *, beta: float = 0.1, reduction: str = "mean") -> Tensor:
    """Identity preference optimisation; beta is the paper's tau.

    Args:
        batch: The pairs.
        beta: Regularisation; the margin is drawn to 1 / (2 beta).
        reduction: "mean" takes h of mean log-ratios, as the authors' results did; "sum" is the formula as printed.

    Source:
        arXiv 2310.12036, Eq. 17: (h - 1 / (2 tau))^2.
    """
    h = batch.mean_margin() if reduction == "mean" else batch.margin()
    return (h - 1 / (2 * beta)) ** 2


def dpo_mean(batch: PreferenceBatch, *, beta: float = 2.0) -> Tensor:
    """DPO of mean log-ratios, -log sigmoid(beta (r_w / n_w - r_l / n_l)); beta is about n times that of `dpo`."""
    return -logsigmoid(beta * batch.mean_margin())


def simpo(batch: PreferenceBatch, *, beta: float = 2.0, gamma: float = 0.5) -> Tensor:
    """SimPO, without reference. The authors' code gives gamma as beta x its `gamma_beta_ratio`.

    Source: arXiv 2405.14734, Eq. 6: -log sigmoid(beta (L_w / n_w - L_l / n_l) - gamma).
    """
    return -logsigmoid(beta * (batch.chosen.mean_logp() - batch.rejected.mean_logp()) - gamma)


def cpo(batch: PreferenceBatch, *, beta: float = 0.1, nll_weight: float = 1.0) -> Tensor:
    """Contrastive preference optimisation, without reference.

    Source: arXiv 2401.08417: -log sigmoid(beta (L_w - L_l)) + a NLL_w.
    """
    preference = -logsigmoid(beta * (batch.chosen.logp() - batch.rejected.logp()))
    return preference + nll_weight * _nll(batch, batch.chosen)


def orpo(batch: PreferenceBatch, *, beta: float = 0.1) -> Tensor:
    """Odds-ratio preference optimisation, without reference; beta is the paper's lambda.

    Source: arXiv 2403.07691, Eq. 6: NLL - lambda log sigmoid(log odds_w - log odds_l), odds of the mean log-prob.
    """
    odds = _log_odds(batch.chosen.mean_logp()) - _log_odds(batch.rejected.mean_logp())
    return _nll(batch, batch.nll or batch.chosen) - beta * logsigmoid(odds)


def kto(
    batch: PreferenceBatch, *, beta: float = 0.1, desirable_weight: float = 1.0, undesirable_weight: float = 1.0
) -> Tensor:
    """Kahneman-Tversky optimisation of single answers, the chosen ones desirable, the rejected ones not.

    Returns:
        [chosen + rejected] one value an answer.

    Source:
        arXiv 2402.01306, Eq. 8: w_D (1 - sigmoid(beta (r - z))) and w_U (1 - sigmoid(beta (z - r))), with
        z = max(0, mean log-ratio of mismatched completions), through which no gradient flows.
    """
    z = exact(require(batch.mismatched, "mismatched")).detach().mean().clamp(min=0)
    # 1 - sigmoid(x) written as sigmoid(-x) keeps its digits.
    desirable = desirable_weight * torch.sigmoid(beta * (z - batch.chosen.log_ratio()))
    undesirable = undesirable_weight * torch.sigmoid(beta * (batch.rejected.log_ratio() - z))
    return torch.cat([desirable, undesirable])


def tdpo1(batch: PreferenceBatch, *, beta: float = 0.1) -> Tensor:
    """Token-level DPO, version 1; the gradient flows through both KLs.

    Source: arXiv 2404.11999: -log sigmoid(beta (h - (SeqKL_l - SeqKL_w))).
    """
    delta = batch.rejected.sequence_kl() - batch.chosen.sequence_kl()
    return -logsigmoid(beta * (batch.margin() - delta))


def tdpo2(batch: PreferenceBatch, *, beta: float = 0.1, alpha: float = 0.5) -> Tensor:
    """Token-level DPO, version 2; no gradient flows through the KL of the chosen answer.

    Source: arXiv 2404.11999: -log sigmoid(beta (h - alpha (SeqKL_l - stopgrad(SeqKL_w)))).
    """
    delta = batch.rejected.sequence_kl() - batch.chosen.sequence_kl().detach()
    return -logsigmoid(beta * (batch.margin() - alpha * delta))


def rpo(batch: PreferenceBatch, *, beta: float = 0.1, nll_weight: float = 1.0) -> Tensor:
    """DPO with the NLL of the chosen answer beside it. Source: arXiv 2404.19733: dpo + alpha NLL_w."""
    return dpo(batch, beta=beta) + nll_weight * _nll(batch, batch.chosen)


def dpop(batch: PreferenceBatch, *, beta: float = 0.1, lam: float = 50.0) -> Tensor:
    """DPO-Positive (Smaug): the chosen answer may not become less likely than under the reference.

    Source: arXiv 2402.13228: -log sigmoid(beta (h - lambda max(0, -r_w))).
    """
    return -logsigmoid(beta * (batch.margin() - lam * torch.relu(-batch.chosen.log_ratio())))


def odpo(batch: PreferenceBatch, *, beta: float = 0.1, alpha: float = 1.0) -> Tensor:
    """DPO with an offset that grows with how much better the chosen answer is scored.

    Source: arXiv 2402.10571: -log sigmoid(beta h - alpha log(score_w - score_l)).
    """
    offset = alpha * exact(require(batch.score_gap, "score_gap")).log()
    return -logsigmoid(beta * batch.margin() - offset)


def wpo(batch: PreferenceBatch, *, beta: float = 0.1) -> Tensor:
    """DPO of pairs weighted by how likely the policy itself would write them.

    Source: arXiv 2406.11827, Eq. 2: w_w w_l dpo, w = exp(mean_t [l_t - log sum_v p(v)^2]) without gradient.
    """
    return batch.chosen.confidence() * batch.rejected.confidence() * dpo(batch, beta=beta)


@dataclass(frozen=True)
class Loss:
    """A loss by name.

    Attributes:
        compute: From a `PreferenceBatch` and the coefficients to one value a pair.
        needs: Optional fields of `Completions` and `PreferenceBatch` that it has to have.
        optional: Those that it reads if they are there.
    """

    compute: Callable[..., Tensor]
    needs: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    @property
    def coefficients(self) -> dict[str, Any]:
        """The keywords that `compute` takes, with their defaults."""
        parameters = inspect.signature(self.compute).parameters
        return {name: parameter.default for name, parameter in parameters.items() if name != "batch"}


LOSSES = {
    "sft": Loss(sft, optional=("nll_length",)),
    "dpo": Loss(dpo, ("ref_logps",)),
    "dpo_smooth": Loss(dpo_smooth, ("ref_logps",)),
    "dpo_robust": Loss(dpo_robust, ("ref_logps",)),
    "hinge": Loss(hinge, ("ref_logps",)),
    "ipo": Loss(ipo, ("ref_logps",)),
    "dpo_mean": Loss(dpo_mean, ("ref_logps",)),
    "simpo": Loss(simpo),
    "cpo": Loss(cpo, optional=("nll_length",)),
    "orpo": Loss(orpo, optional=("nll_length", "nll")),
    "kto": Loss(kto, ("ref_logps", "mismatched")),
    "tdpo1": Loss(tdpo1, ("ref_logps", "kl")),
    "tdpo2": Loss(tdpo2, ("ref_logps", "kl")),
    "rpo": Loss(rpo, ("ref_logps",), ("nll_length",)),
    "dpop": Loss(dpop, ("ref_logps",)),
    "odpo": Loss(odpo, ("ref_logps", "score_gap")),
    "wpo": Loss(wpo, ("ref_logps", "log_squares")),
}


@torch.no_grad()
def implicit_rewards(batch: PreferenceBatch, beta: float) -> tuple[Tensor, Tensor]:
    """([chosen], [rejected]) beta x summed log-ratio, every token weighing 1; a pair is right if chosen > rejected."""
    chosen, rejected = (replace(side, weights=None).log_ratio() for side in (batch.chosen, batch.rejected))
    return beta * chosen, beta * rejected


def require(values: Tensor | None, name: str) -> Tensor:
    """The values.

    Raises:
        ValueError: they were left out of the batch.
    """
    if values is None:
        raise ValueError(f"this loss reads {name}, which the batch does not have")
    return values


def _nll(batch: PreferenceBatch, answers: Completions) -> Tensor:
    return -answers.logp() / (answers.lengths if batch.nll_length is None else batch.nll_length)


def _log_odds(mean_logp: Tensor) -> Tensor:
    """log(p / (1 - p)) of a log-prob, finite even for a certain answer."""
    m = mean_logp.clamp(max=-torch.finfo(mean_logp.dtype).eps)
    # Each form of log(1 - exp(m)) keeps its digits on one side of -log 2.
    return m - torch.where(m < -log(2), torch.log1p(-m.exp()), torch.log(-torch.expm1(m)))
