"""Models trained inside a run: once for all that need the same one, under a key that holds all that decides them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import nn

from recipes.core.config.settings import TrainerConfig
from recipes.core.errors import RunFailed
from recipes.core.training import models
from recipes.core.training.models import settings_beside, train_once
from recipes.core.training.task import Training, TrainResult
from tests.core.training.test_trainer import Numbers, TokenMean, collate

TRAINER = TrainerConfig(max_steps=3, batch_size=64, learning_rate=0.1, device="cpu", threads=1)
Train = Callable[..., Path]


@pytest.fixture
def trainings() -> list[nn.Module]:
    return []


@pytest.fixture
def train_numbers(trainings: list[nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Train a line on 40 numbers, or find it; every training is counted."""
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path))

    def training() -> Training:
        torch.manual_seed(0)
        trainings.append(nn.Linear(3, 1))
        return Training(trainings[-1], TokenMean(), Numbers(), collate)

    def save(model: Any, folder: Path) -> None:
        save_model(model, str(folder / "model.safetensors"))

    def once(key: Any = "a line", trainer: TrainerConfig = TRAINER, seed: int = 0) -> Path:
        return train_once("lines", key, trainer, seed, training, save, name="a line", what="40 numbers")

    return once


def test_a_model_is_trained_once_and_saved_without_its_checkpoints(
    train_numbers: Train, trainings: list[nn.Module], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train_numbers()
    printed = capsys.readouterr().err
    assert printed.startswith("training a line on 40 numbers (once, then cached)")
    assert "all 40 of them are a batch, in place of 64" in printed
    assert train_numbers() == folder and len(trainings) == 1
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "model.safetensors"]
    saved = nn.Linear(3, 1)
    load_model(saved, str(folder / "model.safetensors"))
    assert torch.equal(saved.weight, trainings[0].weight)  # type: ignore[arg-type]


def test_what_decides_the_weights_is_in_the_key_and_nothing_else(
    train_numbers: Train, trainings: list[nn.Module]
) -> None:
    first = train_numbers()
    others = [
        train_numbers(key="another line"),
        train_numbers(seed=1),
        train_numbers(trainer=replace(TRAINER, learning_rate=0.2)),
    ]
    assert len({first, *others}) == len(trainings) == 4
    free = replace(TRAINER, log_steps=1, save_steps=1, micro_batch_size=8, nproc=2, threads=2)
    assert train_numbers(trainer=free) == first


@pytest.mark.parametrize(("most", "forwards"), [(None, 1), (99, 1), (16, 4), (8, 5), (1, 40)])
def test_a_forward_takes_no_more_than_the_run_may(
    most: int | None, forwards: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path))
    objective, trainer = TokenMean(), settings_beside(replace(TRAINER, micro_batch_size=most), 2, 64, 0.1)

    def training() -> Training:
        return Training(nn.Linear(3, 1), objective, Numbers(), collate)

    train_once("lines", most, trainer, 0, training, lambda *_: None, name="a line", what="40 numbers")
    assert objective.calls == 2 * forwards


def test_a_training_that_diverges_names_no_key_of_another(train_numbers: Train, tmp_path: Path) -> None:
    """Its rate may be `classifier.learning_rate`; the run's own training has not begun."""
    with pytest.raises(RunFailed, match="training a line: .* at step") as caught:
        train_numbers(trainer=replace(TRAINER, learning_rate=1e38, optimizer="sgd", max_grad_norm=1e9))
    assert caught.value.hint.startswith("lower the rate that it is trained at")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_training_that_was_stopped_publishes_nothing(
    train_numbers: Train, trainings: list[nn.Module], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(models, "train", lambda *_: TrainResult(models.INTERRUPTED, 1, 0))
        with pytest.raises(KeyboardInterrupt):
            train_numbers()
    assert not list(tmp_path.rglob("model.safetensors"))
    assert train_numbers().is_dir() and len(trainings) == 2


def test_settings_that_came_later_leave_models_of_before_in_the_cache() -> None:
    before = {"max_steps", "batch_size", "optimizer", "learning_rate", "weight_decay", "adam_beta1", "adam_beta2"}
    before |= {"max_grad_norm", "warmup_ratio", "schedule", "precision"}
    assert models._decisive(TRAINER).keys() == before
    assert models._decisive(replace(TRAINER, adam_epsilon=1e-6)).keys() == before | {"adam_epsilon"}
    for_the_run = replace(TRAINER, dtype="bfloat16", compile=True, attention="eager", workers=2, group_by_length=True)
    assert models._decisive(for_the_run) == models._decisive(TRAINER)
