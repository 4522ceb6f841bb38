"""What a worker leaves of a cell: its record, its log, and its run in the right folder."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from recipes.core import runner
from recipes.core.errors import UserError
from recipes.core.runner import RunOutcome
from recipes.core.trial import manifest as manifests
from recipes.core.trial import worker
from recipes.core.trial.cells import trial_cells
from recipes.core.trial.states import read_record
from recipes.core.trial.worker import STOP, run_cell

NAME = "ntp-s0"
Run = Callable[[Callable[..., Any]], list[dict[str, Any]]]


def folder_of(outputs: Path, *overrides: str) -> Path:
    """A trial of one cell."""
    cells = trial_cells("prior", ["budget=smoke", "tracker=none", f"outputs={outputs}", *overrides], ["ntp"], [0])
    folder, manifest, _ = manifests.plan("trial", "prior", cells, "", 1)
    manifests.write(folder, manifest)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "outputs")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Run:
    """`runs(act)` makes every run an act; returns a list that gets what each run was called with."""

    def make(act: Callable[..., Any]) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        def run(config: Any, **keywords: Any) -> RunOutcome:
            calls.append({"config": config, **keywords})
            return RunOutcome(Path(), act() or "done", {}, False, 0, None)

        monkeypatch.setattr(runner, "run", run)
        return calls

    return make


def log_of(folder: Path) -> str:
    return (folder / "logs" / f"{NAME}.log").read_text()


def raising(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def test_a_cell_is_recorded_with_its_process_while_it_runs_and_with_its_end(folder: Path, runs: Run) -> None:
    seen = []
    runs(lambda: seen.append(read_record(folder, NAME)))
    assert run_cell(folder, NAME) == "done"
    assert (seen[0]["state"], seen[0]["pid"], seen[0]["attempts"]) == ("running", os.getpid(), 1)
    assert read_record(folder, NAME) | {"born": 0} == seen[0] | {"state": "done", "born": 0}


def test_the_run_is_that_of_the_manifest_and_can_be_typed_alone(folder: Path, runs: Run) -> None:
    calls = runs(lambda: None)
    run_cell(folder, NAME)
    (call,) = calls
    config = call["config"]
    assert (config.arm, config.seed, config.outputs) == ("ntp", 0, str(folder.parents[2]))
    assert config.tracker.group == f"prior-{folder.name}"
    assert call["wait"] and not call["fresh"]
    threads = manifests.read(folder).threads
    words = f"budget=smoke tracker=none outputs={folder.parents[2]} arm=ntp seed=0 trainer.threads={threads}"
    assert call["command"] == f"steelyard run prior {words}"


@pytest.mark.parametrize("name", ["a b", "it's", "back\\slash\\"])
def test_the_run_lands_beside_its_trial_even_if_both_were_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: Run, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder_of(Path("somewhere"))
    (tmp_path / "somewhere").rename(tmp_path / name)
    (moved,) = (tmp_path / name / "prior" / "trials").iterdir()
    calls = runs(lambda: None)
    assert run_cell(moved, NAME) == "done", read_record(moved, NAME)
    assert calls[0]["config"].outputs == str(tmp_path / name)


def test_a_typed_group_of_the_tracker_wins(tmp_path: Path, runs: Run) -> None:
    folder, calls = folder_of(tmp_path, "tracker.group=mine"), runs(lambda: None)
    run_cell(folder, NAME)
    assert calls[0]["config"].tracker.group == "mine"


def test_all_that_a_cell_prints_goes_to_its_log_and_nothing_else(folder: Path, runs: Run, capfd) -> None:
    def talk() -> None:
        print("printed ✓")
        os.write(1, b"from C\n")
        print("a warning", file=sys.stderr)
        os.write(2, b"from C, too\n")
        os.system("echo a child")

    runs(talk)
    run_cell(folder, NAME)
    print("after")
    assert capfd.readouterr() == ("after\n", "")
    assert log_of(folder).splitlines() == ["printed ✓", "from C", "a warning", "from C, too", "a child"]


def test_a_logger_made_in_one_cell_can_be_used_in_the_next(folder: Path, runs: Run, capfd) -> None:
    logger = logging.getLogger("of a library")
    logger.propagate = False

    def warn() -> None:
        if not logger.handlers:
            logger.addHandler(logging.StreamHandler())
        logger.warning("careful")

    runs(warn)
    try:
        run_cell(folder, NAME)
        run_cell(folder, NAME)
    finally:
        logger.handlers.clear()
    assert log_of(folder) == "careful\ncareful\n"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "recorded"),
    [
        (
            UserError("is missing", "data.path", "type data.path=FOLDER"),
            "data.path: is missing\n  type data.path=FOLDER",
        ),
        (MemoryError("no memory"), "MemoryError: no memory"),
        (ValueError("two\nlines"), "ValueError: two\nlines"),
    ],
)
def test_what_a_cell_raises_is_recorded_and_logged_and_goes_no_further(
    folder: Path, runs: Run, error: Exception, recorded: str, capfd
) -> None:
    runs(raising(error))
    assert run_cell(folder, NAME) == "failed"
    assert (read_record(folder, NAME)["state"], read_record(folder, NAME)["error"]) == ("failed", recorded)
    assert "Traceback (most recent call last)" in log_of(folder)
    assert capfd.readouterr() == ("", "")


def test_a_second_attempt_is_appended_to_the_log_and_clears_the_error(folder: Path, runs: Run) -> None:
    runs(raising(ValueError("first")))
    run_cell(folder, NAME)
    runs(lambda: print("second"))
    run_cell(folder, NAME)
    record = read_record(folder, NAME)
    assert (record["state"], record["error"], record["attempts"]) == ("done", "", 2)
    assert "ValueError: first" in log_of(folder) and log_of(folder).endswith("second\n")


def test_the_state_of_a_run_that_saved_and_stopped_is_interrupted(folder: Path, runs: Run) -> None:
    runs(lambda: "interrupted")
    assert run_cell(folder, NAME) == "interrupted"
    assert read_record(folder, NAME)["state"] == "interrupted"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_interrupt_a_cell_and_leave_the_handlers_as_they_were(folder: Path, runs: Run, number: int) -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    runs(lambda: signal.raise_signal(number))
    assert run_cell(folder, NAME) == "interrupted"
    assert (read_record(folder, NAME)["state"], read_record(folder, NAME)["error"]) == ("interrupted", "")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_a_stopped_trial_starts_no_cell(folder: Path, runs: Run) -> None:
    calls = runs(lambda: None)
    (folder / STOP).touch()
    assert run_cell(folder, NAME) == "queued"
    assert (calls, read_record(folder, NAME)) == ([], {})
    assert not (folder / "logs").exists()


def test_a_cell_that_runs_ends_when_its_trial_is_stopped(folder: Path, runs: Run) -> None:
    def until_stopped() -> None:
        (folder / STOP).touch()
        time.sleep(60)

    runs(until_stopped)
    began = time.monotonic()
    assert run_cell(folder, NAME) == "interrupted"
    assert time.monotonic() - began < 30


def test_a_cell_that_the_config_files_have_moved_is_refused(folder: Path, runs: Run) -> None:
    calls = runs(lambda: None)
    manifest = manifests.read(folder)
    moved = replace(manifest.cells[0], folder="prior/ntp/0000000000-s0")
    manifests.write(folder, replace(manifest, cells=(moved,)))
    assert run_cell(folder, NAME) == "failed"
    error = read_record(folder, NAME)["error"]
    assert error.startswith(
        f"{folder / manifests.NAME}: the config files, the data or a model have changed since this was planned"
    )
    assert manifest.cells[0].folder in error and "finished runs are still reused" in error
    assert calls == []


def test_a_manifest_that_is_gone_is_a_failure_of_the_cell(folder: Path, runs: Run) -> None:
    runs(lambda: None)
    (folder / manifests.NAME).unlink()
    assert run_cell(folder, NAME) == "failed"
    assert "is no manifest of a trial or sweep" in read_record(folder, NAME)["error"]


def test_of_a_cell_on_two_machines_the_first_process_keeps_the_record(
    folder: Path, runs: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = runs(lambda: None)
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "a[1-2]", "SLURM_PROCID": "1"}
    for name, value in step.items():
        monkeypatch.setenv(name, value)
    assert run_cell(folder, NAME) == "done" and len(calls) == 1
    assert read_record(folder, NAME) == {}
    monkeypatch.setenv("SLURM_PROCID", "0")
    run_cell(folder, NAME)
    assert read_record(folder, NAME)["state"] == "done"


@pytest.mark.parametrize(
    ("ended", "job", "stopped", "again"),
    [
        ("interrupted", None, False, True),
        ("interrupted", "RUNNING", False, True),
        ("interrupted", "COMPLETING", False, False),
        ("interrupted", None, True, False),
        ("done", None, False, False),
    ],
)
def test_a_job_queues_itself_again_if_somebody_else_stopped_it_and_it_is_not_cancelled(
    ended: str, job: str | None, stopped: bool, again: bool, folder: Path, runs: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def act() -> str:
        if stopped:
            (folder / STOP).touch()
        return ended

    runs(act)
    if job:
        commands = folder / "bin"
        commands.mkdir()
        (commands / "scontrol").write_text(
            f'#!/bin/sh\n[ "$*" = "show job 7" ] && echo "JobId=7 JobState={job} Reason=x"'
        )
        (commands / "scontrol").chmod(0o755)
        monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(worker, "_end_with_parent", lambda parent: None)
    (folder / worker.LAUNCH).write_text("1")
    queued: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: queued.append(number))
    try:
        config = OmegaConf.create({"folder": str(folder), "cell": NAME, "launch": "1", "cwd": os.getcwd()})
        assert worker.task(config) == ended
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert queued == [signal.SIGUSR2] * again


def test_cells_of_one_worker_read_their_manifest_once(
    tmp_path: Path, runs: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["budget=smoke", "tracker=none", f"outputs={tmp_path}"]
    folder, manifest, _ = manifests.plan("trial", "prior", trial_cells("prior", words, ["ntp"], range(5)), "", 1)
    manifests.write(folder, manifest)
    reads, read = [], manifests.read
    monkeypatch.setattr(manifests, "read", lambda folder: reads.append(folder) or read(folder))
    runs(lambda: None)
    assert [run_cell(folder, cell.name) for cell in manifest.cells] == ["done"] * 5
    assert len(reads) == 1
