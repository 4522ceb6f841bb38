"""What a PRIOR step costs beside an NTP step, and what a second arm pays for the reference.

    python -m benchmarks.prior_step

Both arms train on the same batches, built by the data loader's own collate, in alternating blocks of steps; the ratio
is the median over blocks. Promise: <= 1.03, and no reference forward for the second arm.
"""

import json
import os
import statistics
import tempfile
from typing import Any

import torch

from benchmarks.record import record
from recipes.core.config import compose
from recipes.core.process.clock import clock
from recipes.pretraining.prior.recipe import PriorRecipe

BLOCKS, STEPS = 30, 20


def main() -> None:
    """Measure, print and record."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as home:
        os.environ["STEELYARD_HOME"] = home
        arms = {arm: _prepare(arm, device) for arm in ("ntp", "prior")}
        forwards = {arm: _forwards(arm, device) for arm in ("random", "prior_floor")}
        times: dict[str, list[float]] = {arm: [] for arm in arms}
        for block in range(BLOCKS):
            for arm in sorted(arms, reverse=bool(block % 2)):
                times[arm].append(_block(*arms[arm], block, device))
    ratios = [prior / ntp for prior, ntp in zip(times["prior"], times["ntp"], strict=True)]
    result = {
        "ntp_step_ms": 1000 * statistics.median(times["ntp"]) / STEPS,
        "prior_step_ms": 1000 * statistics.median(times["prior"]) / STEPS,
        "ratio_median": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4),
        "reference_forwards_of_later_arms": forwards,
    }
    print(json.dumps(result, indent=2))
    record("prior_step", device, result)


def _prepare(arm: str, device: str) -> tuple[Any, Any, Any]:
    config = compose.compose("prior", [f"arm={arm}", "budget=smoke"])
    recipe = PriorRecipe()
    training = recipe.build(config, recipe.prepare(config, device))
    training.model.to(device).train()
    optimizer = torch.optim.AdamW(training.model.parameters(), lr=1e-3)
    return training, optimizer, config


def _forwards(arm: str, device: str) -> int:
    """Reference forwards that preparing a later arm with another seed takes."""
    config = compose.compose("prior", [f"arm={arm}", "budget=smoke", "seed=1"])
    reference = PriorRecipe().prepare(config, device).reference
    return sum(scores.forwards for scores in (*reference.train, reference.test))


def _block(training: Any, optimizer: Any, config: Any, block: int, device: str) -> float:
    """Seconds for `STEPS` steps, data loading included."""
    size, count = config.trainer.batch_size, len(training.dataset)
    began = clock()
    for step in range(STEPS):
        start = (block * STEPS + step) * size
        batch = training.collate([training.dataset[i % count] for i in range(start, start + size)])
        tensors = {name: value.to(device) for name, value in batch.items() if name != "ids"}
        loss, _ = training.objective(training.model, tensors, training.objective.normalizer(tensors))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return clock() - began


if __name__ == "__main__":
    main()
