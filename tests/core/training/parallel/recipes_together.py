"""Recipes that train in two processes, one after another in the same two: starting them is what takes time."""

import os
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from torch import nn

from recipes.core.config import compose, registry
from recipes.core.evaluation.scores import Scores
from recipes.core.runs.progress import quiet_libraries
from recipes.core.training.parallel import distributed
from recipes.core.training.parallel.launch import variables
from recipes.core.training.seeds import seed_everything
from recipes.core.training.trainer import train
from recipes.core.watching import _Watching

KEYS = ["budget=smoke", "tracker=none", "trainer.threads=1", "trainer.log_steps=1"]


class Recorder(_Watching):
    """Keeps what is measured in training."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.lines: list[tuple[int, str, dict[str, float]]] = []

    def on_metrics(self, step: int, metrics: dict[str, float], seconds: float) -> None:
        self.lines.append((step, "train", metrics))

    def on_scores(self, step: int, scores: Scores, seconds: float) -> None:
        self.lines.append((step, "eval", scores.overall()))


def train_recipe(recipe: str, words: list[str], folder: Path) -> dict[str, Any]:
    """Prepare and train; what was measured, and the weights at the end."""
    config = compose.compose(recipe, [*KEYS, *words])
    seed_everything(config.seed, 1)
    made = registry.recipe_class(recipe)()
    prepared = made.prepare(config, "cpu")
    training = made.build(config, prepared)
    assert training is not None
    events = Recorder(made, config, prepared, training)
    result = train(training, config.counted_trainer, config.seed, folder, events)
    model: nn.Module = training.model
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    return {"result": (result.status, result.steps), "lines": events.lines, "weights": weights}


Case = tuple[str, list[str]]


def train_recipes(cases: list[Case], folder: Path) -> list[Any]:
    """Each case in two processes; for each, how it ended in either, or its traceback."""
    torch.multiprocessing.start_processes(_work, (cases, folder), nprocs=2, start_method="spawn")
    by_rank = [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(2)]
    return list(zip(*by_rank, strict=True))


def _work(rank: int, cases: list[Case], folder: Path) -> None:
    os.environ |= variables(rank, 2) | {"OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    quiet_libraries()
    ends: list[Any] = []
    with distributed.process_group("cpu", folder / "meeting"):
        for number, (recipe, words) in enumerate(cases):
            try:
                ends.append(train_recipe(recipe, words, folder / str(number)))
            except Exception:
                ends.append(traceback.format_exc())
    torch.save(ends, folder / f"rank-{rank}.pt")
