"""Linear regression in three regimes: redundant rows, where reweighting should help, and two where it should not.

Source: the linear-regression figure of arXiv 2502.06733; the isotropic and the corrupted regime are ours, as controls.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recipes.core.evaluation.scores import Scores
from recipes.pretraining.sample_reweighting import method
from recipes.pretraining.sample_reweighting.config import RegressionConfig, SampleReweightingConfig

SMALLEST = 1e-30  # losses below are rounding
DESCENT_ROWS, DESCENT_FEATURES = 200, 20


@dataclass(frozen=True)
class Regime:
    """One data set: training rows x [rows, features], y [rows] and test rows, float64."""

    name: str
    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def make_regimes(config: RegressionConfig, seed: int) -> list[Regime]:
    """The regimes of a seed. They share parameters and test rows.

    Args:
        config: Sizes and shares.
        seed: Of everything drawn.
    """
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    theta, test_x, x = (
        normal(config.features),
        normal(config.test_rows, config.features),
        normal(config.rows, config.features),
    )
    noise = normal(config.rows) * config.noise
    chance = torch.rand(2, config.rows, generator=draw, dtype=torch.float64)
    regimes = []
    for name in config.regimes:
        rows = x.clone()
        if name == "redundant":
            rows[chance[0] < config.redundant, config.features // 2 :] = 0
        y = rows @ theta
        if name == "corrupted":
            y = y + torch.where(chance[1] < config.corrupted, noise, 0)
        regimes.append(Regime(name, rows, y, test_x, test_x @ theta))
    return regimes


class LinearModels(nn.Module):
    """One parameter vector for each regime, zero at the start.

    Args:
        regimes: How many.
        features: Of a row.
    """

    def __init__(self, regimes: int, features: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(regimes, features, dtype=torch.float64))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x [regimes, b, features], y [regimes, b] -> squared error / 2, [regimes, b]."""
        error: Tensor = torch.einsum("rbf,rf->rb", x, self.theta) - y
        return error.square() / 2


class Rows:
    """The rows of all regimes, the same row of each together. An item depends on its index only.

    Args:
        regimes: The data sets.
        size: Number of items; after the last row comes the first again.
    """

    def __init__(self, regimes: list[Regime], size: int) -> None:
        self.x, self.y = (torch.stack([getattr(regime, name) for regime in regimes]) for name in ("x", "y"))
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = index % self.x.shape[1]
        return {"id": f"row {row}", "x": self.x[:, row], "y": self.y[:, row]}


def collate_rows(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows as a batch: x [regimes, b, features], y [regimes, b]."""
    batch: dict[str, Any] = {name: torch.stack([item[name] for item in items], 1) for name in ("x", "y")}
    return batch | {"ids": [item["id"] for item in items]}


def log_losses(regimes: list[Regime], model: LinearModels) -> Scores:
    """Natural logarithm of each regime's mean test loss; the first regime is also `log_loss`, the claim's metric."""
    scores = Scores()
    theta = model.theta.detach().cpu()
    for index, regime in enumerate(regimes):
        loss = ((regime.test_x @ theta[index] - regime.test_y).square() / 2).mean()
        value = float(loss.clamp_min(SMALLEST).log())
        name = f"log_loss/{regime.name}" if index else "log_loss"
        scores.define(name, f"log of the test loss, {regime.name} rows", higher_is_better=False)
        scores.add(name, "test rows", regime.name, value)
    return scores


def descent_metrics(scores: Scores, config: SampleReweightingConfig) -> dict[str, float]:
    """The bound of weighted gradient descent, checked at every step of a run of its own."""
    steps = config.evaluation.descent_steps
    if not steps:
        return {}
    random = np.random.default_rng(config.seed)
    x = torch.from_numpy(random.standard_normal((DESCENT_ROWS, DESCENT_FEATURES)))
    theta = torch.from_numpy(random.standard_normal(DESCENT_FEATURES))
    reweight = config.reweight
    descent = method.descend(x, x @ theta, torch.zeros_like(theta), theta, reweight.strategy, steps, reweight.r)
    titles = {
        "descent/over_bound": "steps at which descent exceeds its bound",
        "descent/covariance": "mean covariance of weight and gap (tightens the bound if positive)",
        "descent/uniform_gap": "mean unweighted gap of full-batch descent",
        "descent/bound": "bound of the mean weighted gap",
    }
    for name, title in titles.items():
        scores.define(name, title, higher_is_better=name == "descent/covariance")
    values = (
        float((descent.weighted_gap > descent.bound).sum()),
        float(descent.covariance[-1]),
        float(descent.uniform_gap[-1]),
        float(descent.bound[-1]),
    )
    return dict(zip(titles, values, strict=True))
