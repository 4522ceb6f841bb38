"""The trainer on a tiny model: global-batch normalisation, exact resume, signals, NaN, learning rates."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from recipes.core.config.settings import TrainerConfig
from recipes.core.errors import RunFailed, UserError
from recipes.core.process.signals import sigterm_as_interrupt
from recipes.core.runs import checkpoints
from recipes.core.training.parallel import distributed
from recipes.core.training.task import TrainEvents, Training, TrainResult
from recipes.core.training.trainer import resolve_device, train

CONFIG = {"batch_size": 8, "max_steps": 12, "warmup_ratio": 0.2, "save_steps": 4, "log_steps": 3, "learning_rate": 0.05}


class Numbers(Dataset[Any]):
    """Items of 1 to 5 tokens, each with its own generator."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        return {"id": f"item-{index}", "x": torch.randn(1 + index % 5, 3, generator=generator)}


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    x = torch.cat([item["x"] for item in items])
    return {"x": x, "ids": [item["id"] for item in items]}


class TokenMean:
    """Squared error per token over the tokens of the global batch."""

    poison: int | None = None

    def __init__(self) -> None:
        self.calls = 0

    def normalizer(self, batch: dict[str, Tensor]) -> Tensor:
        return torch.tensor(float(len(batch["x"])))

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        self.calls += 1
        error = (model(batch["x"]).squeeze(-1) - batch["x"].sum(-1).sin()).square()
        if self.calls == self.poison:
            error = error * float("nan")
        pair = torch.stack([error.sum().detach(), error.new_tensor(float(len(error)))])
        return error.sum() / normalizer, {"error": pair}


class Recorder(TrainEvents):
    def __init__(self) -> None:
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.steps: list[int] = []

    def on_metrics(self, step: int, metrics: dict[str, float], seconds: float) -> None:
        self.lines.append((step, metrics))

    def on_step_end(self, step: int, model: nn.Module) -> None:
        torch.rand(step)  # a measurement that draws must not change training
        self.steps.append(step)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.Dropout(0.1), nn.Tanh(), nn.Linear(16, 1))


def go(
    folder: Path, events: TrainEvents | None = None, objective: Any = None, **changes: Any
) -> tuple[nn.Module, TrainResult]:
    net = model()
    rates = changes.pop("learning_rates", {})
    training = Training(net, objective or TokenMean(), Numbers(), collate, rates)
    return net, train(training, TrainerConfig(**(CONFIG | changes)), 3, folder, events or TrainEvents())


def same(left: nn.Module, right: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left.parameters(), right.parameters(), strict=True))


def test_accumulated_micro_batches_equal_one_batch(tmp_path: Path) -> None:
    class NoDropout(TokenMean):
        def __call__(self, model: nn.Module, batch: Any, normalizer: Tensor) -> Any:
            return super().__call__(model.eval(), batch, normalizer)

    whole, parts = Recorder(), Recorder()
    one, _ = go(tmp_path / "one", whole, NoDropout())
    four, _ = go(tmp_path / "four", parts, NoDropout(), micro_batch_size=2)
    for a, b in zip(one.parameters(), four.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    for (step, left), (other, right) in zip(whole.lines, parts.lines, strict=True):
        assert step == other and left == pytest.approx(right, rel=1e-4)


def test_metrics_come_every_log_steps_and_describe_one_step(tmp_path: Path) -> None:
    events = Recorder()
    _, result = go(tmp_path, events)
    assert result == TrainResult("done", 12, 0)
    assert [step for step, _ in events.lines] == [3, 6, 9, 12]
    assert events.steps == list(range(1, 13))
    for _, metrics in events.lines:
        assert set(metrics) == {"loss", "error", "grad_norm", "learning_rate"}
        assert metrics["loss"] == pytest.approx(metrics["error"])


def test_the_last_two_checkpoints_stay(tmp_path: Path) -> None:
    go(tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["checkpoint-12", "checkpoint-8"]


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"micro_batch_size": 4}])
def test_a_run_stopped_at_any_step_ends_bit_for_bit_like_one_never_stopped(
    changes: dict[str, int], tmp_path: Path
) -> None:
    whole = Recorder()
    expected, _ = go(tmp_path / "whole", whole, **changes)
    for stop_after in (1, 3, 4, 7, 11):

        class Stopper(Recorder):
            def on_step_end(self, step: int, model: nn.Module, last: int = stop_after) -> None:
                super().on_step_end(step, model)
                if step == last:
                    signal.raise_signal(signal.SIGTERM)

        first, second = Stopper(), Recorder()
        folder = tmp_path / f"stopped-{stop_after}"
        _, result = go(folder, first, **changes)
        assert result == TrainResult("interrupted", stop_after, 0)
        resumed, result = go(folder, second, **changes)
        assert result == TrainResult("done", 12, stop_after)
        assert same(expected, resumed), stop_after
        assert first.lines + second.lines == whole.lines, stop_after


