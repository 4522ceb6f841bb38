"""Whatever is not finite stops training at its step, names the examples and is never saved."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recipes.core.errors import RunFailed
from recipes.core.losses.objectives import WEIGHT_MAX
from recipes.core.runs import checkpoints
from recipes.core.training.divergence import StepCheck
from recipes.pretraining.sample_reweighting.config import ReweightConfig
from recipes.pretraining.sample_reweighting.objectives import Weighing
from tests.core.training.test_trainer import TokenMean, go

BREAKS_AT = 6


class Breaks(TokenMean):
    """Goes wrong in one step, in one way."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor) -> tuple[Tensor, dict[str, Any]]:
        loss, metrics = super().__call__(model, batch, normalizer)
        if self.calls < BREAKS_AT:
            return loss, metrics
        parameter = next(model.parameters())
        if self.how == "loss":
            loss = loss * torch.inf
        elif self.how == "gradient":  # of a square root at 0, while the loss is finite
            loss = loss + (parameter * 0).abs().sum().sqrt()
        elif self.how == "weights":
            with torch.no_grad():
                parameter.view(-1)[0] = torch.nan
            loss = loss.detach() * 0 + 1 + sum(value.sum() * 0 for value in list(model.parameters())[1:])
        else:
            loss = loss * 0
            metrics |= {WEIGHT_MAX: torch.tensor([0.0, 1.0])}
        return loss, metrics


SAYS = {
    "loss": "the loss is inf",
    "gradient": "the norm of the gradient is nan",
    "weights": "is not finite any more",
    "nothing": "every token weighs 0, so that nothing is trained",
}


@pytest.mark.parametrize("how", SAYS)
def test_training_stops_at_the_step_that_broke(how: str, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=f"{SAYS[how]} at step {BREAKS_AT}\n") as caught:
        go(tmp_path, objective=Breaks(how), save_steps=1)
    assert caught.value.where.startswith("batch of item-") and "look at these examples" in caught.value.hint
    assert ("trainer.learning_rate" in caught.value.hint) == (how != "nothing")  # no rate is the cause of weights of 0
    newest = checkpoints.newest_valid(tmp_path / "checkpoints", say=print)
    assert newest is not None and newest.name == f"checkpoint-{BREAKS_AT - 1}"
    weights = torch.load(newest / "optimizer.pt", weights_only=True)["state"][0]["exp_avg"]
    assert torch.isfinite(weights).all()


def test_large_weights_are_finite_weights() -> None:
    check, model = StepCheck(), nn.Linear(2, 2)
    check.begin(1)
    nn.init.constant_(model.weight, 1e38)  # its square is not
    check.weights(model)
    nn.init.constant_(model.weight, -torch.inf)
    with pytest.raises(RunFailed, match="weight is not finite any more at step 1"):
        check.weights(model)
    model.requires_grad_(False)
    check.weights(model)  # what is not trained is as it came


@pytest.mark.parametrize("strategy", ["uniform", "linupper", "kl_dro"])
def test_samples_that_are_all_excluded_make_the_loss_nan(strategy: str) -> None:
    weigh, lengths = Weighing(ReweightConfig(strategy=strategy)), torch.ones(3)
    assert weigh(torch.full((3,), torch.inf), lengths).coefficients.isnan().all()
    assert weigh(torch.ones(3), lengths * 0).coefficients.isnan().all()
    some = weigh(torch.tensor([1.0, torch.nan, 2.0]), lengths).coefficients
    assert some[1] == 0 and some.sum() == pytest.approx(1)
