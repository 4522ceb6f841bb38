"""Flow matching from image to noise, its samplers, guidance, and the Frechet distance. Pure functions."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

LAST_SDE_TIME = 0.04


def interpolate(clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """F = (1 - t) X + t eps; t = 0 is clean, t = 1 noise. `times` broadcasts against the others."""
    return torch.lerp(clean, noise, times)


def velocity(clean: Tensor, noise: Tensor) -> Tensor:
    """V = eps - X, the target; X = F - t V."""
    return noise - clean


def score(states: Tensor, velocities: Tensor, time: float) -> Tensor:
    """Score (-(1 - t) v - x) / t of the states at time t; -eps / t where v is the true velocity."""
    return (-(1 - time) * velocities - states) / time


def drift(states: Tensor, velocities: Tensor, time: float) -> Tensor:
    """d = v - t s = (2 - t) v + x, of the reverse stochastic equation."""
    return (2 - time) * velocities + states


def sampler_times(stochastic: bool, steps: int) -> list[float]:
    """The S + 1 times between which S steps go, from 1 to 0.

    Source:
        arXiv 2502.20388, code: linspace(1, 0.04, S) then 0 for the stochastic sampler, linspace(1, 0, S + 1) else.
    """
    if stochastic:
        return [*torch.linspace(1, LAST_SDE_TIME, steps, dtype=torch.float64).tolist(), 0.0]
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist()


def sampler_step(states: Tensor, velocities: Tensor, time: float, after: float, noise: Tensor | None) -> Tensor:
    """States at time `after` < `time`.

    Args:
        states: At `time`.
        velocities: Of the model.
        time: t.
        after: t + dt.
        noise: N(0, 1) for an Euler-Maruyama step x + d dt + sqrt(2t |dt|) noise, which takes none where it ends at 0;
            None: an Euler step x + v dt.
    """
    change = after - time
    if noise is None:
        return states + velocities * change
    moved = states + drift(states, velocities, time) * change
    return moved + (2 * time * -change) ** 0.5 * noise if after > 0 else moved


def guidance_of(strength: float, linear: bool, entity: int, entities: int) -> float:
    """g_n = 1 + (strength - 1) n / (K - 1); the full strength where it is constant, or K = 1."""
    return 1 + (strength - 1) * entity / (entities - 1) if linear and entities > 1 else strength


def guided(conditional: Tensor, unconditional: Tensor, weight: float) -> Tensor:
    """v_null + g (v_cond - v_null); as the drift is linear in v, guidance of either is that of both."""
    return torch.lerp(unconditional, conditional, weight)


def ema_update(decay: float) -> Callable[[list[Tensor], list[Tensor], Tensor], None]:
    """Average of weights for `AveragedModel`: a + (1 - d) (w - a) with d = min(decay, (1 + n) / (10 + n)) at step n.

    Early averages hold little of the first weights, which a constant decay of .999 keeps for thousands of steps.
    """

    def update(averages: list[Tensor], weights: list[Tensor], count: Tensor) -> None:
        number = int(count)
        torch._foreach_lerp_(averages, weights, 1 - min(decay, (1 + number) / (10 + number)))

    return update


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and covariance [D, D] of features [n, D] in float64."""
    exact = features.astype(np.float64)
    return exact.mean(0), np.cov(exact, rowvar=False)


def frechet_distance(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> float:
    """Squared Frechet distance of two normal distributions, |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).

    Args:
        first: Mean [D] and covariance [D, D], positive semi-definite.
        second: The same of the other.

    Source:
        Heusel et al., arXiv 1706.08500, equation 6; the root by eigenvalues of C1^(1/2) C2 C1^(1/2).
    """
    (mean, covariance), (other_mean, other) = first, second
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ other @ root).clip(0)).sum()
    apart = ((mean - other_mean) ** 2).sum()
    return float(max(apart + np.trace(covariance) + np.trace(other) - 2 * shared, 0.0))
