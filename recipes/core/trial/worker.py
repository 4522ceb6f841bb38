"""What a launcher runs, wherever it runs it: one cell of a trial, from its manifest to its record."""

import contextlib
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from recipes.core.config import compose
from recipes.core.config.overrides import quote
from recipes.core.errors import RunFailed, SteelyardError
from recipes.core.process.background import background_thread
from recipes.core.process.members import is_first
from recipes.core.process.signals import sigterm_as_interrupt
from recipes.core.process.streams import guard_streams
from recipes.core.runs.folder import FAILED, INTERRUPTED, QUEUED, run_folder
from recipes.core.trial import manifest as manifests
from recipes.core.trial.cells import command_of
from recipes.core.trial.slurm import is_to_be_requeued
from recipes.core.trial.states import record_end, record_start

STOP, LAUNCH = "stop", "launch"
LOOK_EVERY_SECONDS = 0.5
_PARENT = os.getppid()
_busy = threading.Lock()


def task(config: Any) -> str:
    """The function that launchers call: `config` names the trial's folder, the cell and the launch it belongs to."""
    folder = Path(config.folder)
    if (folder / LAUNCH).read_text(encoding="utf-8") != config.launch:
        # Left in a queue by a launch that ended early; a later one has the cell.
        return QUEUED
    if Path(config.cwd).is_dir():
        os.chdir(config.cwd)
    _end_with_parent(_PARENT)
    with _save_before_requeue() as requeue:
        state = run_cell(folder, config.cell)
    if state == INTERRUPTED and not (folder / STOP).exists() and os.getppid() == _PARENT and is_to_be_requeued():
        requeue()
    return state


def run_cell(folder: Path, name: str) -> str:
    """Do one cell, or finish or reuse what its run folder holds; the record says how it ended.

    It is stopped with its run saved once the trial is told to stop, on whatever host it is, or its parent is gone.
    Of a cell on several machines the first process alone keeps the record.

    Args:
        folder: Folder of the trial.
        name: Name of the cell.

    Returns:
        The state it ended in; "queued" if the trial was told to stop before the cell started.
    """
    if (folder / STOP).exists():
        return QUEUED
    first = is_first(os.environ)
    with _busy:
        if first:
            record_start(folder, name)
        state, error = FAILED, ""
        try:
            stoppable = background_thread(partial(_terminate_when_stopped, folder))
            with _log_to(folder / "logs" / f"{name}.log"), sigterm_as_interrupt(), stoppable:
                state = _run(folder, name)
        except (KeyboardInterrupt, SystemExit):
            state = INTERRUPTED
        except Exception as failure:
            error = str(failure) if isinstance(failure, SteelyardError) else f"{type(failure).__name__}: {failure}"
        if first:
            record_end(folder, name, state, error)
    return state


def _run(folder: Path, name: str) -> str:
    manifest = manifests.read_once(folder)
    cell = manifest.cell(name)
    outputs = manifests.outputs_of(folder)
    group = f"tracker.group={manifest.recipe}-{folder.name}"
    config = compose.compose(manifest.recipe, [group, *cell.overrides, f"outputs={quote(str(outputs))}"])
    if config.tracker.name:
        config = replace(config, tracker=replace(config.tracker, name=f"{config.tracker.name} {name}"))
    cell_folder = run_folder(config).path.relative_to(outputs)
    if str(cell_folder) != cell.folder:
        raise RunFailed(
            f"the config files, the data or a model have changed since this was planned: the cell is now {cell_folder}",
            where=str(folder / manifests.NAME),
            hint="type the command again: it plans anew, and finished runs are still reused",
        )
    from recipes.core import runner

    command = command_of(manifest.recipe, cell)
    return runner.run(config, fresh=False, command=command, wait=True, page=False).status


@contextlib.contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Send all that this process prints to a file, what libraries print from C and a traceback included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = sys.stdout, sys.stderr
    saved = {1: os.dup(1), 2: os.dup(2)}
    for stream in plain:
        stream.flush()
    with path.open("ab") as file:
        for number in saved:
            os.dup2(file.fileno(), number)
    sys.stdout, sys.stderr = _plain(1), _plain(2)
    try:
        yield
    except Exception:
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = plain
        for number, kept in saved.items():
            os.dup2(kept, number)
            os.close(kept)


def _plain(number: int) -> io.TextIOWrapper:
    """A text stream to a file descriptor; never closed, as loggers made in one cell keep it for the next."""
    return open(number, "w", closefd=False, buffering=1, encoding="utf-8")


def _terminate_when_stopped(folder: Path, ended: threading.Event) -> None:
    """Send this process SIGTERM once the trial is told to stop or the parent is gone."""
    while not ended.is_set():
        if (folder / STOP).exists() or os.getppid() != _PARENT:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        ended.wait(LOOK_EVERY_SECONDS)


def _end_with_parent(parent: int) -> None:
    """End this process when its parent is gone, once the run in it is saved: launchers' workers would wait on."""

    def follow() -> None:
        while os.getppid() == parent:
            threading.Event().wait(LOOK_EVERY_SECONDS)
        with _busy:
            os._exit(1)

    name = "ends-with-parent"
    if name not in [thread.name for thread in threading.enumerate()]:
        threading.Thread(target=follow, name=name, daemon=True).start()


@contextlib.contextmanager
def _save_before_requeue() -> Iterator[Callable[[], None]]:
    """Let a run be saved when submitit's signal comes before a timeout; what is given queues the job again.

    Pre-emption sends SIGTERM, or that signal as well: either way the job is to go on later.
    """
    number = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}", signal.SIGUSR2)
    plain = signal.getsignal(number)
    if not callable(plain):
        yield lambda: None
        return
    signal.signal(number, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        yield lambda: signal.raise_signal(number)
    finally:
        signal.signal(number, plain)


def main() -> None:
    """Do cells one after another: the folder, the parent's process number and the names are the arguments."""
    global _PARENT
    guard_streams()
    folder, _PARENT = Path(sys.argv[1]), int(sys.argv[2])
    _end_with_parent(_PARENT)
    for name in sys.argv[3:]:
        run_cell(folder, name)


if __name__ == "__main__":
    main()
