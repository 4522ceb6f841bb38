"""The regularised preference loss on the shared trainer."""

import torch
from torch import Tensor

from recipes.alignment.config import PreferenceConfig
from recipes.alignment.losses import PreferenceBatch
from recipes.alignment.objectives import Beside, Preference, TokenScores, sum_count
from recipes.alignment.pairs import TOKENS, by_row
from recipes.alignment.t_reg.config import RegConfig
from recipes.alignment.t_reg.method import pair_weight, regulariser
from recipes.core.models.precision import exact

REWARDS = "rewards"


class Regularised(Preference):
    """DPO or SimPO with L = L_pref + alpha w (L_REG(y_w) + L_REG(y_l)).

    Args:
        config: The loss.
        reg: Its regulariser.
        scores: What computes the per-token scores.
    """

    def __init__(self, config: PreferenceConfig, reg: RegConfig, scores: TokenScores) -> None:
        super().__init__(config, scores)
        self.reg = reg

    def weigh(
        self, pairs: PreferenceBatch, beside: Beside, batch: dict[str, Tensor]
    ) -> tuple[PreferenceBatch, Tensor | float, dict[str, Tensor]]:
        """The pairs as they are, the regulariser of each, and how it goes."""
        rewards = by_row(batch[TOKENS + REWARDS], beside.lengths)
        half = len(rewards) // 2
        given = (rewards[:half], rewards[half:])
        weight = self.weight(pairs)
        terms = {
            side: regulariser(getattr(pairs, side), values, self.config.beta, self.config.loss == "simpo")
            for side, values in zip(("chosen", "rejected"), given, strict=True)
            if self.reg.sides in ("both", side)
        }
        penalty = self.reg.alpha * weight * torch.stack(list(terms.values())).sum(0)
        return pairs, penalty, _metrics(pairs, weight, penalty, given)

    def weight(self, pairs: PreferenceBatch) -> Tensor:
        """[pairs] what the regulariser of each is multiplied by besides alpha."""
        weight = pair_weight(pairs, self.config.loss, self.config.beta, self.config.gamma)
        if self.reg.weight == "static":
            return torch.full_like(weight, self.reg.static, requires_grad=False)
        return weight.detach() if self.reg.detach_w else weight


@torch.no_grad()
def _metrics(
    pairs: PreferenceBatch, weight: Tensor, penalty: Tensor, given: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    bad = [
        exact(side.logps)[side.mask.bool() & (values < 0)]
        for side, values in zip((pairs.chosen, pairs.rejected), given, strict=True)
    ]
    return {
        "reg/weight": sum_count(weight),
        "reg/penalty": sum_count(penalty),
        # The regulariser has no lower bound: it shows first in the log-probs of tokens of negative reward.
        "reg/logp_negative": sum_count(torch.cat(bad)),
    }
