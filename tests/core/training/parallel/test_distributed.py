"""Two processes equal one: batches, loss, gradients, metrics, checkpoints, resuming on another number of processes."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from recipes.core.config.registry import ROOT
from recipes.core.config.settings import TrainerConfig
from recipes.core.errors import RunFailed
from recipes.core.runs import checkpoints
from recipes.core.training.parallel import distributed
from recipes.core.training.task import TrainEvents, Training
from recipes.core.training.trainer import train
from tests.core.training.parallel.processes import CONFIG, Blocks, Numbers, TokenMean, collate, go, run_together

STOP = 7
SHARDED = {"parallel": "fsdp"}
# Adapters begin without gradients, which AdamW without this would make steps of their rounding errors.
ADAPTED = {"rank": 2, "adam_epsilon": 1e-2, "learning_rate": 0.01}
TOGETHER: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulated": {"micro_batch_size": 2},
    "dropout": {"dropout": 0.2},
    "dropout stopped": {"dropout": 0.2, "stop_after": STOP},
    "one to two": {},
    "two to one": {"stop_after": STOP},
    "sharded": SHARDED,
    "sharded accumulated": SHARDED | {"micro_batch_size": 2},
    "sharded stopped": SHARDED | {"stop_after": STOP},
    "sharded one to two": SHARDED,
    "sharded two to one": SHARDED | {"stop_after": STOP},
    "beside": {"beside": True},
    "beside sharded": SHARDED | {"beside": True},
    "adapted": ADAPTED,
    "adapted sharded": ADAPTED | SHARDED,
    "adapted sharded stopped": ADAPTED | SHARDED | {"stop_after": STOP},
}
AGAIN = ["dropout stopped", "sharded stopped", "adapted sharded stopped"]
LIKE_ONE = ["plain", "accumulated", "sharded", "sharded accumulated"]
Ends = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The run that all must equal: one process, nothing happens."""
    return go(tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    go(folder / "one to two", stop_after=STOP)
    go(folder / "sharded one to two", stop_after=STOP, **SHARDED)
    return folder


@pytest.fixture(scope="module")
def together(folder: Path) -> Ends:
    """How each scenario ended, by process; "again" holds those that were resumed."""
    scenarios = [*TOGETHER.items(), *((name, TOGETHER[name] | {"stop_after": 0}) for name in AGAIN)]
    ends = run_together(folder, scenarios)
    names = [*TOGETHER, *(f"{name} again" for name in AGAIN)]
    return dict(zip(names, ends, strict=True))


def assert_close(left: dict[str, Any], right: dict[str, Any]) -> None:
    for name, value in left["weights"].items():
        torch.testing.assert_close(value, right["weights"][name], rtol=1e-5, atol=1e-5)
    for (step, metrics), (other, others) in zip(left["lines"], right["lines"], strict=False):
        assert step == other and metrics == pytest.approx(others, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", LIKE_ONE)
def test_two_processes_end_like_one(name: str, together: Ends, alone: dict[str, Any]) -> None:
    for end in together[name]:
        assert end["result"] == ("done", 12, 0)
        assert len(end["lines"]) == 4
        assert_close(end, alone)
        assert end["measured"] == pytest.approx(alone["measured"], rel=1e-4, abs=1e-5)


def test_adapters_end_like_in_one_process_shared_out_or_not(together: Ends, tmp_path: Path) -> None:
    alone = go(tmp_path, **ADAPTED)
    for end in (*together["adapted"], *together["adapted sharded"]):
        assert_close(end, alone)
        assert end["measured"] == pytest.approx(alone["measured"], rel=1e-4, abs=1e-5)
    whole = go(tmp_path / "start", max_steps=1, **ADAPTED)["weights"]
    moved = {name for name, value in alone["weights"].items() if not torch.equal(value, whole[name])}
    assert moved == {name for name in whole if "lora_" in name}


@pytest.mark.slow
def test_layers_that_are_compiled_and_shared_out_end_like_one_process(tmp_path: Path) -> None:
    short = {"rank": 0, "max_steps": 2}
    alone = go(tmp_path / "alone", **short)
    [ends] = run_together(tmp_path, [("compiled", short | SHARDED | {"compile": True})])
    for end in ends:
        assert_close(end, alone)


def test_both_processes_hold_the_same_weights_and_metrics(together: Ends) -> None:
    for first, second in together.values():
        assert all(torch.equal(value, second["weights"][name]) for name, value in first["weights"].items())
        assert first["lines"] == second["lines"]


@pytest.mark.parametrize("name", LIKE_ONE)
def test_every_step_takes_the_examples_that_one_process_takes(name: str, together: Ends, alone: dict[str, Any]) -> None:
    first, second = (end["seen"] for end in together[name])
    size = 2 if "accumulated" in name else 4
    assert {len(batch) for batch in first + second} == {size}
    parts = 8 // size // 2
    for step, whole in enumerate(alone["seen"]):
        mine = first[step * parts : (step + 1) * parts] + second[step * parts : (step + 1) * parts]
        assert sorted(index for batch in mine for index in batch) == sorted(whole), step


def test_an_accumulating_process_takes_whole_batches_only(tmp_path: Path, alone: dict[str, Any]) -> None:
    end = go(tmp_path, micro_batch_size=4)
    assert [a + b for a, b in zip(end["seen"][::2], end["seen"][1::2], strict=True)] == alone["seen"]
    assert_close(end, alone)


def test_a_stop_in_one_process_stops_both_at_the_same_step(together: Ends) -> None:
    assert [end["result"] for end in together["dropout stopped"]] == [("interrupted", STOP, 0)] * 2


@pytest.mark.parametrize(("whole", "stopped"), [(name.removesuffix(" stopped"), name) for name in AGAIN])
def test_a_resumed_run_of_two_processes_ends_bit_for_bit_like_one_never_stopped(
    whole: str, stopped: str, together: Ends
) -> None:
    for expected, part, rest in zip(together[whole], together[stopped], together[f"{stopped} again"], strict=True):
        assert rest["result"] == ("done", 12, STOP)
        assert all(torch.equal(value, rest["weights"][name]) for name, value in expected["weights"].items())
        assert part["lines"] + rest["lines"] == expected["lines"]
        assert part["seen"] + rest["seen"] == expected["seen"]


def test_a_checkpoint_holds_the_random_state_of_every_process(together: Ends, folder: Path) -> None:
    newest = checkpoints.newest_valid(folder / "dropout" / "checkpoints", say=print)
    assert newest is not None and newest.name == "checkpoint-12"
    states = [torch.load(newest / f"rng_state_{rank}.pth", weights_only=False)["cpu"] for rank in range(2)]
    assert not torch.equal(*states)
    assert not list(newest.parent.glob(".staging*"))


@pytest.mark.parametrize("name", ["one to two", "sharded one to two"])
def test_one_to_two_processes(name: str, together: Ends, alone: dict[str, Any]) -> None:
    for end in together[name]:
        assert end["result"] == ("done", 12, STOP)
        assert_weights_close(end, alone)


@pytest.mark.parametrize(
    ("name", "parallel"), [("two to one", "ddp"), ("sharded two to one", "fsdp"), ("sharded two to one", "ddp")]
)
def test_two_to_one_process(
    name: str, parallel: str, together: Ends, folder: Path, tmp_path: Path, alone: dict[str, Any]
) -> None:
    shutil.copytree(folder / name, tmp_path / "copy")
    end = go(tmp_path / "copy", parallel=parallel)
    assert end["result"] == ("done", 12, STOP)
    assert_weights_close(end, alone)


def test_a_sharded_checkpoint_is_split_and_ends_in_whole_weights(together: Ends, folder: Path, tmp_path: Path) -> None:
    last, before = (folder / "sharded" / "checkpoints" / f"checkpoint-{step}" for step in (12, 8))
    for checkpoint in (last, before):
        assert checkpoints.verify(checkpoint) == []
        assert {path.name for path in (checkpoint / "sharded").iterdir()} == {
            ".metadata",
            "__0_0.distcp",
            "__1_0.distcp",
        }
        assert not (checkpoint / "optimizer.pt").exists()
    assert not (before / "model.safetensors").exists()
    restored = Blocks(0)
    safetensors.torch.load_model(restored, last / "model.safetensors")
    expected = together["sharded"][0]["weights"]
    assert all(torch.equal(value, expected[name]) for name, value in restored.named_parameters())
    shutil.copytree(folder / "sharded", tmp_path / "copy")
    again = go(tmp_path / "copy")
    assert again["result"] == ("done", 12, 12) and not again["seen"]
    assert all(torch.equal(value, expected[name]) for name, value in again["weights"].items())


def test_a_frozen_model_beside_the_step_is_shared_out_like_the_trained_one(together: Ends, tmp_path: Path) -> None:
    alone = go(tmp_path, beside=True)
    (whole,) = alone["held"]
    for end in (*together["beside"], *together["beside sharded"]):
        assert_close(end, alone)
    assert [end["held"] for end in together["beside"]] == [[whole]] * 2
    parts = [end["held"] for end in together["beside sharded"]]
    assert [len(held) for held in parts] == [1, 1] and sum(held[0] for held in parts) == whole
    first, _ = together["beside sharded"]  # an evaluation asks it in one process, when the others have left
    for read, expected in zip(first["read_alone"], alone["read_alone"], strict=True):
        assert read == pytest.approx(expected, rel=1e-6)


def test_a_model_is_shared_out_before_it_is_moved(together: Ends, alone: dict[str, Any]) -> None:
    assert alone["moved_whole"] and all(end["moved_whole"] for end in together["plain"])
    assert not any(end["moved_whole"] for name in ("sharded", "sharded stopped again") for end in together[name])
    assert all(end["frozen_moved_whole"] for end in together["beside"])
    assert not any(end["frozen_moved_whole"] for end in together["beside sharded"])


def assert_weights_close(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert_close(left | {"lines": []}, right)


def test_largest_and_sums_of_parts_make_those_of_the_whole() -> None:
    left = {"a": torch.tensor([1.0, 2.0]), "b_max": torch.tensor([5.0, 1.0]), "b_min": torch.tensor([5.0, 1.0])}
    right = {"a": torch.tensor([3.0, 4.0]), "b_max": torch.tensor([4.0, 1.0]), "c": torch.tensor([1.0, 0.0])}
    right["b_min"] = right["b_max"]
    merged = distributed.merge(left, right)
    assert {name: pair.tolist() for name, pair in merged.items()} == {
        "a": [4, 6],
        "b_max": [5, 1],
        "b_min": [4, 1],
        "c": [1, 0],
    }


def test_training_of_one_process_is_not_split_by_chance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(RunFailed, match="to be trained in each of 2") as caught:
        train(Training(Blocks(0), TokenMean(), Numbers(), collate), CONFIG, 3, tmp_path, TrainEvents())
    assert "type the same command again" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 32, "nproc": 3}, "32 does not divide by nproc=3"),
        ({"batch_size": 32, "nproc": 2, "micro_batch_size": 6}, "32 / nproc=2 does not divide by micro_batch_size=6"),
        ({"batch_size": 32, "micro_batch_size": 6}, "32 does not divide by micro_batch_size=6"),
        ({"batch_size": 32, "nproc": 2, "micro_batch_size": 8}, None),
    ],
)
def test_a_batch_that_does_not_divide(changes: dict[str, int], message: str | None) -> None:
    assert TrainerConfig(**changes).check() == ([("batch_size", message)] if message else [])  # type: ignore[arg-type]


# Stands for a thread that asks for the interpreter while it is taken down.
ABORTS = """
import atexit, os
from recipes.core.training.parallel.distributed import end_process

class Late:
    def __del__(self, abort=os.abort):
        abort()

late = Late()
atexit.register(print, "left in order")
end_process()
"""


def test_a_process_whose_work_is_done_is_not_aborted_on_its_way_out() -> None:
    ended = subprocess.run([sys.executable, "-c", ABORTS], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, "left in order\n"), ended.stderr
    code = ABORTS.replace("end_process()", "")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, timeout=120).returncode != 0
