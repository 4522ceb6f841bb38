"""Masked token optimisation on the digits and on a user's images: what is refused, and runs from words to files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.data.images.labelled import load_labelled_images
from recipes.core.data.images.labelled_config import LabelledImagesConfig
from recipes.core.errors import UserError
from recipes.core.evaluation.scores import read_rows
from recipes.core.statistics.outcome import RunOutcome
from recipes.pretraining.mto.baseline import area_ratio, as_good_from
from recipes.pretraining.mto.masks import check_grid

QUICK = ("budget=smoke", "data.limit=100", "trainer.max_steps=4", "evaluation.watch_every=2", "tracker=none")
TINY = (*QUICK, "trainer.threads=1", "model.width=8", "model.heads=2", "trainer.batch_size=16")


def _run(folder: Path, *words: str) -> RunOutcome:
    return runner.run(compose.compose("mto", [*TINY, *words, f"outputs={folder}"]), False, "steelyard run mto")


def _images(folder: Path, size: tuple[int, int] = (8, 8), classes: str = "ab", each: int = 12) -> Path:
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for row in range(each):
            draw = np.random.default_rng([number, row])
            pixels = draw.integers(100 * number, 100 * number + 100, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{row}.png")
    return folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model.patch=3",), "3 does not divide images of 8 pixels into a grid; type 2 or 4"),
        (("model.patch=8",), "8 does not divide images of 8 pixels"),
        (("arm=hard_block", "mto.blocked_layers=3"), "more than model.layers=2"),
        (("trainer.attention=eager",), "rows of attention are made by the recipe"),
        (("data.label_column=x",), "columns and splits are those of your own images"),
        (("trainer.batch_size=101",), "fewer than one batch"),
    ],
)
def test_refused(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        _run(tmp_path, *words)
    assert not list(tmp_path.rglob("config.yaml"))


def test_images_that_do_not_fit(tmp_path: Path) -> None:
    odd = _images(tmp_path / "odd", (9, 9))
    with pytest.raises(UserError, match="2 does not divide images of 9 pixels") as error:
        _run(tmp_path / "runs", f"data.path={odd}")
    assert "data.side=10" in error.value.hint and "a/" in error.value.hint
    with pytest.raises(UserError, match="9 does not divide images of 9 pixels") as error:
        check_grid(load_labelled_images(LabelledImagesConfig(path=str(odd))), 9)
    assert "data.side=18" in error.value.hint  # with 9 it would be a grid of one patch again
    with pytest.raises(UserError, match="8 x 6 pixels, no square"):
        _run(tmp_path / "runs", f"data.path={_images(tmp_path / 'wide', (6, 8))}")
    mixed = _images(tmp_path / "mixed", each=3)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(mixed / "b" / "1.png")
    with pytest.raises(UserError, match="has a side of 4 pixels"):
        _run(tmp_path / "runs", f"data.path={mixed}", "trainer.batch_size=2")
    with pytest.raises(UserError, match="all images are of the class 'a'"):
        _run(tmp_path / "runs", f"data.path={_images(tmp_path / 'one', classes='a')}")
    (mixed / "b" / "2.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(mixed / "loose.png")
    with pytest.raises(UserError, match="2 of 7 images cannot be used") as error:
        _run(tmp_path / "runs", f"data.path={mixed}")
    assert "loose.png: lies in no folder" in error.value.hint and "2.png" in error.value.hint
    assert not list(tmp_path.rglob("config.yaml"))


def test_keys_that_a_run_does_not_read() -> None:
    def unread(*words: str) -> set[str]:
        return {key for key, _ in compose.compose("mto", list(words)).unread()}

    assert "data.seed" in unread() and "data.seed" not in unread("data.limit=100") | unread("data.path=mine")
    assert {"mto.e", "mto.last_layer"} & unread() == set() and "mto.e" in unread("model.layers=1")


def test_images_of_the_user_and_what_the_run_leaves(tmp_path: Path) -> None:
    folder = _images(tmp_path / "mine", (10, 8), each=16)
    rows = [
        {"file_name": f"{name}/{row}.png", "label": number} for number, name in enumerate("ab") for row in range(16)
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    outcome = _run(tmp_path / "runs", f"data.path={folder}", "data.side=12", "model.patch=4")
    scores = read_rows(outcome.folder / "examples.parquet")
    layers = {f"{metric}/layer{layer}" for metric in ("mass", "het") for layer in (1, 2)}
    more = {"probe", "probe_area", "restoration", "mass", "mass/trained", "het"}
    assert layers | more <= scores.metrics.keys() and len(scores.values("probe")) == 8
    assert {"area_ratio", "epochs_needed"} <= outcome.metrics.keys()
    shown = [
        json.loads(line) for line in (outcome.folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert np.mean([row["class"] == row["probe"] for row in shown]) == pytest.approx(outcome.metrics["probe"])
    card = (outcome.folder / "hf" / "README.md").read_text(encoding="utf-8")
    assert "AutoImageProcessor" in card and "image-feature-extraction" in card
    processor = AutoImageProcessor.from_pretrained(outcome.folder / "hf")
    assert processor(Image.new("RGB", (30, 20)), return_tensors="pt")["pixel_values"].shape == (1, 3, 12, 12)
    encoder = AutoModel.from_pretrained(outcome.folder / "hf", add_pooling_layer=False)
    assert type(encoder).__name__ == "ViTModel" and encoder.config._attn_implementation == "sdpa"
    assert encoder(torch.zeros(1, 3, 12, 12)).last_hidden_state.shape == (1, 10, 8)


def test_as_good_for_good() -> None:
    curve = {10: 0.9, 20: 0.5, 30: 0.8, 40: 0.7, 50: 0.8, 60: 0.85}
    assert [as_good_from(curve, target) for target in (0.4, 0.6, 0.75, 0.85, 0.95)] == [10, 30, 50, 60, 60]
    assert area_ratio({10: 0.9, 20: 0.5}, curve | {10: 0.2}) == pytest.approx(2)
    assert area_ratio({10: 0.9, 20: 0.5}, {10: 0.0, 20: 0.0}) is None


def test_a_baseline_that_is_never_right_has_no_ratio(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("recipes.pretraining.mto.recipe.baseline_curve", lambda *_: {2: 0.0, 4: 0.0})
    metrics = _run(tmp_path, "arm=full").metrics
    assert "area_ratio" not in metrics and metrics["epochs_needed"] > 0


def test_arms_share_a_baseline(tmp_path: Path) -> None:
    plain, full = (_run(tmp_path, f"arm={arm}").metrics for arm in ("none", "full"))
    assert plain["area_ratio"] == 1
    assert full["area_ratio"] == pytest.approx(full["probe_area"] / plain["probe_area"])
    assert full["mass/trained"] < full["mass"] and plain["mass/trained"] == pytest.approx(plain["mass"])
