"""Faults through the real command line: kill, signals, a second process, a full disk, damaged checkpoints.

Each test compares what a run ends with to one that nothing happened to.
"""

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cli import app
from recipes.core import execution
from recipes.core.config import compose
from recipes.core.config.registry import ROOT
from recipes.core.runs import checkpoints
from recipes.core.runs.folder import RunFolder, run_folder
from recipes.core.storage import locks
from recipes.core.storage.locks import hold
from recipes.core.training import trainer
from tests.cli.conftest import Ended

KEYS = ["budget=smoke", "tracker=none", "trainer.threads=1", "trainer.save_steps=6", "trainer.log_steps=3"]
KEYS += ["evaluation.examples=8", "evaluation.watch_examples=8", "evaluation.candidates=2", "evaluation.captions=4"]
STEPS = 40
PATIENCE = 300.0
FILES = ["model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json"]

Steelyard = Callable[..., Ended]


def words(outputs: Path) -> list[str]:
    return ["run", "prior", *KEYS, f"outputs={outputs}"]


def folder_of(outputs: Path) -> RunFolder:
    return run_folder(compose.compose("prior", words(outputs)[2:]))


def ending(folder: RunFolder) -> dict[str, Any]:
    """All that must be the same bit for bit, without what a clock says."""
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    files = [folder.checkpoints / f"checkpoint-{STEPS}" / "model.safetensors", folder.path / "examples.parquet"]
    files += [folder.path / "heatmap.json", *sorted((folder.path / "curve").iterdir())]
    return {
        "metrics": [{key: value for key, value in line.items() if key != "seconds"} for line in lines],
        **{path.name: path.read_bytes() for path in files},
    }


def assert_same(folder: RunFolder, expected: dict[str, Any], what: object = "") -> None:
    end = ending(folder)
    assert end["metrics"] == expected["metrics"], what
    assert [name for name in expected if end.get(name) != expected[name]] == [], what
    assert end.keys() == expected.keys(), what
    assert folder.status()["state"] == "done" and folder.status()["error"] is None
    assert not folder.lock.exists()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, session_home: Path) -> dict[str, Any]:
    """What a run ends with that nothing happened to."""
    outputs = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELYARD_HOME", str(session_home))
        assert app.main(words(outputs)) == 0
    return ending(folder_of(outputs))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, session_home: Path, undisturbed: dict[str, Any]) -> Path:
    """Outputs folder of a run that was interrupted when all its steps were done."""
    outputs = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch, interrupted_at("_evaluate"):
        patch.setenv("STEELYARD_HOME", str(session_home))
        assert app.main(words(outputs)) == 130
    return outputs


@contextlib.contextmanager
def interrupted_at(name: str) -> Iterator[None]:
    """Ctrl-C as soon as the runner calls one of its parts."""

    def pressed(*_: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution, name, pressed)
        yield


