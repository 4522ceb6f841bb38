"""What a launcher runs, wherever it runs it: one cell of a trial, from its manifest to its record."""

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipes.core import compose
from recipes.core.errors import RunFailed, SteelyardError
from recipes.core.runs import run_folder
from recipes.core.signals import terminated_like_interrupted
from recipes.core.trial import manifest as manifests
from recipes.core.trial.cells import Cell
from recipes.core.trial.states import FAILED, INTERRUPTED, QUEUED, record_end, record_start

STOP = "stop"


def task(config: Any) -> str:
    """The function that launchers call: `config` names the trial's folder and the cell."""
    return run_cell(Path(config.folder), config.cell)


def run_cell(folder: Path, name: str) -> str:
    """Do one cell, or finish or reuse what its run folder holds. Never raises: the record says how it ended.

    Args:
        folder: Folder of the trial.
        name: Name of the cell.

    Returns:
        The state it ended in; "queued" if the trial was told to stop before the cell started.
    """
    if (folder / STOP).exists():
        return QUEUED
    record_start(folder, name)
    state, error = FAILED, ""
    with _logged(folder / "logs" / f"{name}.log"):
        try:
            with terminated_like_interrupted():
                state = _run(folder, name)
        except KeyboardInterrupt:
            state = INTERRUPTED
        except Exception as failure:
            error = str(failure) if isinstance(failure, SteelyardError) else f"{type(failure).__name__}: {failure}"
            traceback.print_exc()
    record_end(folder, name, state, error)
    return state


def _run(folder: Path, name: str) -> str:
    manifest = manifests.read(folder)
    cell = manifest.cell(name)
    outputs = manifests.outputs_of(folder)
    group = f"tracker.group={manifest.recipe}-{folder.name}"
    config = compose.compose(manifest.recipe, [*cell.overrides, f"outputs={quoted(str(outputs))}", group])
    found = run_folder(config).path.relative_to(outputs)
    if str(found) != cell.folder:
        raise RunFailed(
            f"the config files have changed since this was planned: the cell is now {found}",
            where=str(folder / manifests.NAME),
            hint="type the command again: it plans anew, and finished runs are still reused",
        )
    from recipes.core import runner

    return runner.run(config, fresh=False, command=command_of(manifest.recipe, cell), wait=True).status


def command_of(recipe: str, cell: Cell) -> str:
    """What to type to do a cell on its own."""
    import shlex

    return shlex.join(["steelyard", "run", recipe, *cell.overrides])


def quoted(text: str) -> str:
    """A text as a value in Hydra's override syntax."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Send all that this process prints to a file, what libraries print from C included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [(stream, os.dup(stream)) for stream in (1, 2)]
    with path.open("ab") as file:
        for stream, _ in saved:
            os.dup2(file.fileno(), stream)
    plain = sys.stdout, sys.stderr
    with open(1, "w", closefd=False, buffering=1) as out, open(2, "w", closefd=False, buffering=1) as err:
        sys.stdout, sys.stderr = out, err
        try:
            yield
        finally:
            sys.stdout, sys.stderr = plain
    for stream, kept in saved:
        os.dup2(kept, stream)
        os.close(kept)


def main() -> None:
    """Do cells one after another: the folder is the first argument, the names come a line each on standard input.

    The input stays open as long as the parent lives; when it ends, so does this process, with its run saved.
    """
    import signal
    import threading

    folder, number = Path(sys.argv[1]), int(sys.argv[2])
    names = [sys.stdin.readline().strip() for _ in range(number)]
    orphaned = threading.Event()

    def follow_parent() -> None:
        sys.stdin.read()
        orphaned.set()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow_parent, daemon=True).start()
    for name in names:
        if not orphaned.is_set():
            run_cell(folder, name)


if __name__ == "__main__":
    main()
