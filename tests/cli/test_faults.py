"""Faults through the real command line: kill, signals, a second process, a full disk, a failing tracker.

Each test compares what a run ends with to one that nothing happened to.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from recipes.core import compose, runner, trainer
from recipes.core.errors import RunFailed
from recipes.core.locks import owned
from recipes.core.runs import run_folder

KEYS = ["budget=smoke", "tracker=none", "trainer.threads=1", "trainer.save_steps=6", "trainer.log_steps=3"]
STEPS = 40


def command(outputs: Path) -> list[str]:
    return [sys.executable, "-m", "cli.app", "run", "prior", *KEYS, f"outputs={outputs}"]


def folder_of(outputs: Path) -> Path:
    return run_folder(compose.compose("prior", [*KEYS, f"outputs={outputs}"])).path


def run_here(outputs: Path) -> runner.RunOutcome:
    return runner.run(compose.compose("prior", [*KEYS, f"outputs={outputs}"]), False, "steelyard run prior")


def ending(folder: Path) -> dict[str, Any]:
    """All that must be the same bit for bit, without what a clock says."""
    weights = folder / "checkpoints" / f"checkpoint-{STEPS}" / "model.safetensors"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    return {
        "weights": {name: tensor.numpy().tobytes() for name, tensor in load_file(weights).items()},
        "metrics": lines,
        "examples": pq.read_table(folder / "examples.parquet").to_pydict(),
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, session_home: Path) -> dict[str, Any]:
    """What a run ends with that nothing happened to."""
    os.environ["STEELYARD_HOME"] = str(session_home)
    return ending(run_here(tmp_path_factory.mktemp("undisturbed")).folder)


def wait_for_step(folder: Path, step: int) -> None:
    path = folder / "metrics.jsonl"
    for _ in range(1200):
        if path.exists() and any(
            json.loads(line)["step"] >= step for line in path.read_text().splitlines() if line.endswith("}")
        ):
            return
        time.sleep(0.05)
    raise AssertionError(f"no step {step} after a minute")


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 130)],
    ids=["kill", "ctrl-c", "term"],
)
def test_a_stopped_run_ends_like_an_undisturbed_one(
    number: signal.Signals, code: int, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    folder = folder_of(tmp_path)
    with subprocess.Popen(command(tmp_path), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        wait_for_step(folder, 9)
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
    assert process.returncode == code, said
    status = json.loads((folder / "status.json").read_text())
    assert status["state"] == ("running" if number == signal.SIGKILL else "interrupted")
    if number != signal.SIGKILL:
        assert "the same command resumes" in said
    outcome = run_here(tmp_path)
    assert outcome.folder == folder and outcome.resumed_from > 0
    assert ending(folder) == undisturbed


def test_a_second_process_is_refused_and_told_who_works_here(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    with owned(folder / "owner.lock", "run folder", wait=False):
        second = subprocess.run(command(tmp_path), capture_output=True, text=True)
    assert second.returncode == 2
    assert f"is in use by process {os.getpid()} on host {socket.gethostname()}" in second.stderr
    assert not folder.joinpath("status.json").exists()


def test_a_run_killed_while_it_was_evaluated_trains_no_step_again(
    tmp_path: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runner, "_evaluate", killed)
        with pytest.raises(KeyboardInterrupt):
            run_here(tmp_path)
    assert json.loads((folder_of(tmp_path) / "status.json").read_text())["state"] == "interrupted"
    monkeypatch.setattr(trainer, "_Trainer", None)
    assert run_here(tmp_path).resumed_from == STEPS
    assert ending(folder_of(tmp_path)) == undisturbed


def test_a_full_disk_while_a_checkpoint_is_saved(
    tmp_path: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, saves = trainer._Trainer._save, []

    def full(self: Any, *arguments: Any, **options: Any) -> None:
        saves.append(1)
        if len(saves) == 3 + 1:  # the reference's own checkpoint may be the first
            raise OSError(28, "No space left on device")
        plain(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(trainer._Trainer, "_save", full)
        with pytest.raises(RunFailed, match="the disk is full") as caught:
            run_here(tmp_path)
    assert "type the same command again" in str(caught.value)
    folder = folder_of(tmp_path)
    status = json.loads((folder / "status.json").read_text())
    assert status["state"] == "failed" and "the disk is full" in status["error"]
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert len(names) == 2 and all(name.startswith("checkpoint-") for name in names)
    outcome = run_here(tmp_path)
    assert outcome.resumed_from > 0
    assert ending(folder) == undisturbed


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    damage: str, tmp_path: Path, undisturbed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_evaluate", stop)
        with pytest.raises(KeyboardInterrupt):
            run_here(tmp_path)
    newest = folder_of(tmp_path) / "checkpoints" / f"checkpoint-{STEPS}" / "optimizer.pt"
    if damage == "missing":
        newest.unlink()
    else:
        newest.write_bytes(newest.read_bytes()[:-100])
    outcome = run_here(tmp_path)
    assert outcome.resumed_from == 36
    assert f"checkpoint-{STEPS} cannot be used (optimizer.pt" in capsys.readouterr().err
    assert ending(outcome.folder) == undisturbed
