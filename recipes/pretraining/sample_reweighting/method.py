"""Sample weights from the losses of a batch. Pure functions of tensors: no config, device or logging.

Source: arXiv 2502.06733 (Sow, Woisetschlaeger, Bulusu, Wang, Jacobsen, Liang; ICLR 2025).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

EQUAL = 1e-6  # losses closer than this, in nats, are equal


def normalized_losses(losses: Tensor, alpha: float, kept: Tensor | None = None) -> Tensor:
    """Losses mapped linearly so that the smallest of the batch is -alpha and the largest alpha.

    Args:
        losses: [M] in nats.
        alpha: Half the width of the range.
        kept: [M] bool, the losses that take part; all finite ones if left out.

    Returns:
        [M] float64; zeros where all losses are equal within 1e-6, arbitrary where a loss does not take part.

    Source:
        h = 2 alpha l / D - alpha (l_max + l_min) / D with D = l_max - l_min, in a form that keeps its digits.
    """
    kept = torch.isfinite(losses) if kept is None else kept
    exact = torch.where(kept, losses, torch.nan).double()
    if not kept.any():
        return torch.zeros_like(exact)
    low, high = exact[kept].min(), exact[kept].max()
    span = high - low
    return alpha * (2 * (exact - low) / span - 1) if span >= EQUAL else torch.zeros_like(exact)


def preferences(losses: Tensor, strategy: str, alpha: float, kept: Tensor | None = None) -> Tensor:
    """How much each sample is preferred before the softmax, s = f(h).

    Args:
        losses: [M] in nats.
        strategy: One of `STRATEGIES` of the recipe's config.
        alpha: Half the width of the normalised range.
        kept: [M] bool, as in `normalized_losses`.

    Returns:
        [M] float64.

    Source:
        Section on strategies: linupper min(h + alpha, alpha); quadratic 1 - h^2 / alpha^2; extremes |h|;
        upper_linear (h + alpha) / 2; kl_dro the loss itself (HardFocus, arXiv 2402.14270).
    """
    if strategy == "uniform":
        return torch.zeros_like(losses, dtype=torch.float64)
    if strategy == "kl_dro":
        return losses.double()
    h = normalized_losses(losses, alpha, kept)
    if strategy == "linupper":
        return (h + alpha).clamp(max=alpha)
    if strategy == "quadratic":
        return 1 - (h / alpha) ** 2
    if strategy == "extremes":
        return h.abs()
    return 0.5 * (h + alpha)


def sample_weights(
    losses: Tensor, strategy: str, alpha: float = 1.0, r: float = 1.0, kept: Tensor | None = None
) -> Tensor:
    """Weights of the samples of one batch: non-negative, of sum 1, without gradient.

    Args:
        losses: [M] mean loss of each sample in nats, of the whole batch that is weighed together.
        strategy: One of `STRATEGIES`.
        alpha: Half the width of the normalised range.
        r: Temperature; infinity is uniform.
        kept: [M] bool, False where a sample has no token that carries loss.

    Returns:
        [M] float64. A sample that is not kept, or whose loss is not finite, weighs 0; all zero if none is left.

    Source:
        Eq. 4: w = exp(s / r) / sum exp(s / r), the maximum of sum w s - r KL(w || uniform) over the simplex.
    """
    losses = losses.detach()
    kept = torch.isfinite(losses) if kept is None else kept & torch.isfinite(losses)
    if not kept.any():
        return torch.zeros_like(losses, dtype=torch.float64)
    scores = preferences(losses, strategy, alpha, kept) / r
    return torch.softmax(scores.masked_fill(~kept, -torch.inf), 0)


def coefficients(weights: Tensor, lengths: Tensor, length_correction: bool) -> Tensor:
    """What each sample's mean loss is multiplied by.

    Args:
        weights: [M] of sum 1.
        lengths: [M] tokens that carry loss.
        length_correction: False: the weights themselves. True: w T / sum w T, which with uniform weights is the mean
            over tokens.
    """
    if not length_correction:
        return weights
    scaled = weights * lengths
    return scaled / scaled.sum().clamp_min(torch.finfo(scaled.dtype).tiny)


def temperature(step: int, r: float, warmup_steps: int, warmup_r: float | None) -> float:
    """The temperature of a step (counted from 0): `warmup_r` (None: infinity) until `warmup_steps`, then `r`."""
    if step >= warmup_steps:
        return r
    return float("inf") if warmup_r is None else warmup_r


def effective_share(weights: Tensor) -> Tensor:
    """Effective sample size 1 / sum w^2 as a share of the samples; 0 if all weights are 0."""
    squares = weights.square().sum()
    return torch.where(squares > 0, weights.sum().square() / (squares * len(weights)).clamp_min(1e-300), squares)


@dataclass(frozen=True)
class Descent:
    """Weighted gradient descent beside its bound, averaged over the steps until each step.

    Attributes:
        weighted_gap: [steps] mean of sum_i w_i (f_i - f_i*).
        covariance: [steps] mean of C_t = sum_i (w_i - 1/M)(f_i - f_i*).
        bound: [steps] what the weighted gap may not exceed.
    """

    weighted_gap: Tensor
    covariance: Tensor
    bound: Tensor

    @property
    def uniform_gap(self) -> Tensor:
        """[steps] mean of the unweighted gap: the weighted one less the covariance."""
        return self.weighted_gap - self.covariance


def descend(x: Tensor, y: Tensor, start: Tensor, minimum: Tensor, strategy: str, steps: int, r: float = 1.0) -> Descent:
    """Full-batch weighted gradient descent on noiseless least squares, with the step 1 / (2 L).

    Args:
        x: [M, d] float64 features.
        y: [M] targets, `x @ minimum`.
        start: [d] first parameters.
        minimum: [d] the common minimiser of all f_i = (x_i theta - y_i)^2 / 2.
        strategy: One of `STRATEGIES`.
        steps: How many.
        r: Temperature.

    Source:
        For convex, L-smooth f_i with a common minimiser and 0 < eta < 1 / L: (1/T) sum_t sum_i w_i^t (f_i - f_i*) <=
        |x^0 - x*|^2 / (2 eta (1 - eta L) T). L is the largest |x_i|^2.
    """
    smoothness = x.square().sum(1).max()
    eta = 1 / (2 * smoothness)
    theta, gaps, covariances = start.clone(), [], []
    for _ in range(steps):
        error = x @ theta - y
        losses = error.square() / 2
        weights = sample_weights(losses, strategy, r=r)
        gaps.append(weights @ losses)
        covariances.append((weights - 1 / len(y)) @ losses)
        theta = theta - eta * (x.t() @ (weights * error))
    count = torch.arange(1, steps + 1, dtype=x.dtype)
    bound = (start - minimum).square().sum() / (2 * eta * (1 - eta * smoothness) * count)
    return Descent(torch.stack(gaps).cumsum(0) / count, torch.stack(covariances).cumsum(0) / count, bound)
