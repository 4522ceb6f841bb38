"""States of cells: read from their run folders and from what their last attempt left in the trial's folder.

The run folder is the truth of a run; what it cannot tell (an attempt that failed before it had a folder, or whose
process vanished) stands in `cells/<name>.json` of the trial.
"""

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recipes.core.errors import UserError
from recipes.core.process.memory import uncollected
from recipes.core.runs.folder import (
    CUT_OFF,
    DAMAGED,
    DONE,
    FAILED,
    INTERRUPTED,
    LOCK,
    QUEUED,
    RUNNING,
    STATES,
    RunFolder,
)
from recipes.core.runs.index import RunIndex
from recipes.core.storage.files import read_json, write_json
from recipes.core.storage.locks import is_alive, owner_of
from recipes.core.storage.processes import myself
from recipes.core.trial.cells import Cell
from recipes.core.trial.manifest import Manifest, outputs_of

Finished = Callable[[Path], dict[str, Any] | None]
UNFINISHED = "unfinished"  # of a trial: cells are damaged or were not started


@dataclass(frozen=True)
class CellState:
    """How far a cell is.

    Attributes:
        cell: The cell.
        state: done, failed, damaged (it was done and its files have changed), running (a live process works on it),
            interrupted (saved and stopped), cut off (its process is gone), or queued.
        step: Optimizer steps done.
        max_steps: Steps in all; 0 if the run has not started.
        attempts: How often it was started in this trial.
        resumed_from: Step at which its last start began.
        started: ISO time of the last start; empty if none.
        finished: ISO time of the end; empty if none.
        error: What went wrong, if it failed.
        run: Its run folder.
    """

    cell: Cell
    state: str
    step: int = 0
    max_steps: int = 0
    attempts: int = 0
    resumed_from: int = 0
    started: str = ""
    finished: str = ""
    error: str = ""
    run: Path = Path()


def eta_seconds(state: CellState) -> float | None:
    """Seconds a running cell still trains at its pace so far; None if it cannot be told."""
    steps = state.step - state.resumed_from
    if state.state != RUNNING or steps <= 0 or not state.started:
        return None
    passed = (datetime.now(UTC) - datetime.fromisoformat(state.started)).total_seconds()
    return passed / steps * (state.max_steps - state.step) if passed > 0 else None  # a clock was set back


def newest_metric(state: CellState, metric: str, index: RunIndex | None = None) -> float | None:
    """The last value of a metric: the final one, or that of the last measurement in training.

    Args:
        state: Of the cell.
        metric: The metric.
        index: What gave the state; its final metrics, where they are known, are not read again.
    """
    known = index.metrics(state.run) if index and state.state == DONE else None
    if known and metric in known:
        return known[metric]
    for kind in ("final", "eval"):
        try:
            lines = RunFolder(state.run).read_metrics(kind)
        except UserError:  # the command that reads the run in earnest says so
            return None
        if lines and metric in lines[-1][1]:
            return lines[-1][1][metric]
    return None


