"""Trials of several recipes as one job: one after another, each in its own folder; one that fails stops no other."""

import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from recipes.core.config.settings import RunConfig
from recipes.core.errors import SteelyardError, UserError
from recipes.core.messages import note
from recipes.core.runs.folder import DONE, FAILED, INTERRUPTED, QUEUED
from recipes.core.runs.index import index_of
from recipes.core.runs.records import find_runs
from recipes.core.trial import manifest as manifests
from recipes.core.trial.cells import PlannedCell
from recipes.core.trial.drive import drive, is_due
from recipes.core.trial.estimate import expected_seconds
from recipes.core.trial.launch import Launcher
from recipes.core.trial.manifest import Manifest
from recipes.core.trial.result import TrialResult
from recipes.core.trial.states import cell_states, state_of_cells


@dataclass(frozen=True)
class TrialJob:
    """One recipe's trial, its cells composed and checked.

    Attributes:
        recipe: Name of the recipe.
        cells: The cells.
        command: What does this trial alone.
        jobs: Cells that run at once.
    """

    recipe: str
    cells: tuple[PlannedCell, ...]
    command: str
    jobs: int

    def plan(self) -> tuple[Path, Manifest, list[RunConfig]]:
        """As `manifest.plan`, which may refuse what lies in the trial's folder."""
        return manifests.plan("trial", self.recipe, self.cells, self.command, self.jobs)


@dataclass(frozen=True)
class JobState:
    """How far a trial is, or how it ended.

    Attributes:
        job: The trial.
        state: "done", "failed", "unfinished", "interrupted"; "queued" before its first cell starts.
        done: Cells that are done.
        folder: Its folder; None if it could not be planned.
        seconds: What is left to compute, or what this start took; None where that is not known.
        result: Its verdict; None without one.
        files: What was written, by kind.
        error: Why it failed, where no cell says it.
    """

    job: TrialJob
    state: str
    done: int = 0
    folder: Path | None = None
    seconds: float | None = None
    result: TrialResult | None = None
    files: dict[str, Path] = field(default_factory=dict)
    error: str = ""


def job_state(job: TrialJob, retry: bool, fresh: bool) -> JobState:
    """How far a trial is, and about how many seconds the cells will take that a start would run.

    Args:
        job: The trial.
        retry: As of `run_jobs`.
        fresh: As of `run_jobs`.
    """
    try:
        folder, manifest, configs = job.plan()
    except UserError as error:
        return JobState(job, FAILED, error=str(error))
    outputs = manifests.outputs_of(folder)
    index = index_of(outputs)
    states = cell_states(folder, manifest, index)
    due = [config for config, state in zip(configs, states, strict=True) if fresh or is_due(state, retry)]
    runs = find_runs(outputs, job.recipe, warn=False, load=index.load) if due else []
    index.write()
    seconds = expected_seconds(due, runs) if due else 0.0
    state = QUEUED if all(one.state == QUEUED for one in states) else state_of_cells(states)
    return JobState(job, state, sum(one.state == DONE for one in states), folder, seconds)


def run_jobs(jobs: Sequence[TrialJob], launcher: Launcher, retry: bool, fresh: bool) -> Iterator[JobState]:
    """Run trials one after another; what is done is reused.

    Args:
        jobs: The trials.
        launcher: Where cells run.
        retry: Start failed cells again, and do damaged ones anew.
        fresh: Throw away what the cells' run folders hold.

    Yields:
        Each trial when it has ended; after one that was told to stop no other starts.
    """
    for job in jobs:
        ended = _run(job, launcher, retry, fresh)
        yield ended
        if ended.state == INTERRUPTED:
            return


def _run(job: TrialJob, launcher: Launcher, retry: bool, fresh: bool) -> JobState:
    from recipes.core.trial.conclude import conclude

    began, folder, done = time.monotonic(), None, 0
    try:
        folder, manifest, _ = job.plan()
        states, stopped = drive(folder, manifest, launcher, retry, fresh=fresh)
        done = sum(state.state == DONE for state in states)
        result, files = (None, {}) if stopped else conclude(folder)
        state = state_of_cells(states, stopped)
        return JobState(job, state, done, folder, time.monotonic() - began, result, files)
    except KeyboardInterrupt:
        return JobState(job, INTERRUPTED, done, folder, time.monotonic() - began)
    except SteelyardError as error:
        return JobState(job, FAILED, done, folder, time.monotonic() - began, error=str(error))
    except Exception as error:
        text = f"internal error: {type(error).__name__}: {' '.join(str(error).split())}"
        note(f"{job.recipe}: {traceback.format_exc()}")  # the other trials go on: it would be lost
        return JobState(job, FAILED, done, folder, time.monotonic() - began, error=text)
