"""Runs as long as their floating-point operations allow."""

from typing import Any

import pytest

from recipes.core.config import compose
from recipes.core.config.flops import flops_problems, flops_text, steps_or_flops
from recipes.core.config.schema import ConfigError
from recipes.core.runs.identity import identify


def test_a_recipe_that_counts_none_says_so() -> None:
    with pytest.raises(ConfigError, match="the FLOPs of a step of rho-1 are not counted; type trainer.max_steps"):
        compose.compose("rho-1", ["trainer.max_flops=1e12"])


@pytest.mark.parametrize(
    ("typed", "left", "problems"),
    [
        ({}, 1e12, 0),
        ({"trainer.max_steps": 7}, None, 0),  # steps that were typed stand above the FLOPs of a recipe's file
        ({"trainer.max_steps": 600}, None, 0),  # those of the file, too, where they count for nothing until typed
        ({"trainer.max_flops": 1e9}, 1e12, 0),
        ({"trainer.max_steps": 7, "trainer.max_flops": None}, None, 0),
        ({"trainer.max_steps": 7, "trainer.max_flops": 1e9}, 1e12, 1),
        ({"trainer.max_steps": 600, "trainer.max_flops": 1e9}, 1e12, 0),  # a run's whole config, typed again
    ],
)
def test_steps_or_flops(typed: dict[str, Any], left: float | None, problems: int) -> None:
    tree = {"trainer": {"max_steps": 600, "max_flops": 1e12}}
    assert len(steps_or_flops(tree, typed)) == problems and tree["trainer"]["max_flops"] == left


def test_steps_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose.compose("rho-1", [])
    kind = type(config)
    monkeypatch.setattr(kind, "step_flops", lambda self: 3e9)
    assert config.steps == config.trainer.max_steps and config.counted_trainer is config.trainer
    counted = compose.compose("rho-1", ["trainer.max_flops=1e12"])
    assert counted.steps == 333 and counted.counted_trainer.max_steps == 333
    assert flops_text(counted) == "9.99e+11 of 1e+12, 3e+09 a step" and not flops_text(config)
    with pytest.raises(ConfigError, match="less than one step takes, which is 3e"):
        compose.compose("rho-1", ["trainer.max_flops=1e9"])
    with pytest.raises(ConfigError, match="both say how long the run is"):
        compose.compose("rho-1", ["trainer.max_flops=1e12", "trainer.max_steps=7"])
    assert identify(counted).hash != identify(config).hash
    assert not flops_problems(compose.compose("rho-1", ["trainer.max_steps=7"]))
