"""Drive a trial or sweep to its end: start what is not done, and survive what happens to it.

A cell that raises records its failure and the others go on. A cell whose process vanishes is started once more on its
own, where its death can hurt no other; if it vanishes again it has failed.
"""

import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from recipes.core.config import compose, registry
from recipes.core.config.settings import TrainerConfig
from recipes.core.errors import RunFailed
from recipes.core.messages import note
from recipes.core.process.background import background_thread
from recipes.core.process.signals import NUMBERS, say_at_once, signal_handlers
from recipes.core.runs.folder import CUT_OFF, DAMAGED, DONE, FAILED, RUNNING, RunFolder
from recipes.core.runs.progress import progress
from recipes.core.storage.locks import hold
from recipes.core.trial import manifest as manifests
from recipes.core.trial.launch import Launcher
from recipes.core.trial.manifest import Manifest
from recipes.core.trial.states import (
    CellState,
    cell_state,
    cell_states,
    forget,
    read_record,
    record_end,
    states_of,
    tried_cells,
)
from recipes.core.trial.worker import STOP

COLOURS = re.compile(r"\x1b\[\d*m")
LOCK = "owner.lock"
MOST_STARTS = 20
SIZE_WORDS = ("trainer=", "trainer.nodes=", "trainer.nproc=", "budget=")  # what decides how large a cell is
LOOK_EVERY_SECONDS = 1.0
LOOK_SHARE = 0.05  # of a core, at most: looking at a thousand cells takes a while
VANISHED = "its process ended without a word, twice: killed, or out of memory"


def drive(
    folder: Path,
    manifest: Manifest,
    launcher: Launcher,
    retry: bool,
    only: Collection[str] | None = None,
    fresh: bool = False,
) -> tuple[list[CellState], bool]:
    """Run every cell that is not done.

    Args:
        folder: The trial's folder.
        manifest: What was planned; written before anything starts.
        launcher: Where cells run.
        retry: Start failed cells again, and do damaged ones anew.
        only: Names of the cells to run; all if None.
        fresh: Throw away what the run folders of these cells hold and do all anew.

    Returns:
        State of every cell, and whether the trial was told to stop.

    Raises:
        UserError: another process drives this trial.
        RunFailed: the launcher starts nothing.
    """
    folder = folder.absolute()  # a launcher may change the working folder for a moment; links are left as they are
    with hold(folder / LOCK, f"{manifest.kind} {folder}", wait=False), _stoppable(folder) as stopped:
        manifests.write(folder, manifest)
        cells = [cell for cell in manifest.cells if only is None or cell.name in only]
        states = states_of(folder, cells)
        if _clear(folder, states, fresh, retry):
            states = states_of(folder, cells)
        todo = [state.cell.name for state in states if is_due(state, retry)]
        with _cell_progress(folder, manifest, _starts(folder, todo)), suppress(KeyboardInterrupt):
            _rounds(folder, manifest, launcher, todo, stopped)
    return cell_states(folder, manifest), stopped.is_set()


def _clear(folder: Path, states: Sequence[CellState], fresh: bool, retry: bool) -> bool:
    """Empty the run folders of cells that are to be done anew.

    Returns:
        Whether there were any.

    Raises:
        UserError: a live process works in one.
    """
    states = [state for state in states if fresh or _is_damaged(state, retry)]
    runs = [RunFolder(state.run) for state in states if state.run.is_dir()]
    with ExitStack() as locks:
        for run in runs:
            locks.enter_context(hold(run.lock, f"run folder {run.path}", wait=False))
        for run in runs:
            run.clear()
    for state in states:
        forget(folder, state.cell.name)
    return bool(states)