def cell_state(
    folder: Path, cell: Cell, finished: Finished | None = None, tried: Collection[str] | None = None
) -> CellState:
    """State of one cell of the trial in `folder`.

    Args:
        folder: The trial's folder.
        cell: The cell.
        finished: Says the status of run folders that are done and intact, in place of reading all their files.
        tried: From `tried_cells`, where many cells are asked for.
    """
    run = RunFolder(outputs_of(folder) / cell.folder)
    there, started = os.path.lexists(run.path), tried is None or cell.name in tried
    known = finished(run.path) if finished and there else None
    status = known or run.status() if there else {}
    record = read_record(folder, cell.name) if started else {}
    if not there and not record:
        return CellState(cell, QUEUED, run=run.path)
    locked = os.path.exists(f"{run.path}/{LOCK}")
    state = status.get("state") or QUEUED
    error = status.get("error") or ""
    if known is None and state in (DONE, QUEUED) and not locked and (damage := run.damage(status)):
        state, error = DAMAGED, f"{damage}; --retry or --fresh does it again"
    elif state == DONE and not locked:
        pass
    elif owner_of(run.lock) or _is_started(folder, cell.name, record):
        state = RUNNING
    elif state == DONE:
        state = CUT_OFF  # while the tracker was told the answer
    elif record.get("state") == FAILED:
        state, error = FAILED, record.get("error", "")
    elif state == RUNNING or record.get("state") == RUNNING:
        state = CUT_OFF
    return CellState(
        cell=cell,
        state=state,
        step=status.get("step") or 0,
        max_steps=status.get("max_steps") or 0,
        attempts=record.get("attempts", 0),
        resumed_from=status.get("resumed_from") or 0,
        started=status.get("started") or "",
        finished=status.get("finished") or "",
        error=error if state in (FAILED, DAMAGED) else "",
        run=run.path,
    )


def cell_states(folder: Path, manifest: Manifest, index: RunIndex | None = None) -> list[CellState]:
    """State of every cell, in the manifest's order; with an index of its outputs, finished runs are looked at only."""
    return states_of(folder, manifest.cells, index)


def states_of(folder: Path, cells: Iterable[Cell], index: RunIndex | None = None) -> list[CellState]:
    """`cell_states` of some cells, in their order."""
    tried, finished = tried_cells(folder), index.finished if index else None
    with uncollected():
        states = [cell_state(folder, cell, finished, tried) for cell in cells]
    if index:
        index.write()
    return states


def state_of_cells(states: Sequence[CellState], stopped: bool = False) -> str:
    """How a trial or sweep ended, see `state_of_all`."""
    return state_of_all([state.state for state in states], stopped)


def state_of_all(states: Collection[str], stopped: bool = False) -> str:
    """The state of what has parts with these states: that of its worst part.

    "interrupted" if it was stopped; "running" while a part is; "failed"; "unfinished" (parts are damaged or were not
    started); "done".
    """
    if stopped:
        return INTERRUPTED
    worst = next((state for state in (RUNNING, FAILED) if state in states), None)
    return worst or (DONE if set(states) <= {DONE} else UNFINISHED)


def tried_cells(folder: Path) -> frozenset[str]:
    """Names of the cells that a trial or sweep has started by now; all others have left no record."""
    with suppress(OSError):
        return frozenset(name.removesuffix(".json") for name in os.listdir(folder / "cells"))
    return frozenset()


def read_record(folder: Path, name: str) -> dict[str, Any]:
    """What the last attempt of a cell left; empty if it was never started."""
    try:
        record = read_json(_path(folder, name))
    except (OSError, UserError):
        return {}
    right = isinstance(record.get("attempts", 0), int) and isinstance(record.get("error", ""), str)
    return record if right and record.get("state") in STATES else {}


def record_start(folder: Path, name: str) -> None:
    """Note that an attempt starts, in which process. One that a power cut forgets was never started."""
    attempts = read_record(folder, name).get("attempts", 0) + 1
    write_json(_path(folder, name), {"state": RUNNING, "attempts": attempts, "error": "", **myself()}, durable=False)


def record_end(folder: Path, name: str, state: str, error: str = "") -> None:
    """Note how an attempt ended."""
    write_json(_path(folder, name), read_record(folder, name) | {"state": state, "error": error})


def forget(folder: Path, name: str) -> None:
    """Forget the attempts of a cell whose name another cell has got."""
    _path(folder, name).unlink(missing_ok=True)


def _is_started(folder: Path, name: str, record: dict[str, Any]) -> bool:
    """Whether a live process has started a cell, though it may not own the run folder yet (imports, data)."""
    return record.get("state") == RUNNING and is_alive(_path(folder, name), record)


def _path(folder: Path, name: str) -> Path:
    return folder / "cells" / f"{name}.json"
