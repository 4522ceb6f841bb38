"""The direction of the metric that may end training, which every process takes before its first step."""

from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.evaluation.scores import Scores
from recipes.core.training.task import Training
from recipes.core.watching import _Watching


class Measured:
    """A recipe that measures two metrics, and notes whether layers run as they are meanwhile."""

    def __init__(self) -> None:
        self.uncompiled: list[bool] = []

    def watch(self, config: Any, prepared: Any, model: Any) -> Scores:
        self.uncompiled.append(model._compiled_call_impl is None)
        scores = Scores()
        for name, higher in (("reward", True), ("loss", False)):
            scores.define(name, name, higher)
            scores.add(name, "a", "a", 1.0)
        return scores


def watching(metric: str | None, steps: frozenset[int] = frozenset({2})) -> tuple[_Watching, Any]:
    model, recipe, rest = nn.Linear(1, 1), Measured(), [None] * 2
    model._compiled_call_impl = model._call_impl  # as if compiled
    training: Any = Training(model, *rest, lambda items: {}, watch_steps=steps)  # type: ignore[arg-type]
    config = compose.compose("rho-1", [])
    stopping = replace(config.trainer.early_stopping, metric=metric)
    config = replace(config, trainer=replace(config.trainer, early_stopping=stopping))
    return _Watching(recipe, config, None, training), recipe  # type: ignore[arg-type]


@pytest.mark.parametrize(("metric", "higher"), [("reward", True), ("loss", False)])
def test_a_process_that_writes_nothing_takes_the_direction_too(metric: str, higher: bool) -> None:
    process, recipe = watching(metric)
    process.on_start(0)
    process.on_step_end(1, process.training.model)
    assert process.higher_is_better is higher and recipe.uncompiled == [True]
    assert process.training.model._compiled_call_impl is not None


def test_a_run_that_does_not_stop_early_measures_nothing_before_it_begins() -> None:
    process, recipe = watching(None)
    process.on_start(0)
    assert not recipe.uncompiled


def test_a_metric_is_refused_where_nothing_is_measured() -> None:
    with pytest.raises(UserError, match="nothing is measured"):
        watching("loss", frozenset())[0].on_start(0)