@pytest.mark.slow
def test_a_run_killed_at_once_resumes_bit_for_bit(tmp_path: Path) -> None:
    expected, _ = go(tmp_path / "whole")
    code = f"""
import os, signal
from pathlib import Path
from tests.core.training.test_trainer import Recorder, go
class Killer(Recorder):
    def on_step_end(self, step, model):
        if step == 10:
            os.kill(os.getpid(), signal.SIGKILL)
go(Path({str(tmp_path / "killed")!r}), Killer())
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    resumed, result = go(tmp_path / "killed")
    assert result == TrainResult("done", 12, 8)
    assert same(expected, resumed)


def test_a_damaged_checkpoint_falls_back_and_still_ends_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected, _ = go(tmp_path)
    (tmp_path / "checkpoints" / "checkpoint-12" / "rng_state.pth").unlink()
    resumed, result = go(tmp_path)
    assert result == TrainResult("done", 12, 8)
    assert same(expected, resumed)
    assert "checkpoint-12 cannot be used (rng_state.pth is missing)" in capsys.readouterr().err


def test_a_run_killed_after_its_last_step_only_loads_the_weights(tmp_path: Path) -> None:
    expected, _ = go(tmp_path)
    objective = TokenMean()
    again, result = go(tmp_path, objective=objective)
    assert result == TrainResult("done", 12, 12)
    assert objective.calls == 0
    assert same(expected, again)


def test_nan_names_step_and_examples_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    objective = TokenMean()
    objective.poison = 6
    with pytest.raises(RunFailed) as caught:
        go(tmp_path, objective=objective)
    assert "the loss is nan at step 6" in str(caught.value)
    assert "batch of item-" in str(caught.value) and "and 3 more" in str(caught.value)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-4"]
    assert checkpoints.verify(tmp_path / "checkpoints" / "checkpoint-4") == []


def test_learning_rates_by_prefix(tmp_path: Path) -> None:
    frozen, _ = go(tmp_path / "a", learning_rates={"0.": 1e-12}, weight_decay=0.0)
    start = model()
    torch.testing.assert_close(frozen[0].weight, start[0].weight, rtol=0, atol=1e-9)
    assert not torch.allclose(frozen[3].weight, start[3].weight, atol=1e-3)


def test_fewer_examples_than_a_batch(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="40 training examples are fewer than one batch") as caught:
        go(tmp_path, batch_size=64)
    assert "trainer.batch_size=40" in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_asked_for_and_absent() -> None:
    with pytest.raises(UserError, match="no CUDA device") as caught:
        resolve_device(TrainerConfig(device="cuda"))
    assert "trainer.device=cpu" in str(caught.value)


def test_a_process_that_stops_with_the_others_takes_its_own_late_signal_for_no_second_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process was told first; the signal of this one comes when training has stopped by agreement."""
    late = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM))

    def agreed(flag: bool) -> bool:
        late.start()
        return True

    monkeypatch.setattr(distributed, "anywhere", agreed)
    with sigterm_as_interrupt():
        _, result = go(tmp_path)
        time.sleep(1.5)  # without the wait the signal would raise KeyboardInterrupt here
    assert result == TrainResult("interrupted", 1, 0)


