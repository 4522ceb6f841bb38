"""States of cells, read from run folders, locks and records as runs and workers leave them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from recipes.core.runs import index as indexes
from recipes.core.runs.folder import CUT_OFF, DAMAGED, DONE, FAILED, INTERRUPTED, QUEUED, RUNNING, RunFolder
from recipes.core.runs.index import RunIndex
from recipes.core.storage.locks import hold
from recipes.core.trial import manifest as manifests
from recipes.core.trial.cells import Cell
from recipes.core.trial.manifest import Manifest, outputs_of
from recipes.core.trial.states import (
    CellState,
    cell_state,
    cell_states,
    eta_seconds,
    forget,
    newest_metric,
    read_record,
    record_end,
    record_start,
    states_of,
)
from tests.core.trial.conftest import act, leave_dead, leave_dead_lock, make_cell


@pytest.fixture
def folder(planned: tuple[Path, Manifest]) -> Path:
    return planned[0]


@pytest.fixture
def cell() -> Cell:
    return make_cell("prior", 0)


@pytest.fixture
def run(folder: Path, cell: Cell) -> RunFolder:
    return RunFolder(outputs_of(folder) / cell.folder)


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="seconds")


def training(step: int, *, resumed_from: int = 0, started: str = "", max_steps: int = 100) -> CellState:
    return CellState(
        make_cell("ntp", 0), RUNNING, step=step, max_steps=max_steps, resumed_from=resumed_from, started=started
    )


def test_what_was_never_started_is_queued(folder: Path, cell: Cell, run: RunFolder) -> None:
    assert cell_state(folder, cell) == CellState(cell, QUEUED, run=run.path)
    assert not folder.exists()


@pytest.mark.parametrize("state", [DONE, INTERRUPTED])
def test_the_run_folder_says_how_a_cell_ended(folder: Path, cell: Cell, run: RunFolder, state: str) -> None:
    record_start(folder, cell.name)
    started, finished = "2026-01-01T00:00:00+00:00", "2026-01-01T00:01:00+00:00"
    run.update_status(state=state, step=6, max_steps=6, started=started, finished=finished)
    if state == DONE:
        run.finish(finished=finished)
    record_end(folder, cell.name, state)
    read = cell_state(folder, cell)
    assert (read.state, read.step, read.max_steps, read.attempts) == (state, 6, 6, 1)
    assert (read.started, read.finished, read.error) == (started, finished, "")


def test_a_run_is_done_when_its_report_is_written_too(folder: Path, cell: Cell, run: RunFolder) -> None:
    record_start(folder, cell.name)
    record_end(folder, cell.name, FAILED, "of an earlier attempt")
    run.finish(step=6, max_steps=6)
    with hold(run.lock, "run folder", wait=False):
        assert cell_state(folder, cell).state == RUNNING
    assert cell_state(folder, cell).state == DONE
    leave_dead_lock(run.lock)
    assert cell_state(folder, cell).state == CUT_OFF


def test_a_run_that_failed_elsewhere_is_failed_with_its_error(folder: Path, cell: Cell, run: RunFolder) -> None:
    run.update_status(state=FAILED, error="RunFailed: loss is NaN")
    assert (cell_state(folder, cell).state, cell_state(folder, cell).error) == (FAILED, "RunFailed: loss is NaN")


def test_a_cell_that_failed_before_it_had_a_folder_is_failed(folder: Path, cell: Cell) -> None:
    record_start(folder, cell.name)
    record_end(folder, cell.name, FAILED, "data.path: is missing\n  type data.path=FOLDER")
    state = cell_state(folder, cell)
    assert (state.state, state.attempts) == (FAILED, 1)
    assert state.error == "data.path: is missing\n  type data.path=FOLDER"


def test_a_failed_attempt_whose_run_was_done_elsewhere_is_done(folder: Path, cell: Cell, run: RunFolder) -> None:
    record_start(folder, cell.name)
    record_end(folder, cell.name, FAILED, "disk full")
    run.finish()
    assert (cell_state(folder, cell).state, cell_state(folder, cell).error) == (DONE, "")


def test_an_attempt_that_failed_after_an_interrupted_one_is_failed(folder: Path, cell: Cell, run: RunFolder) -> None:
    run.update_status(state=INTERRUPTED)
    record_start(folder, cell.name)
    record_end(folder, cell.name, FAILED, "the config files have changed")
    assert cell_state(folder, cell).state == FAILED


def test_a_live_owner_of_the_run_folder_is_running_whatever_was_before(
    folder: Path, cell: Cell, run: RunFolder
) -> None:
    run.update_status(state=FAILED, error="before")
    record_start(folder, cell.name)
    record_end(folder, cell.name, FAILED, "before")
    with hold(run.lock, "run folder", wait=False):
        assert (cell_state(folder, cell).state, cell_state(folder, cell).error) == (RUNNING, "")


def test_a_cell_that_still_imports_torch_is_running(folder: Path, cell: Cell) -> None:
    record_start(folder, cell.name)
    assert cell_state(folder, cell).state == RUNNING


@pytest.mark.parametrize("state", [None, RUNNING, FAILED, INTERRUPTED])
def test_a_cell_whose_process_is_gone_is_cut_off(folder: Path, cell: Cell, run: RunFolder, state: str | None) -> None:
    if state:
        run.update_status(state=state, error="before" if state == FAILED else None)
    record_start(folder, cell.name)
    leave_dead(folder, cell.name)
    assert (cell_state(folder, cell).state, cell_state(folder, cell).error) == (CUT_OFF, "")


def test_a_run_cut_off_outside_the_trial_is_cut_off(folder: Path, cell: Cell, run: RunFolder) -> None:
    run.update_status(state=RUNNING, step=3, max_steps=6)
    run.lock.write_text('{"host": "elsewhere", "pid": 1, "born": "1", "token": "x"}')
    import os

    os.utime(run.lock, (0, 0))
    after = cell_state(folder, cell)
    assert (after.state, after.step, after.attempts) == (CUT_OFF, 3, 0)


def test_a_fresh_lock_of_another_host_is_running(folder: Path, cell: Cell, run: RunFolder) -> None:
    run.update_status(state=RUNNING)
    run.lock.write_text('{"host": "elsewhere", "pid": 1, "born": "1", "token": "x"}')
    assert cell_state(folder, cell).state == RUNNING


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00"])
def test_damaged_records_and_statuses_count_as_absent(folder: Path, cell: Cell, run: RunFolder, text: str) -> None:
    record_start(folder, cell.name)
    run.update_status(state=RUNNING)
    (folder / "cells" / f"{cell.name}.json").write_text(text)
    (run.path / "status.json").write_text(text)
    assert cell_state(folder, cell).state == QUEUED


def test_states_come_in_the_order_of_the_manifest(planned: tuple[Path, Manifest]) -> None:
    folder, manifest = planned
    record_start(folder, "ntp-s0")
    record_end(folder, "ntp-s0", FAILED, "x")
    assert [(state.cell.name, state.state) for state in cell_states(folder, manifest)] == [
        ("prior-s0", QUEUED),
        ("ntp-s0", FAILED),
        ("prior-s1", QUEUED),
        ("ntp-s1", QUEUED),
    ]


def test_attempts_are_counted_over_starts_until_forgotten(folder: Path, cell: Cell) -> None:
    for state in (FAILED, INTERRUPTED, DONE):
        record_start(folder, cell.name)
        record_end(folder, cell.name, state)
    assert read_record(folder, cell.name)["attempts"] == 3
    forget(folder, cell.name)
    forget(folder, cell.name)
    assert read_record(folder, cell.name) == {}


def test_the_time_left_goes_by_the_pace_so_far() -> None:
    assert eta_seconds(training(20, started=ago(40))) == pytest.approx(160, rel=0.05)


def test_the_time_left_of_a_resumed_run_counts_only_steps_of_its_own() -> None:
    assert eta_seconds(training(60, resumed_from=50, started=ago(10))) == pytest.approx(40, rel=0.15)


@pytest.mark.parametrize(
    "state",
    [
        training(0, started=ago(10)),
        training(50, resumed_from=50, started=ago(10)),
        training(50),
        training(50, started=ago(-3600)),
        CellState(make_cell("ntp", 0), CUT_OFF, step=5, max_steps=10, started=ago(10)),
    ],
)
def test_no_time_left_is_told_where_it_cannot_be_known(state: CellState) -> None:
    assert eta_seconds(state) is None


def test_nothing_is_left_of_a_run_that_has_done_its_steps() -> None:
    assert eta_seconds(training(100, started=ago(10))) == 0


def test_the_newest_metric_is_the_last_measurement_and_in_the_end_the_final_one(
    folder: Path, cell: Cell, run: RunFolder
) -> None:
    assert newest_metric(cell_state(folder, cell), "nll/image") is None
    run.update_status(state=RUNNING)
    run.log(1, "eval", {"nll/image": 3.0}, 0)
    run.log(2, "eval", {"nll/image": 2.0}, 0)
    run.log(3, "train", {"nll/image": 9.0}, 0)
    state = cell_state(folder, cell)
    assert (newest_metric(state, "nll/image"), newest_metric(state, "grounded/auc")) == (2.0, None)
    run.log(4, "final", {"nll/image": 1.0}, 0)
    with run.metrics.open("a") as file:
        file.write('{"step": 5, "kind": "final", "metr')
    assert newest_metric(state, "nll/image") == 1.0


@pytest.fixture
def indexed(planned: tuple[Path, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Manifest]:
    """What is planned, on disk, below an index of its own that knows a run at once."""
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(indexes, "SETTLED_SECONDS", -60.0)
    manifests.write(*planned)
    return planned


def test_states_with_an_index_are_those_without(indexed: tuple[Path, Manifest]) -> None:
    folder, manifest = indexed
    damaged, failed, gone, done = (cell.name for cell in manifest.cells)
    for name in (damaged, done):
        act(folder, name, DONE, metrics={"loss": 1.0})
    act(folder, failed, FAILED, "why")
    act(folder, gone, CUT_OFF)
    outputs = outputs_of(folder)
    assert [state.state for state in cell_states(folder, manifest, RunIndex(outputs))] == [DONE, FAILED, CUT_OFF, DONE]
    RunFolder(outputs / manifest.cell(damaged).folder).metrics.write_text("other\n")
    for _ in range(2):
        states = cell_states(folder, manifest, RunIndex(outputs))
        assert states == cell_states(folder, manifest)
        assert [state.state for state in states] == [DAMAGED, FAILED, CUT_OFF, DONE]


def test_many_cells_are_in_the_states_of_one_at_a_time(planned: tuple[Path, Manifest]) -> None:
    folder, manifest = planned
    manifests.write(folder, manifest)
    act(folder, "prior-s0", DONE, metrics={"nll": 1.0})
    record_start(folder, "ntp-s0")
    act(folder, "ntp-s1", FAILED, "x")
    one_by_one = [cell_state(folder, cell) for cell in manifest.cells]
    assert [state.state for state in one_by_one] == [DONE, RUNNING, QUEUED, FAILED]
    assert one_by_one == states_of(folder, manifest.cells) == cell_states(folder, manifest)
    assert [state.cell.name for state in states_of(folder, manifest.cells[1:3])] == ["ntp-s0", "prior-s1"]


def test_an_index_has_the_metrics_that_the_files_have(indexed: tuple[Path, Manifest]) -> None:
    folder, manifest = indexed
    act(folder, "prior-s0", DONE, metrics={"nll": 1.25})
    for _ in range(2):
        index = RunIndex(outputs_of(folder))
        state = cell_states(folder, manifest, index)[0]
        assert index.metrics(state.run) == {"nll": 1.25}
        assert [newest_metric(state, name, index) for name in ("nll", "other")] == [1.25, None]
    metrics = RunFolder(state.run).metrics
    metrics.write_text(metrics.read_text().replace("1.25", "2.25"))
    changed = cell_states(folder, manifest, index)[0]
    assert changed.state == DAMAGED and index.metrics(changed.run) is None
    assert newest_metric(changed, "nll", index) == newest_metric(changed, "nll") == 2.25