@contextlib.contextmanager
def process(outputs: Path) -> Iterator[subprocess.Popen[str]]:
    """The command line in a process of its own, gone when the block ends."""
    line = [sys.executable, "-m", "cli.app", *words(outputs)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as started:
        try:
            yield started
        finally:
            started.kill()


def wait_for_step(folder: RunFolder, step: int, started: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if any(done >= step for done, _ in folder.read_metrics("train")):
            return
        assert started.poll() is None, f"ended before step {step}: {started.communicate()}"
        time.sleep(0.05)  # a look takes time from the process that is looked at
    raise AssertionError(f"no step {step} in time")


def test_a_killed_run_ends_like_an_undisturbed_one(
    tmp_path: Path, undisturbed: dict[str, Any], steelyard: Steelyard
) -> None:
    folder, step = folder_of(tmp_path), random.randrange(3, 28, 3)
    with process(tmp_path) as started:
        wait_for_step(folder, step, started)
        started.send_signal(signal.SIGKILL)
        started.communicate(timeout=PATIENCE)
    assert started.returncode == -signal.SIGKILL, f"killed at step {step}"
    assert folder.status()["state"] == "running" and folder.lock.exists()
    published = checkpoints.newest_valid(folder.checkpoints, say=print)
    ended = steelyard(*words(tmp_path))
    assert ended.code == 0, ended.err
    assert folder.status()["resumed_from"] == (checkpoints.step_of(published) if published else 0)
    assert_same(folder, undisturbed, f"killed at step {step}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_saves_says_so_and_ends_like_an_undisturbed_one(
    number: signal.Signals, tmp_path: Path, undisturbed: dict[str, Any], steelyard: Steelyard
) -> None:
    folder = folder_of(tmp_path)
    with process(tmp_path) as started:
        wait_for_step(folder, 3, started)
        started.send_signal(number)
        out, err = started.communicate(timeout=PATIENCE)
    assert (started.returncode, out) == (130, ""), err
    assert "stopping: the run is saved after this step" in err
    assert f"interrupted, state saved in {folder.path}; the same command resumes:\n  steelyard run prior" in err
    status = folder.status()
    assert status["state"] == "interrupted" and 3 <= status["step"] < STEPS
    assert not folder.lock.exists()
    ended = steelyard(*words(tmp_path))
    assert ended.code == 0 and f"done, resumed from step {status['step']}" in ended.out
    assert_same(folder, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_stopped_while_it_is_evaluated_leaves_a_status_and_no_lock(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steelyard: Steelyard
) -> None:
    before = signal.getsignal(signal.SIGTERM)  # Ray leaves its handler in a process of tests
    monkeypatch.setattr(execution, "_evaluate", lambda *_: signal.raise_signal(number))
    ended = steelyard(*words(tmp_path))
    assert ended.code == 130 and "the same command goes on from the last checkpoint" in ended.err
    status = folder_of(tmp_path).status()
    assert (status["state"], status["step"], status["error"]) == ("interrupted", STEPS, None)
    assert not folder_of(tmp_path).lock.exists()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_process_is_refused_and_told_who_works_here(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    with hold(folder.lock, "run folder", wait=False):
        before = folder.lock.read_text()
        with process(tmp_path) as second:
            out, err = second.communicate(timeout=PATIENCE)
        assert folder.lock.read_text() == before
    assert (second.returncode, out) == (2, "")
    assert err.startswith(f"error: run folder {folder.path} is in use by process {os.getpid()}")
    assert f"on host {socket.gethostname()}" in err and "outputs=FOLDER" in err
    assert not folder.path.exists()


def test_a_job_that_is_queued_again_waits_for_its_killed_start_and_goes_on_whatever_fresh_says(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steelyard: Steelyard
) -> None:
    """Its lock gets free when this start looks at it for the second time."""
    shutil.copytree(trained, tmp_path / "again")
    folder, waits, holds = folder_of(tmp_path / "again"), threading.Event(), threading.Event()

    def hold_on() -> None:
        with hold(folder.lock, "run folder", wait=False):
            holds.set()
            assert waits.wait(300)

    def sleep(seconds: float) -> None:
        waits.set()
        threading.Event().wait(seconds)

    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(hold_on)
        assert holds.wait(300)
        monkeypatch.setattr(locks.time, "sleep", sleep)
        ended = steelyard(*words(tmp_path / "again"), "--fresh")
        assert waits.is_set()
        held.result()
    assert ended.code == 0 and f"done, resumed from step {STEPS}" in ended.out, ended.err
    assert "this job was started again: --fresh held for its first start, and the run goes on" in ended.err


@pytest.mark.parametrize("flag", [[], ["--fresh"]])
def test_a_refused_run_changes_nothing_of_the_one_that_works_here(
    flag: list[str], trained: Path, steelyard: Steelyard
) -> None:
    folder = folder_of(trained)
    with hold(folder.lock, "run folder", wait=False):
        before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*") if path.name != folder.lock.name}
        assert steelyard(*words(trained), *flag).code == 2
        after = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*") if path.name != folder.lock.name}
    assert after == before


def test_a_run_cut_off_while_it_was_evaluated_trains_no_step_again(
    trained: Path, tmp_path: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, steelyard: Steelyard
) -> None:
    outputs = tmp_path / "outputs"
    shutil.copytree(trained, outputs)
    monkeypatch.setattr(trainer, "_Trainer", None)
    assert steelyard(*words(outputs)).code == 0
    assert folder_of(outputs).status()["resumed_from"] == STEPS
    assert_same(folder_of(outputs), undisturbed)


def disk_full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fill_disk_at_checkpoint(patch: pytest.MonkeyPatch, folder: RunFolder) -> None:
    """No space for the third checkpoint, when half of it is written."""
    plain = trainer._Trainer._save

    def save(self: Any, output_dir: str | None = None, state_dict: Any = None) -> None:
        plain(self, output_dir, state_dict)
        if str(output_dir).startswith(str(folder.path)) and self.state.global_step == 18:
            raise disk_full()

    patch.setattr(trainer._Trainer, "_save", save)


def fill_disk_at_metrics(patch: pytest.MonkeyPatch, folder: RunFolder) -> None:
    """No space for the metrics of step 21: half of their line is written."""
    plain = Path.open

    def opened(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        file = plain(self, mode, *arguments, **options)
        if self == folder.metrics and mode == "a" and folder.read_metrics("train")[-1:] == [(18, _anything)]:
            whole = file.write

            def write(text: str) -> int:
                whole(text[: len(text) // 2])
                raise disk_full()

            file.write = write
        return file

    patch.setattr(Path, "open", opened)


class _Anything:
    def __eq__(self, other: object) -> bool:
        return True


_anything = _Anything()


@pytest.mark.parametrize("fill_disk", [fill_disk_at_checkpoint, fill_disk_at_metrics])
def test_a_full_disk_fails_the_run_and_keeps_what_was_saved(
    fill_disk: Callable[[pytest.MonkeyPatch, RunFolder], None],
    tmp_path: Path,
    undisturbed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    steelyard: Steelyard,
) -> None:
    folder = folder_of(tmp_path)
    kept = [6, 12] if fill_disk is fill_disk_at_checkpoint else [12, 18]
    with monkeypatch.context() as patch:
        fill_disk(patch, folder)
        ended = steelyard(*words(tmp_path))
    assert (ended.code, ended.out) == (1, "")
    assert "the disk is full" in ended.err and "free some space and type the same command again" in ended.err
    status = folder.status()
    assert status["state"] == "failed" and "the disk is full" in status["error"]
    assert folder.read_metrics("train")[-1][0] == 18
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == sorted(f"checkpoint-{step}" for step in kept)
    assert not folder.lock.exists()
    ended = steelyard(*words(tmp_path))
    assert ended.code == 0 and f"done, resumed from step {kept[-1]}" in ended.out
    assert_same(folder, undisturbed)


@pytest.mark.parametrize("damage", ["missing", "truncated"])
@pytest.mark.parametrize("name", [*FILES, checkpoints.MANIFEST])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    name: str, damage: str, trained: Path, tmp_path: Path, undisturbed: dict[str, Any], steelyard: Steelyard
) -> None:
    outputs = tmp_path / "outputs"
    shutil.copytree(trained, outputs)
    folder = folder_of(outputs)
    broken = folder.checkpoints / f"checkpoint-{STEPS}" / name
    if damage == "missing":
        broken.unlink()
    else:
        broken.write_bytes(broken.read_bytes()[:-10])
    with interrupted_at("_evaluate"):
        ended = steelyard(*words(outputs))
    assert f"warning: checkpoint-{STEPS} cannot be used ({name}" in ended.err
    assert folder.status()["resumed_from"] == 36
    weights = folder.checkpoints / f"checkpoint-{STEPS}" / "model.safetensors"
    assert weights.read_bytes() == undisturbed["model.safetensors"]
    assert checkpoints.verify(weights.parent) == []


def test_the_cases_above_are_all_files_of_a_checkpoint(trained: Path) -> None:
    newest = folder_of(trained).checkpoints / f"checkpoint-{STEPS}"
    files = {path.name for path in newest.iterdir() if path.is_file()}
    assert files == {*FILES, checkpoints.MANIFEST, checkpoints.MEASURED}
    described = {
        f"model/{path.relative_to(newest / 'model')}" for path in (newest / "model").rglob("*") if path.is_file()
    }
    assert described and described <= set(json.loads((newest / checkpoints.MANIFEST).read_text(encoding="utf-8")))


def test_without_any_good_checkpoint_the_run_starts_anew(
    trained: Path, tmp_path: Path, undisturbed: dict[str, Any], steelyard: Steelyard
) -> None:
    outputs = tmp_path / "outputs"
    shutil.copytree(trained, outputs)
    folder = folder_of(outputs)
    for checkpoint in folder.checkpoints.iterdir():
        (checkpoint / "optimizer.pt").unlink()
    ended = steelyard(*words(outputs))
    assert ended.code == 0 and ended.err.count("cannot be used (optimizer.pt is missing)") == 2
    assert folder.status()["resumed_from"] == 0
    assert_same(folder, undisturbed)


def test_a_reference_whose_training_is_interrupted_is_not_used(
    tmp_path: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, steelyard: Steelyard
) -> None:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path / "home"))
    plain, steps = trainer._Watcher.on_step_end, []

    def pressed(self: Any, *arguments: Any, **options: Any) -> None:
        steps.append(1)
        if len(steps) == 3:  # the reference is trained first
            signal.raise_signal(signal.SIGINT)
        plain(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(trainer._Watcher, "on_step_end", pressed)
        assert steelyard(*words(tmp_path)).code == 130
    assert not list((tmp_path / "home" / "cache" / "reference-models").glob("[!.]*/model"))
    assert steelyard(*words(tmp_path)).code == 0
    assert_same(folder_of(tmp_path), undisturbed)
