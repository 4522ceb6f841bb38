"""Synthetic run folders: what a finished run leaves behind, with numbers shaped like those of a real one."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from recipes.core.evaluation.scores import Scores
from recipes.core.process import cores
from recipes.core.runs.folder import RunFolder
from recipes.core.storage.files import write_json, write_text

STEPS = (100, 200, 300, 400, 500, 600)
SKILL = {"prior": (0.30, 14.5), "ntp": (0.10, 0.11)}  # early digit accuracy, loss on filler


def config_of(arm: str, seed: int, **changes) -> dict:
    config = {
        "recipe": "prior",
        "arm": arm,
        "seed": seed,
        "budget": "small",
        "outputs": "outputs",
        "trainer": {"max_steps": 600, "batch_size": 32, "learning_rate": 0.002, "save_steps": 200},
        "tracker": {"name": "none"},
        "weighting": {"name": arm, "alpha": 1.0, "floor": 0.0},
        "data": {"name": "digit-captions", "noise": "boilerplate"},
    }
    for key, value in changes.items():
        node, *rest = key.split("__")
        if rest:
            config[node][rest[0]] = value
        else:
            config[node] = value
    return config


def write_scores(folder: Path, arm: str, seed: int, prefix: str) -> dict[str, float]:
    shared = np.random.default_rng(seed)
    difficulty = shared.random((120, 2))
    early, filler = SKILL.get(arm, (0.2, 1.0))
    scores = Scores()
    scores.define("grounded/digit/accuracy", "Digit named right", True)
    scores.define("grounded/thickness/accuracy", "Thickness named right", True)
    scores.define("nll/image", "Loss on image tokens", False)
    scores.define("nll/other", "Loss on the other tokens", False)
    scores.define("grounded/auc", "Digit named right, mean over training", True)
    own = np.random.default_rng([seed, sum(map(ord, arm))])
    for index in range(120):
        name, group = f"{prefix}{index}", f"image-{index // 2}"
        scores.add("grounded/digit/accuracy", name, group, difficulty[index, 0] < 0.75 + early / 2)
        scores.add("grounded/thickness/accuracy", name, group, difficulty[index, 1] < 0.87)
        scores.add("nll/image", name, group, difficulty[index, 0] * (1 - early) + own.normal(0, 0.05), 2)
        scores.add("nll/other", name, group, filler + own.normal(0, 0.02), 14)
    scores.write(folder)
    return scores.overall()


def curve(arm: str, seed: int) -> list[dict[str, float]]:
    own = np.random.default_rng([seed, sum(map(ord, arm))])
    early, filler = SKILL.get(arm, (0.2, 1.0))
    points = []
    for step in STEPS:
        learned = 1 / (1 + np.exp(-(step - 420 + 900 * early) / 70))
        points.append(
            {
                "grounded/digit/accuracy": 0.1 + 0.83 * learned + own.normal(0, 0.01),
                "grounded/thickness/accuracy": 0.5 + 0.4 * learned + own.normal(0, 0.02),
                "nll/image": 2.3 - 2.0 * learned,
                "nll/other": filler + 1.5 * np.exp(-step / 120),
            }
        )
    return points


def heatmap(arm: str) -> dict:
    generator = np.random.default_rng(0)
    caption = "please look at this one . it shows a bold handwritten three on white paper . thanks for looking at it ."
    examples = []
    for index in range(3):
        pixels = Image.fromarray(generator.integers(0, 255, (8, 8), dtype=np.uint8)).resize((64, 64), Image.NEAREST)
        buffer = io.BytesIO()
        pixels.save(buffer, "PNG")
        kinds = {"bold": "thickness", "three": "digit"}
        tokens = [
            {
                "text": word if place == 0 else f" {word}",
                "weight": 1.0 if arm == "ntp" else 9.9 if word in kinds else float(generator.choice([0.02, 0.3, 0.8])),
                "kind": kinds.get(word),
                "nll": float(generator.random()),
            }
            for place, word in enumerate(caption.split())
        ]
        image = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
        examples.append({"id": f"test-{index} <b>&", "image": image, "tokens": tokens})
    return {"examples": examples}


@pytest.fixture
def make_run(tmp_path):
    """`make_run(arm, seed, state=..., prefix=..., **config changes)` writes a run folder and returns its path."""

    def make(arm="prior", seed=0, *, state="done", prefix="test-", tag="0123456789", recipe="prior", **changes) -> Path:
        folder = tmp_path / "outputs" / recipe / arm / f"{tag}-s{seed}"
        folder.mkdir(parents=True)
        config = config_of(arm, seed, recipe=recipe, **changes)
        write_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
        write_json(
            folder / "status.json",
            {"state": state, "step": 600, "max_steps": 600, "error": None, "started": f"2026-01-0{seed + 1}T00:00:00"},
        )
        write_json(
            folder / "env.json",
            {"command": f"steelyard run {recipe} arm={arm}", "python": "3.11", "packages": {"torch": "2.13.0"}},
        )
        if state == "done":
            run, points = RunFolder(folder), curve(arm, seed)
            for step, metrics in zip(STEPS, points, strict=True):
                run.log(step, "train", {"loss": metrics["nll/image"]}, step / 10)
                run.log(step, "eval", metrics, step / 10)
            auc = float(np.mean([point["grounded/digit/accuracy"] for point in points]))
            final = write_scores(folder, arm, seed, prefix) | {"grounded/auc": auc}
            run.log(STEPS[-1], "final", final, 61.0)
            write_json(folder / "heatmap.json", heatmap(arm))
            run.finish(finished=None)
        return folder

    return make


def give_cores(patch: pytest.MonkeyPatch, number: int) -> None:
    """Let this process have so many cores, whatever the machine has."""
    patch.setattr(cores.os, "sched_getaffinity", lambda pid: set(range(number)), raising=False)
    patch.setattr(cores, "_quotas", lambda: iter([]))
