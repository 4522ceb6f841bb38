"""Run folders as finished runs of `prior` leave them, written and not trained: of a config, so that they are reused."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipes.core.config import compose
from recipes.core.evaluation.cuts import Cut, Cuts, CutText, write_cuts
from recipes.core.evaluation.plots import Plot, write_plots
from recipes.core.evaluation.scores import Scores
from recipes.core.evaluation.strips import Shot, Strip, write_strips
from recipes.core.runs import folder as runs
from recipes.core.runs.folder import run_folder
from recipes.core.runs.identity import identify
from recipes.core.storage.files import write_json
from recipes.core.trial import cells
from recipes.core.trial import manifest as manifests
from recipes.core.trial.states import record_end, record_start
from tests.core.conftest import heatmap

METRICS = ("grounded/auc", "nll/other")


def finished_trial(words: Sequence[str]) -> Path:
    """The outputs, in the working folder, of a finished trial of two arms and two seeds."""
    planned = cells.trial_cells("prior", words, ["prior", "ntp"], [0, 1])
    folder, manifest, _ = manifests.plan("trial", "prior", planned, "steelyard trial prior", 1)
    manifests.write(folder, manifest)
    for cell in manifest.cells:
        finished_run(compose.compose("prior", [*cell.overrides]), cell.seed)
        record_start(folder, cell.name)
        record_end(folder, cell.name, runs.DONE)
    return folder.parents[2]


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
    write_cuts(folder.path, Cuts([CutText("t", [Cut("one", "2 tokens", ["a", "b"], [False, True])])], "h"))
    checkpoint = folder.checkpoints / "checkpoint-2"
    checkpoint.mkdir(parents=True)
    write_json(checkpoint / "complete.json", {"model.safetensors": {"size": 1, "sha256": "0" * 64}})
    folder.finish(step=2, max_steps=2)
    return folder.path
