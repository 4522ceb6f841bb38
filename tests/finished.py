"""Run folders as finished runs of `prior` leave them, written and not trained: of a config, so that they are reused."""

import random
from pathlib import Path
from typing import Any

from recipes.core.evaluation.plots import Plot, write_plots
from recipes.core.evaluation.scores import Scores
from recipes.core.evaluation.strips import Shot, Strip, write_strips
from recipes.core.runs import folder as runs
from recipes.core.runs.folder import run_folder
from recipes.core.runs.identity import identify
from recipes.core.storage.files import write_json
from tests.core.conftest import heatmap

METRICS = ("grounded/auc", "nll/other")


def finished_run(config: Any, seed: int) -> Path:
    """What a finished run leaves behind, with metrics that differ between arms and seeds."""
    folder, generator = run_folder(config), random.Random(f"{config.arm}{seed}")
    runs.start(
        folder,
        config,
        identify(config),
        f"steelyard run prior arm={config.arm}",
        {"threads": 1},
        config.trainer.max_steps,
    )
    scores = Scores()
    for name in METRICS:
        scores.define(name, name.title(), name != "nll/other")
        for index in range(6):
            scores.add(name, f"test-{index}", f"image-{index // 2}", generator.random(), 2)
    for step in (1, 2):
        scores.write_rows(folder.curve(step))
        folder.log(step, "train", {"loss": generator.random()}, 0.5)
        folder.log(step, "eval", scores.overall(), 0.5)
    scores.write(folder.path)
    folder.log(2, "final", scores.overall(), 1.0)
    write_json(folder.path / "heatmap.json", heatmap(config.arm))
    write_plots(folder.path, [Plot("p", "t", "x", "y", {"a": [(0.0, 1.0), (1.0, 2.0)]})])
    write_strips(folder.path, [Strip("s", "l", [Shot("test-0", "t", "n", heatmap("ntp")["examples"][0]["image"])])])
    checkpoint = folder.checkpoints / "checkpoint-2"
    checkpoint.mkdir(parents=True)
    write_json(checkpoint / "complete.json", {"model.safetensors": {"size": 1, "sha256": "0" * 64}})
    folder.finish(step=2, max_steps=2)
    return folder.path
