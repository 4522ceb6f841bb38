"""Trials of several recipes as one job: one that fails stops no other, one that was stopped stops all."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recipes.core.errors import RunFailed, UserError
from recipes.core.process.signals import sigterm_as_interrupt
from recipes.core.runs.folder import DAMAGED, DONE, FAILED, INTERRUPTED, QUEUED, RUNNING
from recipes.core.trial import conclude, jobs
from recipes.core.trial import manifest as manifests
from recipes.core.trial.budget import arms_of
from recipes.core.trial.cells import trial_cells
from recipes.core.trial.jobs import JobState, TrialJob, job_state, run_jobs
from recipes.core.trial.states import UNFINISHED, CellState, state_of_cells
from tests.core.trial.conftest import FakeLauncher, make_cell

KEYS = ["budget=smoke", "tracker=none", "trainer.device=cpu", "trainer.threads=1"]


def job(name: str, outputs: Path) -> TrialJob:
    keys = [*KEYS, f"outputs={outputs}"]
    return TrialJob(name, tuple(trial_cells(name, keys, arms_of(name, keys), [0, 1])), f"steelyard trial {name}", 1)


def states(state: str, last: str = "") -> list[CellState]:
    cells = [make_cell(arm, seed) for seed in (0, 1) for arm in ("a", "b")]
    return [CellState(cell, last if last and cell is cells[-1] else state) for cell in cells]


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`ends(prior=..., dsir=...)`: what `drive` returns or raises for each recipe; returns the recipes driven."""

    def make(**by_recipe: Any) -> list[str]:
        driven: list[str] = []

        def drive(folder: Path, manifest: Any, *_: Any, **__: Any) -> Any:
            driven.append(manifest.recipe)
            end = by_recipe[manifest.recipe.replace("-", "_")]
            if isinstance(end, BaseException):
                raise end
            return end

        monkeypatch.setattr(jobs, "drive", drive)
        monkeypatch.setattr(conclude, "conclude", lambda folder: (f"verdict of {folder.parents[1].name}", {}))
        return driven

    return make


@pytest.mark.parametrize("failure", [RunFailed("no memory"), UserError("another process"), ValueError("a  defect")])
def test_a_trial_that_fails_stops_no_other(
    ends: Any, tmp_path: Path, failure: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    driven = ends(prior=(states(DONE), False), rho_1=failure, dsir=(states(DONE, FAILED), False))
    planned = [job(name, tmp_path) for name in ("prior", "rho-1", "dsir")]
    first, second, third = run_jobs(planned, FakeLauncher(), retry=False, fresh=False)
    assert driven == ["prior", "rho-1", "dsir"]
    assert (first.state, first.done, first.result) == (DONE, 4, "verdict of prior")
    assert (second.state, second.done, second.result) == (FAILED, 0, None)
    defect = "internal error: ValueError: a defect"
    assert ("Traceback" in capsys.readouterr().err) == isinstance(failure, ValueError)
    assert second.error == (defect if isinstance(failure, ValueError) else str(failure))
    assert (third.state, third.done, third.error) == (FAILED, 3, "")
    assert third.folder and third.folder.parents[1] == tmp_path / "dsir"


@pytest.mark.parametrize("end", [(states(DONE, INTERRUPTED), True), KeyboardInterrupt()])
def test_after_one_that_was_stopped_no_other_starts(ends: Any, tmp_path: Path, end: Any) -> None:
    driven = ends(prior=end, dsir=(states(DONE), False))
    ended = list(run_jobs([job("prior", tmp_path), job("dsir", tmp_path)], FakeLauncher(), retry=False, fresh=False))
    assert driven == ["prior"] and [one.state for one in ended] == [INTERRUPTED] and ended[0].result is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_the_verdict_is_written_stops_the_job_as_ctrl_c_does(
    ends: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    driven = ends(prior=(states(DONE), False), dsir=(states(DONE), False))
    monkeypatch.setattr(conclude, "conclude", lambda folder: os.kill(os.getpid(), number))
    with sigterm_as_interrupt():  # as around every command
        (only,) = run_jobs([job("prior", tmp_path), job("dsir", tmp_path)], FakeLauncher(), retry=False, fresh=False)
    assert (driven, only.state, only.done) == (["prior"], INTERRUPTED, 4)


def test_a_folder_that_holds_another_plan_fails_its_trial_alone(ends: Any, tmp_path: Path) -> None:
    ends(prior=(states(DONE), False), dsir=(states(DONE), False))
    planned = [job("prior", tmp_path), job("dsir", tmp_path)]
    folder, manifest, _ = planned[0].plan()
    manifests.write(folder, replace(manifest, cells=manifest.cells[:3]))
    first, second = run_jobs(planned, FakeLauncher(), retry=False, fresh=False)
    assert "the manifest is of other cells" in first.error and second.state == DONE
    assert job_state(planned[0], False, False).state == FAILED


def test_how_far_a_trial_is_and_how_long_it_will_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = job("prior", tmp_path)
    new = job_state(planned, False, False)
    assert (new.state, new.done, new.seconds) == (QUEUED, 0, None)
    monkeypatch.setattr(jobs, "expected_seconds", lambda configs, runs: 10.0 * len(configs))
    monkeypatch.setattr(jobs, "cell_states", lambda *_: states(DONE, FAILED))
    assert job_state(planned, False, False) == JobState(planned, FAILED, 3, new.folder, 0.0)  # it does not run again
    assert job_state(planned, True, False) == JobState(planned, FAILED, 3, new.folder, 10.0)
    monkeypatch.setattr(jobs, "cell_states", lambda *_: states(DONE))
    assert job_state(planned, True, False) == JobState(planned, DONE, 4, new.folder, 0.0)
    assert job_state(planned, False, True) == JobState(planned, DONE, 4, new.folder, 40.0)


def test_the_state_of_a_trial_is_that_of_its_worst_cell() -> None:
    assert state_of_cells(states(DONE)) == DONE
    assert state_of_cells(states(DONE, FAILED)) == FAILED
    assert state_of_cells(states(DONE, DAMAGED)) == UNFINISHED == state_of_cells(states(DONE, QUEUED))
    assert state_of_cells(states(DONE, RUNNING)) == RUNNING
    assert state_of_cells(states(FAILED), stopped=True) == INTERRUPTED
