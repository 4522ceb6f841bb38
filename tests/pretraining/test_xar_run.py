"""`xar` end to end: what is refused, what a run leaves, and that it resumes with its average."""

import json
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.training.task import TrainEvents
from recipes.core.training.trainer import train
from recipes.pretraining.xar.images import load_images
from recipes.pretraining.xar.recipe import XarRecipe

SMALL = (
    *("budget=smoke", "trainer.max_steps=8", "evaluation.watch_every=4", "tracker=none", "trainer.threads=1"),
    *("model.width=16", "model.heads=2", "sampler.steps=2", "classifier.features=8"),
)
IMAGES = ("data=labelled-images", "data.side=8", "grid.patch=2", "entity.size=2")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("grid.patch=3",), "3 does not divide images of 8 x 8 pixels"),
        (("entity.size=3",), "3 does not divide the grid of 4 x 4 tokens"),
        (("arm=subsample", "entity.size=3"), "3 does not divide the grid"),
        (("data=labelled-images", "data.path=/nowhere", "data.side=null"), "type data.side=32"),
        ((*IMAGES, "data.path=/nowhere", "grid.side=8"), "type data.side for images of yours"),
        (IMAGES, "data=digit-captions for the digits"),
        (("model.heads=3",), "does not divide width=16"),
        (("evaluation.samples=8",), "too few for a covariance"),
        (("trainer.parallel=fsdp",), "type ddp"),
        (("evaluation.context_noise=[0.2,0.2]",), "has a value twice"),
        (("evaluation.context_noise=[]",), "frechet_rise needs one"),
    ],
)
def test_refused(overrides: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        runner.run(compose.compose("xar", [*SMALL, *overrides, f"outputs={tmp_path}"]), False, "run")
    assert not list(tmp_path.rglob("config.yaml"))


def pictures(folder: Path, labels: list[str]) -> Path:
    """A folder of images with labels."""
    folder.mkdir()
    random, rows = np.random.default_rng(0), ["file_name,label"]
    for number, label in enumerate(labels):
        Image.fromarray(random.integers(0, 255, (9, 7, 3), np.uint8)).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{label}")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n", "utf-8")
    return folder


def test_labels_that_are_no_classes_are_refused(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures", [f"a picture of {number}" for number in range(20)])
    data = (*IMAGES, f"data.path={folder}")
    with pytest.raises(UserError, match="1 image of 1 picture and 19 more classes, too few"):
        runner.run(compose.compose("xar", [*SMALL, *data, f"outputs={tmp_path}"]), False, "run")


def test_images_of_the_user(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures", ["cat", "dog"] * 15)
    data = (*IMAGES, f"data.path={folder}", "arm=image")
    outcome = runner.run(compose.compose("xar", [*SMALL, *data, f"outputs={tmp_path}"]), False, "run")
    assert not {"exposure_gap", "frechet_rise"} & outcome.metrics.keys()  # one entity has no context
    lines = [json.loads(line) for line in (outcome.folder / "samples.jsonl").read_text("utf-8").splitlines()]
    assert {line["class"] for line in lines} == {"cat", "dog"} and len(lines) == 60
    assert np.load(outcome.folder / "samples.npz")["pixels"].shape == (60, 8, 8, 3)


def test_the_first_images_of_files_that_stand_class_by_class_are_of_all_classes(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures", ["cat"] * 30 + ["dog"] * 30)
    images = load_images(compose.compose("xar", [*SMALL, *IMAGES, f"data.path={folder}", "data.test_fraction=0.3"]))
    for part in (images.train, images.test):
        assert 0 < int(part.first(9).labels.sum()) < 9
        rows = [int(name.rpartition(":")[2]) for name in part.names]
        assert rows != sorted(rows) and [int(row > 31) for row in rows] == part.labels.tolist()


def test_the_seed_of_a_run_changes_no_image(tmp_path: Path) -> None:
    for words in ((), ("data.seed=null", "data.filler=unpredictable")):
        images = [load_images(compose.compose("xar", [*SMALL, *words, f"seed={seed}"])) for seed in (0, 1)]
        assert images[0].fingerprint == images[1].fingerprint
        assert torch.equal(images[0].test.pixels, images[1].test.pixels)


def test_folders_of_classes(tmp_path: Path) -> None:
    for part, each in (("train", 12), ("test", 3)):
        for number, name in enumerate(("cat", "dog")):
            (tmp_path / part / name).mkdir(parents=True)
            for row in range(each):
                picture = np.full((8, 8, 3), 20 * row + number + (part == "test"), np.uint8)
                Image.fromarray(picture).save(tmp_path / part / name / f"{row}.png")
    config = compose.compose("xar", [*SMALL, *IMAGES, f"data.path={tmp_path}", "seed=3"])
    images = load_images(config)
    assert images.classes == ("cat", "dog") and len(images.test.names) == 6
    for name, label in zip(images.train.names, images.train.labels.tolist(), strict=True):
        assert images.classes[label] in name


def test_a_run_and_what_it_leaves(tmp_path: Path) -> None:
    config = compose.compose("xar", [*SMALL, "arm=clean_equal_compute", f"outputs={tmp_path}"])
    metrics = runner.run(config, False, "run").metrics
    # 8 steps of 8 items of one image with twice its tokens: as many as of two images.
    assert metrics["training_tokens"] == pytest.approx(8 * 8 * 32 / 1e6)
    assert compose.compose("xar", list(SMALL)).training_tokens == 8 * 8 * 32
    gaps = [metrics[f"exposure_gap/entity_{number}"] for number in (2, 3, 4)]
    assert metrics["exposure_gap"] == pytest.approx(np.mean(gaps))
    assert metrics["frechet_rise"] == pytest.approx(metrics["frechet/noise_0.4"] - metrics["frechet"])


def test_a_resumed_run_has_the_same_average(tmp_path: Path) -> None:
    config = compose.compose("xar", [*SMALL, "trainer.save_steps=5"])
    recipe: Any = XarRecipe()
    prepared, ends = recipe.prepare(config, "cpu"), []
    for resumed_from in (0, 5):
        training = recipe.build(config, prepared)
        assert sum(parameter.numel() for parameter in training.model.net.parameters()) == config.parameters()
        result = train(training, config.trainer, 0, tmp_path, TrainEvents())
        assert result.resumed_from == resumed_from
        ends.append(training.model.state_dict())
        rmtree(tmp_path / "checkpoints" / "checkpoint-8")
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert not torch.equal(ends[0]["net.write.weight"], ends[0]["average.module.write.weight"])
    assert int(ends[0]["average.n_averaged"]) == 8
