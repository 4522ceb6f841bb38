"""Driving a trial to its end with a launcher that does what a test says."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from recipes.core.errors import RunFailed, UserError
from recipes.core.runs.folder import CUT_OFF, DAMAGED, DONE, FAILED, INTERRUPTED, QUEUED, RunFolder
from recipes.core.storage.files import write_json
from recipes.core.storage.locks import hold
from recipes.core.storage.processes import myself
from recipes.core.trial import drive as driving
from recipes.core.trial import manifest as manifests
from recipes.core.trial.cells import Cell
from recipes.core.trial.drive import drive
from recipes.core.trial.manifest import Manifest, outputs_of
from recipes.core.trial.states import CellState, read_record, record_end, record_start
from recipes.core.trial.worker import STOP
from tests.core.trial.conftest import FakeLauncher, act, all_end

NAMES = ["prior-s0", "ntp-s0", "prior-s1", "ntp-s1"]
Planned = tuple[Path, Manifest]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "LOOK_EVERY_SECONDS", 0.02)


def driven(planned: Planned, launcher: FakeLauncher, retry: bool = False, only: Sequence[str] | None = None):
    """State by name, and whether it was told to stop."""
    folder, manifest = planned
    states, stopped = drive(folder, manifest, launcher, retry, only)
    return {state.cell.name: state.state for state in states}, stopped


def error_of(planned: Planned, name: str) -> str:
    return read_record(planned[0], name)["error"]


def run_of(planned: Planned, name: str) -> RunFolder:
    return RunFolder(outputs_of(planned[0]) / planned[1].cell(name).folder)


def ended(**states: str):
    """Each cell ends as told by its name with an underscore; the others are done."""

    def play(folder: Path, names: Sequence[str]) -> None:
        for name in names:
            state = states.get(name.replace("-", "_"), DONE)
            act(folder, name, state, f"{name} is broken" if state == FAILED else "")

    return play


def raises(folder: Path, names: Sequence[str]) -> None:
    raise OSError("sbatch: error: no such\n  partition")


def presses(number: int, first: int = 1):
    """After `first` cells the driver gets a signal; the launcher starts no other."""

    def play(folder: Path, names: Sequence[str]) -> None:
        all_end(DONE)(folder, names[:first])
        signal.raise_signal(number)

    return play


@contextmanager
def alive_elsewhere(run: RunFolder, seconds: float):
    """Another process works on a run for a while, and is done."""

    def work() -> None:
        with hold(run.lock, "run folder", wait=False):
            started.set()
            time.sleep(seconds)
            run.finish()

    started, thread = threading.Event(), threading.Thread(target=work)
    thread.start()
    started.wait()
    try:
        yield
    finally:
        thread.join()


def test_cells_go_to_the_launcher_by_the_machines_and_cores_that_their_processes_take(planned: Planned) -> None:
    folder, manifest = planned
    keys = ("trainer.nodes=2", "trainer.nproc=4")
    large = [replace(cell, overrides=(*cell.overrides, *keys)) if cell.seed else cell for cell in manifest.cells]
    launcher = FakeLauncher()
    driven((folder, replace(manifest, cells=tuple(large))), launcher)
    assert launcher.launches == [["prior-s0", "ntp-s0"], ["prior-s1", "ntp-s1"]]
    assert (launcher.threads, launcher.nodes) == ([1, 4], [1, 2])


def test_all_cells_go_to_the_launcher_at_once_in_the_order_of_the_manifest(planned: Planned) -> None:
    launcher = FakeLauncher()
    states, stopped = driven(planned, launcher)
    assert (launcher.launches, launcher.threads, stopped) == ([NAMES], [1], False)
    assert states == dict.fromkeys(NAMES, DONE)


def test_the_manifest_is_written_before_anything_starts(planned: Planned) -> None:
    seen = []

    def look(folder: Path, names: Sequence[str]) -> None:
        seen.append(manifests.read(folder))
        all_end(DONE)(folder, names)

    driven(planned, FakeLauncher(look))
    assert seen == [planned[1]]


def test_done_cells_are_reused_and_if_all_are_nothing_is_launched(planned: Planned) -> None:
    manifests.write(*planned)
    act(planned[0], "ntp-s0", DONE)
    run_of(planned, "prior-s1").finish()  # by `steelyard run`
    launcher = FakeLauncher()
    driven(planned, launcher)
    driven(planned, launcher)
    assert launcher.launches == [["prior-s0", "ntp-s1"]]
    assert read_record(planned[0], "ntp-s0")["attempts"] == 1


def test_a_cell_that_fails_stops_no_other_and_keeps_its_error(planned: Planned) -> None:
    launcher = FakeLauncher(ended(ntp_s0=FAILED))
    states, _ = driven(planned, launcher)
    assert states == dict.fromkeys(NAMES, DONE) | {"ntp-s0": FAILED}
    assert launcher.launches == [NAMES]
    assert error_of(planned, "ntp-s0") == "ntp-s0 is broken"


def test_failed_cells_stay_failed_and_keep_their_error_until_they_are_retried(planned: Planned) -> None:
    driven(planned, FakeLauncher(ended(ntp_s0=FAILED)))
    again = FakeLauncher()
    assert driven(planned, again)[0]["ntp-s0"] == FAILED
    assert (again.launches, error_of(planned, "ntp-s0")) == ([], "ntp-s0 is broken")
    assert driven(planned, again, retry=True)[0]["ntp-s0"] == DONE
    assert (again.launches, error_of(planned, "ntp-s0")) == ([["ntp-s0"]], "")


def test_a_retry_that_fails_again_has_failed(planned: Planned) -> None:
    driven(planned, FakeLauncher(ended(ntp_s0=FAILED)))
    again = FakeLauncher(all_end(FAILED, "worse"))
    assert driven(planned, again, retry=True)[0]["ntp-s0"] == FAILED
    assert (again.launches, error_of(planned, "ntp-s0")) == ([["ntp-s0"]], "worse")


def test_a_retry_that_the_launcher_did_not_get_to_is_launched_again(planned: Planned) -> None:
    driven(planned, FakeLauncher(all_end(FAILED)))

    def first_only(folder: Path, names: Sequence[str]) -> None:
        act(folder, names[0], DONE)
        raise OSError("the pool is broken")

    again = FakeLauncher(first_only, all_end(DONE))
    assert set(driven(planned, again, retry=True)[0].values()) == {DONE}
    assert again.launches == [NAMES, NAMES[1:]]


def test_only_the_named_cells_are_run(planned: Planned) -> None:
    launcher = FakeLauncher()
    states, _ = driven(planned, launcher, only=["ntp-s0"])
    assert launcher.launches == [["ntp-s0"]]
    assert states == dict.fromkeys(NAMES, QUEUED) | {"ntp-s0": DONE}


def test_a_launcher_that_raises_after_some_is_launched_again_for_the_others(planned: Planned, capsys) -> None:
    def some(folder: Path, names: Sequence[str]) -> None:
        all_end(DONE)(folder, names[:2])
        raise OSError("sbatch: error: no such\n  partition")

    launcher = FakeLauncher(some, all_end(DONE))
    assert set(driven(planned, launcher)[0].values()) == {DONE}
    assert launcher.launches == [NAMES, NAMES[2:]]
    assert "the launcher ended early (OSError: sbatch: error: no such partition)" in capsys.readouterr().err


def test_a_launcher_that_starts_nothing_fails_with_its_reason(planned: Planned) -> None:
    launcher = FakeLauncher(raises)
    with pytest.raises(RunFailed) as caught:
        driven(planned, launcher)
    assert str(caught.value).splitlines()[0] == (
        "--launcher slurm: the launcher starts no cell: sbatch: error: no such partition"
    )
    assert len(launcher.launches) == 1
    assert not (planned[0] / "owner.lock").exists()


def test_a_launcher_that_ends_without_a_word_and_starts_nothing_fails(planned: Planned) -> None:
    with pytest.raises(RunFailed, match="the launcher starts no cell"):
        driven(planned, FakeLauncher(lambda folder, names: None))


def test_a_launcher_that_starts_nothing_of_what_is_retried_fails(planned: Planned) -> None:
    driven(planned, FakeLauncher(all_end(FAILED)))
    with pytest.raises(RunFailed, match="the launcher starts no cell"):
        driven(planned, FakeLauncher(raises), retry=True)


def test_a_cell_whose_process_vanishes_is_started_once_more_on_its_own(planned: Planned, capsys) -> None:
    launcher = FakeLauncher(ended(ntp_s0=CUT_OFF, prior_s1=CUT_OFF), all_end(DONE))
    assert set(driven(planned, launcher)[0].values()) == {DONE}
    assert launcher.launches == [NAMES, ["ntp-s0"], ["prior-s1"]]
    assert "the process of ntp-s0 is gone; starting the cell again on its own" in capsys.readouterr().err


def test_a_cell_whose_process_vanishes_twice_has_failed_and_says_where_to_look(planned: Planned) -> None:
    launcher = FakeLauncher(ended(ntp_s0=CUT_OFF))
    states, _ = driven(planned, launcher)
    assert states == dict.fromkeys(NAMES, DONE) | {"ntp-s0": FAILED}
    assert launcher.launches == [NAMES, ["ntp-s0"]]
    log = planned[0] / "logs" / "ntp-s0.log"
    assert error_of(planned, "ntp-s0") == (
        f"its process ended without a word, twice: killed, or out of memory; its output is in {log}"
    )


def test_a_cell_that_was_cut_off_with_its_driver_has_both_starts_again(planned: Planned) -> None:
    manifests.write(*planned)
    act(planned[0], "ntp-s0", CUT_OFF)

    def breaks(folder: Path, names: Sequence[str]) -> None:
        act(folder, "prior-s0", DONE)
        raise OSError("the pool is broken")

    launcher = FakeLauncher(breaks, ended(ntp_s0=CUT_OFF), all_end(DONE))
    assert set(driven(planned, launcher)[0].values()) == {DONE}
    assert launcher.launches == [NAMES, NAMES[1:], ["ntp-s0"]]


def test_a_cell_that_was_interrupted_from_outside_is_started_again(planned: Planned) -> None:
    launcher = FakeLauncher(ended(ntp_s0=INTERRUPTED), all_end(DONE))
    assert set(driven(planned, launcher)[0].values()) == {DONE}
    assert launcher.launches == [NAMES, ["ntp-s0"]]


def test_a_cell_that_is_interrupted_for_ever_is_left_after_many_starts(planned: Planned, monkeypatch) -> None:
    monkeypatch.setattr(driving, "MOST_STARTS", 3)
    for _ in range(2):  # a start by hand begins anew
        launcher = FakeLauncher(ended(ntp_s0=INTERRUPTED))
        assert driven(planned, launcher)[0]["ntp-s0"] == INTERRUPTED
        assert [names[-1:] == ["ntp-s0"] or "ntp-s0" in names for names in launcher.launches] == [True] * 3


def test_cells_that_outlive_their_launcher_are_waited_for(planned: Planned) -> None:
    def leave_one(folder: Path, names: Sequence[str]) -> None:
        record_start(folder, "ntp-s1")
        all_end(DONE)(folder, names[:3])
        context.__enter__()

    context = alive_elsewhere(run_of(planned, "ntp-s1"), 0.2)
    launcher = FakeLauncher(leave_one)
    states, _ = driven(planned, launcher)
    context.__exit__(None, None, None)
    assert states == dict.fromkeys(NAMES, DONE)
    assert launcher.launches == [NAMES]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_stop_the_trial(planned: Planned, number: int, capsys) -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    launcher = FakeLauncher(presses(number))
    states, stopped = driven(planned, launcher)
    assert stopped and launcher.launches == [NAMES]
    assert states == dict.fromkeys(NAMES, QUEUED) | {"prior-s0": DONE}
    assert (planned[0] / STOP).exists() and not (planned[0] / "owner.lock").exists()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_a_stopped_trial_says_so_and_goes_on_when_it_is_started_again(planned: Planned, capfd) -> None:
    driven(planned, FakeLauncher(presses(signal.SIGINT)))
    assert "stopping: running cells are saved, no other starts" in capfd.readouterr().err
    seen = []

    def look(folder: Path, names: Sequence[str]) -> None:
        seen.append((folder / STOP).exists())
        all_end(DONE)(folder, names)

    again = FakeLauncher(look)
    states, stopped = driven(planned, again)
    assert (again.launches, stopped, seen) == ([NAMES[1:]], False, [False])
    assert set(states.values()) == {DONE}


def test_a_stop_starts_no_cell_once_more_and_fails_none(planned: Planned) -> None:
    def vanish_and_press(folder: Path, names: Sequence[str]) -> None:
        all_end(CUT_OFF)(folder, names)
        signal.raise_signal(signal.SIGTERM)

    launcher = FakeLauncher(vanish_and_press)
    states, stopped = driven(planned, launcher)
    assert stopped and launcher.launches == [NAMES]
    assert set(states.values()) == {CUT_OFF}


def test_a_stop_while_vanished_cells_are_started_again_fails_none_of_the_others(planned: Planned) -> None:
    launcher = FakeLauncher(all_end(CUT_OFF), presses(signal.SIGTERM))
    states, stopped = driven(planned, launcher)
    assert stopped and launcher.launches == [NAMES, ["prior-s0"]]
    assert states == dict.fromkeys(NAMES, CUT_OFF) | {"prior-s0": DONE}


def test_a_second_ctrl_c_leaves_at_once(planned: Planned) -> None:
    def twice(folder: Path, names: Sequence[str]) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("went on")

    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    states, stopped = driven(planned, FakeLauncher(twice))
    assert stopped and set(states.values()) == {QUEUED}
    assert not (planned[0] / "owner.lock").exists()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_a_second_driver_is_refused_with_host_and_process_of_the_first(planned: Planned) -> None:
    def drive_again(folder: Path, names: Sequence[str]) -> None:
        with pytest.raises(UserError) as caught:
            driven(planned, FakeLauncher())
        told.append(str(caught.value))
        all_end(DONE)(folder, names)

    told: list[str] = []
    assert set(driven(planned, FakeLauncher(drive_again))[0].values()) == {DONE}
    assert told[0].startswith(
        f"trial {planned[0]} is in use by process {os.getpid()} on host {socket.gethostname()}\n  wait for it to end"
    )


def test_the_lock_of_a_dead_driver_is_taken_over(planned: Planned) -> None:
    manifests.write(*planned)
    owner = myself() | {"pid": 2**22 + 1, "born": "0", "token": "x"}
    write_json(planned[0] / "owner.lock", owner)
    assert set(driven(planned, FakeLauncher())[0].values()) == {DONE}


@pytest.mark.parametrize("shift", [-86_400, 86_400])
def test_a_clock_that_jumps_confuses_nothing(planned: Planned, shift: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import UTC, datetime, timedelta

    def jump(folder: Path, names: Sequence[str]) -> None:
        ended(ntp_s0=FAILED, prior_s1=INTERRUPTED)(folder, names)
        when = time.time() + shift
        for path in [*folder.rglob("*.json"), *outputs_of(folder).rglob("status.json")]:
            os.utime(path, (when, when))
        for path in outputs_of(folder).rglob("status.json"):
            run, started = RunFolder(path.parent), (datetime.now(UTC) + timedelta(seconds=shift)).isoformat()
            run.finish(started=started) if run.status()["state"] == DONE else run.update_status(started=started)

    launcher = FakeLauncher(jump, all_end(DONE))
    states, _ = driven(planned, launcher)
    assert states == dict.fromkeys(NAMES, DONE) | {"ntp-s0": FAILED}
    assert launcher.launches == [NAMES, ["prior-s1"]]


def test_starts_in_the_same_second_are_told_apart(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.core.runs.folder.now", lambda: "2026-01-01T00:00:00+00:00")
    launcher = FakeLauncher(all_end(FAILED, "first"), all_end(FAILED, "second"))
    driven(planned, launcher)
    states, _ = driven(planned, launcher, retry=True)
    assert set(states.values()) == {FAILED} and launcher.launches == [NAMES, NAMES]
    assert error_of(planned, "prior-s0") == "second"


def test_a_log_gets_a_line_for_each_cell_that_ends_and_none_for_the_others(planned: Planned, capsys) -> None:
    manifests.write(*planned)
    act(planned[0], "prior-s1", DONE)

    def slowly(folder: Path, names: Sequence[str]) -> None:
        for name in names:
            act(folder, name, FAILED if name == "ntp-s0" else DONE, "two\nlines" if name == "ntp-s0" else "")
            time.sleep(0.05)

    driven(planned, FakeLauncher(slowly))
    assert capsys.readouterr().err.splitlines() == [
        "prior-s0: done",
        "ntp-s0: failed: two",
        "ntp-s1: done",
    ]


def test_records_of_cells_are_whole_files(planned: Planned) -> None:
    driven(planned, FakeLauncher(ended(ntp_s0=FAILED)))
    records = sorted((planned[0] / "cells").iterdir())
    assert [path.name for path in records] == [f"{name}.json" for name in sorted(NAMES)]
    assert {json.loads(path.read_text())["state"] for path in records} == {DONE, FAILED}


def test_a_cell_that_another_process_has_finished_meanwhile_is_done(planned: Planned) -> None:
    def fail_then_done(folder: Path, names: Sequence[str]) -> None:
        all_end(DONE)(folder, names[1:])
        record_start(folder, names[0])
        run_of(planned, names[0]).finish()
        record_end(folder, names[0], FAILED, "could not write the record of the report")

    assert set(driven(planned, FakeLauncher(fail_then_done))[0].values()) == {DONE}


def damaged(planned: Planned, name: str) -> None:
    run = run_of(planned, name)
    (run.path / "config.yaml").write_text("recipe: prior\narm: prior\nseed: 7\n")
    assert "config.yaml" in run.damage()


def test_a_damaged_cell_is_left_out_until_retry_does_it_anew(planned: Planned) -> None:
    driven(planned, FakeLauncher())
    damaged(planned, "ntp-s0")
    again = FakeLauncher()
    states, _ = driven(planned, again)
    assert states["ntp-s0"] == DAMAGED and again.launches == []
    states, _ = driven(planned, again, retry=True)
    assert again.launches == [["ntp-s0"]] and states == dict.fromkeys(NAMES, DONE)


def test_fresh_does_every_cell_anew_but_not_under_a_live_owner(planned: Planned) -> None:
    driven(planned, FakeLauncher())
    (run_of(planned, "ntp-s0").path / "old.txt").touch()
    with hold(run_of(planned, "ntp-s1").lock, "run folder", wait=False), pytest.raises(UserError, match="in use"):
        drive(*planned, FakeLauncher(), False, fresh=True)
    assert (run_of(planned, "ntp-s0").path / "old.txt").exists()
    again = FakeLauncher()
    states, _ = drive(*planned, again, False, fresh=True)
    assert again.launches == [NAMES] and {state.state for state in states} == {DONE}
    assert not (run_of(planned, "ntp-s0").path / "old.txt").exists()


def test_arms_that_train_nothing_count_one_step_beside_those_that_do() -> None:
    small = ("trainer.max_steps=40",)
    arms = [("tildev2", 0), ("bm25", 0), ("tildev2", 1), ("bm25", 1)]
    cells = [Cell(f"{arm}-s{seed}", f"{arm}-s{seed}", arm, seed, (f"arm={arm}", *small), "") for arm, seed in arms]
    manifest = Manifest("trial", "tildev2", "", "", 1, tuple(cells))
    assert driving._steps_of(manifest) == {"tildev2": 40, "bm25": 1}


def test_a_cell_that_goes_on_counts_no_step_before_the_checkpoint_that_it_went_on_from(planned: Planned) -> None:
    first = CellState(planned[1].cells[0], CUT_OFF, step=95, max_steps=100, started="2026-01-01T00:00:00+00:00")
    assert driving._steps_before(first, first) == 95
    again = replace(first, state="running", step=52, resumed_from=50, started="2026-01-02T00:00:00+00:00")
    assert driving._steps_before(again, first) == 50
