"""How often draws are accepted, measured beforehand: by their number (Sequoia), or by their share (`est=calibrated`).

Nothing is decoded for it but a few texts of the target: at each of their positions both distributions are known, and
the chance of each draw with them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Acceptance:
    """Draws at positions of text. float64 [positions, draws] each.

    Attributes:
        shares: Probability of each among the tokens not drawn before it.
        reached: Probability that those before it were all rejected; 0 where nothing was left to draw.
        accepted: Probability that it is accepted then.
    """

    shares: np.ndarray
    reached: np.ndarray
    accepted: np.ndarray

    def by_number(self) -> list[float]:
        """Of the first, second, ... draw: how often it is accepted where it is reached."""
        times = self.reached.sum(0)
        rates = (self.reached * self.accepted).sum(0) / np.where(times > 0, times, 1)
        return [float(rate) for rate in rates]

    def by_share(self) -> Callable[[float], float]:
        """A share -> how often draws of such a share are accepted: the monotone least-squares fit."""
        from scipy.optimize import isotonic_regression

        shares, weights, accepted = (each.ravel() for each in (self.shares, self.reached, self.accepted))
        order = np.argsort(shares, kind="stable")
        order = order[weights[order] > 1e-9]
        fit = isotonic_regression(accepted[order], weights=weights[order])
        # The ends of each step of the fit say all of it.
        starts = fit.blocks[:-1]
        points = np.unique(np.concatenate([starts, fit.blocks[1:] - 1]))
        at, rates = shares[order][points], fit.x[points]
        return lambda share: float(np.interp(share, at, rates))


@torch.no_grad()
def acceptance(target: Tensor, draft: Tensor, draws: int, generator: torch.Generator) -> Acceptance:
    """Draw at each position as trees do, without replacement, and go through the rounds of verification.

    Args:
        target: float64 [positions, vocabulary] distributions of the target.
        draft: float64 [positions, vocabulary] those of the draft model.
        draws: Draws at each position.
        generator: On the CPU.
    """
    order = (draft / torch.empty_like(draft).exponential_(generator=generator)).topk(draws, -1).indices
    rest, left, reach = target.clone(), draft.clone(), torch.ones(len(draft), dtype=torch.float64)
    columns = []
    for token in order.split(1, -1):
        share = left.gather(1, token)[:, 0]
        chance = torch.where(share > 0, rest.gather(1, token)[:, 0] / share.clamp_min(1e-300), 0).clamp(max=1)
        reached = torch.where(share > 0, reach, 0)
        columns.append(torch.stack([share, reached, chance]))
        excess = (rest - left).clamp_min(0)
        mass = excess.sum(-1, keepdim=True)
        rest = torch.where(mass > 0, excess / mass.clamp_min(1e-300), rest)
        left = left.scatter(1, token, 0.0)
        left = left / left.sum(-1, keepdim=True).clamp_min(1e-300)
        reach = reach * (1 - chance)
    shares, reached, accepted = torch.stack(columns, -1).numpy()
    return Acceptance(shares, reached, accepted)
