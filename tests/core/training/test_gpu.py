"""What a GPU is asked once: trainings in bf16, compiled, checkpointed, in 4 and 8 bits and resumed, beside plain ones.

`make gpu` runs them; `make gpu DEVICE=cpu` runs the same on the CPU, for whoever changes them where there is no GPU.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from recipes.core.config.settings import TrainerConfig
from recipes.core.losses.objectives import WeightedCrossEntropy
from recipes.core.models.adapters import add_adapters
from recipes.core.models.causal import load_causal_lm
from recipes.core.models.quantised import quantised_layers
from recipes.core.models.vision_language import TextModel
from recipes.core.training.seeds import seed_everything
from recipes.core.training.task import TrainEvents, Training, TrainResult
from recipes.core.training.trainer import train
from tests.core.models.test_memory import llama

pytestmark = pytest.mark.gpu
STEPS, ROWS, TIME = 8, 8, 32


class Texts(Dataset[Any]):
    """Rows that count upwards, which is learned at once."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"id": f"row-{index}", "ids": (torch.arange(TIME) + index) % 37 + 3}


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    ids = torch.stack([item["ids"] for item in items])
    labels = torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], -100)], 1)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels, "weights": (labels >= 0) * 1.0}
    batch["normalizer"] = batch["weights"].sum()
    return {**batch, "ids": [item["id"] for item in items]}


class Losses(TrainEvents):
    """Remembers the loss of each step; raises at one of them, as a machine that fails."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.losses: list[float] = []
        self.fails_at = fails_at

    def on_metrics(self, step: int, metrics: dict[str, float], seconds: float) -> None:
        self.losses.append(metrics["loss"])

    def on_step_end(self, step: int, model: nn.Module) -> None:
        if step == self.fails_at:
            raise ConnectionAbortedError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("llama")
    llama(inner=128).save_pretrained(path)
    return str(path)


def model(folder: str, load_in: str = "float32", rank: int = 0) -> TextModel:
    read = TextModel(load_causal_lm(folder, "model.path", load_in=load_in))
    return add_adapters(read, rank, 2.0 * rank, (), 0) if rank else read


def go(net: TextModel, device: str, path: Path, fails_at: int | None = None, **changes: Any) -> list[float]:
    """The losses of a training, in a process that is seeded as that of a run."""
    seed_everything(3, 1)
    plain = {"batch_size": ROWS, "max_steps": STEPS, "save_steps": 4, "log_steps": 1, "learning_rate": 0.01}
    config = TrainerConfig(**{**plain, "device": device, "precision": "fp32", **changes})
    events = Losses(fails_at)
    result = train(Training(net, WeightedCrossEntropy(), Texts(), collate), config, 3, path, events)
    assert result == TrainResult("done", STEPS, result.resumed_from)
    assert {parameter.device.type for parameter in net.parameters()} == {device}
    return events.losses


def weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().float().cpu() for name, parameter in net.named_parameters()}


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        ({"precision": "bf16"}, 0.03),
        ({"precision": "bf16", "dtype": "bfloat16", "learning_rate": 0.001}, 0.1),
        ({"gradient_checkpointing": True}, 1e-4),
        ({"precision": "bf16", "gradient_checkpointing": True}, 0.03),
        pytest.param({"compile": True}, 1e-3, marks=pytest.mark.slow),
        ({"micro_batch_size": 2}, 1e-4),
        ({"attention": "eager"}, 1e-3),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else None,
)
def test_each_way_to_train_has_the_losses_of_the_plain_one(
    changes: dict[str, Any], tolerance: float, device: str, folder: str, tmp_path: Path
) -> None:
    rate = {name: value for name, value in changes.items() if name == "learning_rate"}
    expected = go(model(folder), device, tmp_path / "plain", **rate)
    measured = go(model(folder), device, tmp_path / "changed", **changes)
    assert expected[-1] < expected[0] and measured == pytest.approx(expected, rel=tolerance)


def test_the_gpu_trains_what_the_cpu_trains(device: str, folder: str, tmp_path: Path) -> None:
    ours, theirs = (go(model(folder), kind, tmp_path / str(n)) for n, kind in enumerate((device, "cpu")))
    assert ours == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize("load_in", ["4bit", "8bit"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_adapters_on_quantised_weights_learn_as_on_whole_ones(
    load_in: str, precision: str, device: str, folder: str, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    quantised = model(folder, load_in, rank=4)
    assert quantised_layers(quantised)
    measured = go(quantised, device, tmp_path / "bits", precision=precision)
    expected = go(model(folder, rank=4), device, tmp_path / "whole")
    assert expected[-1] < expected[0] and all(map(math.isfinite, measured))
    assert measured == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("changes", [{}, {"precision": "bf16"}, {"optimizer": "adamw_bnb_8bit"}], ids=str)
def test_a_training_that_failed_ends_as_one_that_did_not(
    changes: dict[str, Any], device: str, folder: str, tmp_path: Path
) -> None:
    if "optimizer" in changes:
        pytest.importorskip("bitsandbytes")
    whole, failed, again = model(folder), model(folder), model(folder)
    losses = go(whole, device, tmp_path / "whole", **changes)
    with pytest.raises(ConnectionAbortedError):
        go(failed, device, tmp_path / "cut", fails_at=6, **changes)
    assert go(again, device, tmp_path / "cut", **changes) == pytest.approx(losses[4:], rel=1e-5)
    for name, values in weights(again).items():
        torch.testing.assert_close(values, weights(whole)[name], rtol=1e-5, atol=1e-5)


def test_checkpointing_and_accumulation_hold_less_memory(device: str, folder: str, tmp_path: Path) -> None:
    if device != "cuda":
        pytest.skip("counted by CUDA alone")
    peaks = {}
    for name, changes in {"plain": {}, "checkpointing": {"gradient_checkpointing": True}}.items():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        go(model(folder), device, tmp_path / name, batch_size=64, **changes)
        peaks[name] = torch.cuda.max_memory_allocated()
    assert peaks["checkpointing"] < peaks["plain"]