def _rounds(
    folder: Path, manifest: Manifest, launcher: Launcher, todo: Sequence[str], stopped: threading.Event
) -> None:
    """Launch until every cell has ended: those that were stopped by someone else or never started go again."""
    first = _starts(folder, todo)
    while todo and not stopped.is_set():
        before = _starts(folder, todo)
        trouble = _launch(partial(_launch_each_size, launcher, folder, manifest, todo), stopped)
        _wait_for_the_living(folder, manifest, todo, stopped)
        for name in _cells_cut_off(folder, manifest, before):
            if not stopped.is_set():
                _once_more(folder, manifest, launcher, name, stopped)
        nothing = _starts(folder, todo) == before
        states = states_of(folder, map(manifest.cell, todo))
        todo = [state.cell.name for state in states if _is_open(state, first[state.cell.name])]
        if todo and nothing and not stopped.is_set():
            raise RunFailed(
                f"the launcher starts no cell{f': {trouble}' if trouble else ''}",
                where=f"--launcher {launcher.name}",
                hint=f"what it logged is in {folder / 'launcher'} and {folder / 'logs'}",
            )


def is_due(state: CellState, retry: bool) -> bool:
    """Whether `drive` starts a cell: one that failed or is damaged only on `--retry`."""
    return state.state != DONE and (retry or state.state not in (FAILED, DAMAGED))


def _is_damaged(state: CellState, retry: bool) -> bool:
    return retry and state.state == DAMAGED


def _is_open(state: CellState, first: int) -> bool:
    """Whether a cell has to be started: not yet since there were `first` starts, or stopped by someone else."""
    starts = state.attempts - first
    return (
        state.state not in (DONE, RUNNING, DAMAGED) and not (starts and state.state == FAILED) and starts < MOST_STARTS
    )


def _state(folder: Path, manifest: Manifest, name: str) -> str:
    return cell_state(folder, manifest.cell(name)).state


def _starts(folder: Path, names: Sequence[str]) -> dict[str, int]:
    tried = tried_cells(folder)
    return {name: read_record(folder, name).get("attempts", 0) if name in tried else 0 for name in names}


def _cells_cut_off(folder: Path, manifest: Manifest, before: dict[str, int]) -> list[str]:
    """Cells that were started in this round, after `before`, and whose process is gone."""
    started = [name for name, starts in _starts(folder, list(before)).items() if starts > before[name]]
    return [name for name in started if _state(folder, manifest, name) == CUT_OFF]


def _launch(launch: Callable[[], None], stopped: threading.Event) -> str:
    """Launch; what the launcher raises (a worker that died takes the others along) is only reported."""
    try:
        launch()
    except Exception as error:
        text = " ".join(COLOURS.sub("", str(error)).split())
        if not stopped.is_set():
            note(f"warning: the launcher ended early ({type(error).__name__}: {text[:300]})")
        return text or type(error).__name__
    return ""


def _launch_each_size(launcher: Launcher, folder: Path, manifest: Manifest, names: Sequence[str]) -> None:
    """Launch cells, those of one number of machines and processes together: what a job asks for is that of its cell."""
    known: dict[tuple[str, ...], TrainerConfig] = {}
    sizes: dict[tuple[int, int], list[str]] = {}
    for name in names:
        cell = manifest.cell(name)
        decisive = (cell.arm, *(word for word in cell.overrides if word.startswith(SIZE_WORDS)))
        if decisive not in known:
            known[decisive] = compose.compose(manifest.recipe, [*cell.overrides]).trainer
        trainer = known[decisive]
        sizes.setdefault((trainer.nodes, trainer.nproc), []).append(name)
    for (nodes, nproc), alike in sizes.items():
        launcher(folder, alike, manifest.threads * nproc, nodes)


def _once_more(folder: Path, manifest: Manifest, launcher: Launcher, name: str, stopped: threading.Event) -> None:
    """Start a cell whose process vanished again, alone; if it vanishes again it has failed."""
    note(f"warning: the process of {manifest.cell(name).title} is gone; starting the cell again on its own")
    before = _starts(folder, [name])
    _launch(partial(_launch_each_size, launcher, folder, manifest, [name]), stopped)
    _wait_for_the_living(folder, manifest, [name], stopped)
    if _cells_cut_off(folder, manifest, before) and not stopped.is_set():
        record_end(folder, name, FAILED, f"{VANISHED}; its output is in {folder / 'logs' / name}.log")