def test_signals_are_left_alone_outside_the_main_thread(tmp_path: Path) -> None:
    results: list[TrainResult] = []
    thread = threading.Thread(target=lambda: results.append(go(tmp_path)[1]))
    thread.start()
    thread.join()
    assert results == [TrainResult("done", 12, 0)]


class Watched(Numbers):
    """Notes which items are taken, in order."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.taken.append(index)
        return super().__getitem__(index)


def order(folder: Path, events: TrainEvents | None = None, **changes: Any) -> list[int]:
    data = Watched()
    config = TrainerConfig(**(CONFIG | {"batch_size": 16, "max_steps": 8} | changes))
    train(Training(model(), TokenMean(), data, collate), config, 3, folder, events or TrainEvents())
    return data.taken


def test_no_sequence_comes_twice_before_all_came_once(tmp_path: Path) -> None:
    """40 items in batches of 16: epochs of two batches end inside a pass."""
    taken = order(tmp_path / "whole")[: 8 * 16]
    for start in range(0, 120, 40):
        assert sorted(taken[start : start + 40]) == list(range(40))
    assert taken[:40] != taken[40:80]
    assert order(tmp_path / "micro", micro_batch_size=4)[: 8 * 16] == taken


def test_a_resumed_run_goes_on_in_the_same_pass(tmp_path: Path) -> None:
    class Stopper(TrainEvents):
        def on_step_end(self, step: int, model: nn.Module) -> None:
            if step == 5:
                os.kill(os.getpid(), signal.SIGTERM)

    whole = order(tmp_path / "whole")[: 8 * 16]
    with sigterm_as_interrupt():
        order(tmp_path / "cut", Stopper())
    assert order(tmp_path / "cut")[-3 * 16 :] == whole[-3 * 16 :]


@pytest.mark.parametrize("optimizer", ["adafactor", "adamw_bnb_8bit"])
def test_optimizers_of_transformers_resume_bit_for_bit(optimizer: str, tmp_path: Path) -> None:
    class Stopper(TrainEvents):
        def on_step_end(self, step: int, model: nn.Module) -> None:
            if step == 5:
                os.kill(os.getpid(), signal.SIGTERM)

    expected, _ = go(tmp_path / "whole", optimizer=optimizer)
    assert not same(expected, go(tmp_path / "adamw")[0])
    with sigterm_as_interrupt():
        go(tmp_path / "cut", Stopper(), optimizer=optimizer)
    resumed, result = go(tmp_path / "cut", optimizer=optimizer)
    assert result.resumed_from == 5 and same(expected, resumed)


def test_batches_made_by_other_processes_are_the_same(tmp_path: Path) -> None:
    alone, helped = Recorder(), Recorder()
    expected, _ = go(tmp_path / "alone", alone)
    assert same(expected, go(tmp_path / "helped", helped, workers=2)[0]) and alone.lines == helped.lines


def test_rates_of_a_schedule_that_ends_in_a_decay(tmp_path: Path) -> None:
    events = Recorder()
    go(tmp_path, events, schedule="warmup_stable_decay", decay_ratio=0.5, log_steps=1)
    rates = [metrics["learning_rate"] for _, metrics in events.lines]
    assert rates[2:7] == [0.05] * 5 and 0 < rates[-1] < 0.01
    assert rates[6:] == sorted(rates[6:], reverse=True)


def test_lengths_that_are_not_known_cannot_be_grouped(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="have one length, or lengths that are not known") as caught:
        go(tmp_path, group_by_length=True)
    assert caught.value.where == "trainer.group_by_length=true"
