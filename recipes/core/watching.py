"""The training of a run: measured on the way, written into the run's folder. It imports torch; `execution` does not."""

import time
from pathlib import Path
from typing import Any

from torch import nn

from recipes.core.config.settings import RunConfig
from recipes.core.errors import UserError
from recipes.core.evaluation.scores import Scores
from recipes.core.recipe import Recipe
from recipes.core.runs import checkpoints
from recipes.core.runs.folder import RunFolder
from recipes.core.runs.tracking.tracker import Tracker
from recipes.core.spelling import did_you_mean
from recipes.core.training.early_stopping import exhausted
from recipes.core.training.model_options import uncompiled
from recipes.core.training.task import TrainEvents, Training, TrainResult
from recipes.core.training.trainer import preserve_rng, train


def train_and_write(
    config: RunConfig, folder: RunFolder, recipe: Recipe, prepared: Any, training: Training, tracker: Tracker
) -> TrainResult:
    """Train; metrics go to the run folder and the tracker, measurements fill the curves."""
    events = _Writing(folder, tracker, recipe, config, prepared, training)
    return train(training, config.counted_trainer, config.seed, folder.path, events)


def train_along(config: RunConfig, folder: Path, recipe: Recipe, prepared: Any, training: Training) -> None:
    """Train as one of the other processes of a distributed run, which write nothing."""
    train(training, config.counted_trainer, config.seed, folder, _Watching(recipe, config, prepared, training))


class _Watching(TrainEvents):
    """Measures the model in training. Every process does: one that did not would wait, and might give up."""

    def __init__(self, recipe: Recipe, config: RunConfig, prepared: Any, training: Training) -> None:
        self.recipe, self.config, self.prepared, self.training = recipe, config, prepared, training
        self.higher_is_better = False  # of the metric of early stopping

    def on_start(self, step: int) -> None:
        if (metric := self.config.trainer.early_stopping.metric) is not None:
            self.higher_is_better = self._direction(metric)

    def on_step_end(self, step: int, model: nn.Module) -> None:
        if step not in self.training.watch_steps:
            return
        began = time.perf_counter()
        scores = self.recipe.watch(self.config, self.prepared, model)
        self.on_scores(step, scores, time.perf_counter() - began)

    def on_scores(self, step: int, scores: Scores, seconds: float) -> None:
        """The model was measured after a step, which took `seconds`."""

    def _direction(self, metric: str) -> bool:
        """Whether a metric is better if it is higher, by measuring once before the first step.

        Raises:
            UserError: training measures no such metric.
        """
        where = f"trainer.early_stopping.metric={metric}"
        if not self.training.watch_steps:
            raise UserError("nothing is measured while this run trains", where, "leave it out")
        with preserve_rng(), uncompiled(self.training.model):
            scores = self.recipe.watch(self.config, self.prepared, self.training.model)
        if metric not in scores.overall():
            hint = did_you_mean(metric, sorted(scores.overall()))
            raise UserError("is not measured while this run trains", where, hint)
        return scores.metrics[metric].higher_is_better


class _Writing(_Watching):
    """What happens around training: metrics go to the run folder and the tracker, measurements fill the curves."""

    def __init__(
        self, folder: RunFolder, tracker: Tracker, recipe: Recipe, config: RunConfig, prepared: Any, training: Training
    ) -> None:
        super().__init__(recipe, config, prepared, training)
        self.folder, self.tracker = folder, tracker

    def on_start(self, step: int) -> None:
        checkpoints.cut_back(self.folder.path, step)
        self.folder.update_status(step=step, resumed_from=step)
        super().on_start(step)

    def stop_early(self) -> bool:
        options = self.config.trainer.early_stopping
        values = [metrics[str(options.metric)] for _, metrics in self.folder.read_metrics("eval")]
        return exhausted(values, self.higher_is_better, options.patience, options.min_delta)

    def on_metrics(self, step: int, metrics: dict[str, float], seconds: float) -> None:
        self.folder.log(step, "train", metrics, seconds)
        self.folder.update_status(step=step)
        self.tracker.log(step, {f"train/{name}": value for name, value in metrics.items()})

    def on_scores(self, step: int, scores: Scores, seconds: float) -> None:
        scores.write_rows(self.folder.curve(step))
        metrics = scores.overall()
        self.folder.log(step, "eval", metrics, seconds)
        self.tracker.log(step, metrics)
