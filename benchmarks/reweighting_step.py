"""What a reweighted step costs beside a plain one, and what weighing a whole accumulated step costs.

    python -m benchmarks.reweighting_step

All variants train on the same batches in blocks of steps that take turns; ratios are medians over blocks. `plain` is
the mean over sequences with the kernel for weights that are known beforehand: the cheapest uniform step there is.
Promise: `linupper` costs at most 1.01x a uniform step.
"""

import dataclasses
import json
import statistics
from typing import Any

import torch

from benchmarks.record import record
from recipes.core.config import compose
from recipes.core.losses.objectives import IGNORE, WeightedCrossEntropy
from recipes.core.process.clock import clock
from recipes.pretraining.sample_reweighting.objectives import Reweighted
from recipes.pretraining.sample_reweighting.recipe import SampleReweightingRecipe

BLOCKS, STEPS, PARTS = 40, 10, 4


class Plain(WeightedCrossEntropy):
    """The mean over sequences, behind the interface of the reweighted loss."""

    def before_step(self, step: int, model: Any, batches: list[dict[str, Any]]) -> None:
        """Nothing."""

    def __call__(self, model: Any, batch: dict[str, Any], normalizer: Any) -> Any:
        """Loss and metrics of a batch whose weights are all 1."""
        predicted = batch["labels"] != IGNORE
        return super().__call__(model, batch | {"weights": predicted.float()}, predicted.sum())


def main() -> None:
    """Measure, print and record."""
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = compose.compose("sample-reweighting", ["model=small-lm", "reweight.warmup_steps=0"])
    recipe = SampleReweightingRecipe()
    prepared = recipe.prepare(config, device)
    reweight = config.reweight
    objectives: dict[str, tuple[Any, int]] = {
        "plain": (Plain(), 1),
        "uniform": (Reweighted(dataclasses.replace(reweight, strategy="uniform"), 1), 1),
        "linupper": (Reweighted(reweight, 1), 1),
        "accumulated, micro": (Reweighted(reweight, PARTS), PARTS),
        "accumulated, global": (Reweighted(dataclasses.replace(reweight, scope="global"), PARTS), PARTS),
    }
    runs = {name: _Run(recipe.build(config, prepared), *what, device) for name, what in objectives.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for block in range(BLOCKS):
        for name in sorted(runs, reverse=bool(block % 2)):
            times[name].append(runs[name].block(block))
    result = {"step_ms": {name: 1000 * statistics.median(measured) / STEPS for name, measured in times.items()}}
    pairs = [("linupper", "plain"), ("linupper", "uniform"), ("accumulated, global", "accumulated, micro")]
    result["ratios"] = {f"{one} / {other}": _ratio(times[one], times[other]) for one, other in pairs}
    print(json.dumps(result, indent=2))
    record("reweighting_step", device, result)


class _Run:
    """One model with one objective."""

    def __init__(self, training: Any, objective: Any, parts: int, device: str) -> None:
        self.training, self.objective, self.parts, self.device = training, objective, parts, device
        training.model.to(device).train()
        self.optimizer = torch.optim.AdamW(training.model.parameters(), lr=1e-3)

    def block(self, number: int) -> float:
        """Seconds for `STEPS` steps, data loading included."""
        size = 64 // self.parts
        began = clock()
        for step in range(STEPS):
            start = (number * STEPS + step) * 64
            batches = [self._batch(range(start + part * size, start + (part + 1) * size)) for part in range(self.parts)]
            self.objective.before_step(step, self.training.model, batches)
            normalizer = torch.tensor(float(self.parts), device=self.device)
            for batch in batches:
                loss, _ = self.objective(self.training.model, batch, normalizer)
                loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return clock() - began

    def _batch(self, indices: range) -> dict[str, Any]:
        items = [self.training.dataset[index % len(self.training.dataset)] for index in indices]
        batch = self.training.collate(items)
        return {name: value.to(self.device) for name, value in batch.items() if name != "ids"}


def _ratio(times: list[float], others: list[float]) -> dict[str, Any]:
    ratios = [one / other for one, other in zip(times, others, strict=True)]
    return {"median": statistics.median(ratios), "quartiles": statistics.quantiles(ratios, n=4)}


if __name__ == "__main__":
    main()