def _wait_for_the_living(folder: Path, manifest: Manifest, names: Sequence[str], stopped: threading.Event) -> None:
    """Wait for cells that go on although the launcher has ended: on a cluster the others outlive one that died."""
    cells = [manifest.cell(name) for name in names]
    while any(state.state == RUNNING for state in states_of(folder, cells)) and not stopped.is_set():
        time.sleep(LOOK_EVERY_SECONDS)


@contextmanager
def _stoppable(folder: Path) -> Iterator[threading.Event]:
    """Ctrl-C, SIGTERM or a closed terminal lets the running cells save and end, and starts no other.

    A second Ctrl-C leaves at once.

    Cells look for the file `stop`, as no signal reaches other hosts.
    """
    stopped = threading.Event()
    (folder / STOP).unlink(missing_ok=True)

    def stop(number: int, frame: object) -> None:
        if stopped.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stopped.set()
        say_at_once("stopping: running cells are saved, no other starts (press Ctrl-C again to leave at once)\n")
        (folder / STOP).touch()

    with signal_handlers(stop, *NUMBERS):
        yield stopped


@contextmanager
def _cell_progress(folder: Path, manifest: Manifest, starts: dict[str, int]) -> Iterator[None]:
    """Show how far cells, started so often before, are; a log, which has no bar, gets a line for each that ended."""
    length = _steps_of(manifest)
    totals = {name: length[manifest.cell(name).arm] for name in starts}
    first = {state.cell.name: state for state in states_of(folder, map(manifest.cell, starts))}

    def watch(show: Callable[..., None], ended: threading.Event) -> None:
        """Read the states of the cells again and again until the block has ended, and once after it."""
        ended_cells: set[str] = set()
        steps, before = dict.fromkeys(starts, 0.0), dict.fromkeys(starts, 0.0)
        last, took = False, 0.0
        while not last:
            last = ended.wait(max(LOOK_EVERY_SECONDS, took / LOOK_SHARE))
            began = time.monotonic()
            for state in states_of(folder, [manifest.cell(name) for name in starts if name not in ended_cells]):
                name = state.cell.name
                size = totals[name] / state.max_steps if state.max_steps else 0.0
                steps[name] = size * state.step
                before[name] = size * _steps_before(state, first[name])
                if state.state == DONE or (state.state == FAILED and state.attempts > starts[name]):
                    ended_cells.add(name)
                    steps[name] = totals[name]
                    if not sys.stderr.isatty():
                        error = f": {state.error.splitlines()[0]}" if state.error else ""
                        note(f"{state.cell.title}: {state.state}{error}")
            show(round(sum(steps.values())), round(sum(before.values())))
            took = time.monotonic() - began

    trains = any(total > 1 for total in totals.values())
    begun = sum(state.step for state in first.values()) if trains else 0
    what = f"{len(starts)} runs of {manifest.recipe}" + (", steps" if trains else "")
    with progress(what, sum(totals.values()), begun) as show, background_thread(partial(watch, show)):
        yield


def _steps_before(state: CellState, first: CellState) -> int:
    """Steps that a cell, which was in the state `first`, has from earlier starts: it goes on from a checkpoint."""
    return state.resumed_from if state.started != first.started else state.step


def _steps_of(manifest: Manifest) -> dict[str, int]:
    """Optimizer steps of each arm, 1 if it trains nothing: those of its first cell stand for all."""
    if not registry.card(manifest.recipe).trains:
        return dict.fromkeys(manifest.arms, 1)
    first = {cell.arm: cell for cell in reversed(manifest.cells)}
    return {arm: compose.compose(manifest.recipe, [*cell.overrides]).steps or 1 for arm, cell in first.items()}
