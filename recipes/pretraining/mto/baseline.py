"""The same pre-training without the method, beside a run: how good it gets, and so how soon the run is as good."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from recipes.core.config.settings import TrainerConfig
from recipes.core.storage.files import read_json, write_json
from recipes.core.training.models import train_once
from recipes.core.training.task import TrainEvents, Training

VERSION, CURVE = 1, "curve.json"


class _Accuracies(TrainEvents):
    """Writes how good the model is after the steps that are watched."""

    def __init__(self, path: Path, steps: frozenset[int], measure: Callable[[nn.Module], float]) -> None:
        self.path, self.steps, self.measure, self.values = path, steps, measure, dict[int, float]()

    def on_step_end(self, step: int, model: nn.Module) -> None:
        if step in self.steps:
            self.values[step] = self.measure(model)
            write_json(self.path, {str(step): value for step, value in self.values.items()})


def baseline_curve(
    key: Any,
    trainer: TrainerConfig,
    seed: int,
    training: Callable[[], Training],
    measure: Callable[[nn.Module], float],
    images: int,
) -> dict[int, float]:
    """Probe accuracy of the baseline by step, from the cache where another run of the seed has trained it.

    Args:
        key: What it depends on besides `trainer` and `seed`.
        trainer: How it is trained.
        seed: Of the run.
        training: Makes model, objective and data.
        measure: Accuracy of a model.
        images: That it is trained on, for people.
    """
    folder = train_once(
        "mto-baselines",
        [VERSION, key],
        trainer,
        seed,
        training,
        lambda model, folder: None,
        name=f"the baseline of seed {seed}",
        what=f"{images:,} images",
        events=lambda folder, steps: _Accuracies(folder / CURVE, steps, measure),
    )
    return {int(step): float(value) for step, value in read_json(folder / CURVE).items()}


def as_good_from(curve: Mapping[int, float], target: float) -> int:
    """The first measured step from which on an accuracy stays at the target or above; the last one, where it does not.

    A first crossing would say little: features of an untrained encoder are good at first, and lose before they gain.
    """
    last = max(curve)
    worse = [step for step in curve if curve[step] < target]
    return min((step for step in curve if step > max(worse)), default=last) if worse else min(curve)


def area_ratio(curve: Mapping[int, float], baseline: Mapping[int, float]) -> float | None:
    """Area under a curve over that under the baseline's, at the steps of the first; None where that is 0."""
    area = sum(baseline[step] for step in curve)
    return sum(curve.values()) / area if area else None
