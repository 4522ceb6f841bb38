"""What is read off learning curves."""

from dataclasses import replace

import pytest

from recipes.core.config.settings import EarlyStoppingConfig, TrainerConfig
from recipes.core.evaluation.curves import over_training


@pytest.mark.parametrize(
    ("metric", "text"), [(None, "mean over training"), ("log_loss", "mean over training until it stopped early")]
)
def test_an_area_of_runs_that_may_stop_early_says_so(metric: str | None, text: str) -> None:
    assert over_training(replace(TrainerConfig(), early_stopping=EarlyStoppingConfig(metric))) == text
