"""Planned trials without a config behind them, and cells that end as a test says, without running anything."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from recipes.core.runs.folder import CUT_OFF, DONE, FAILED, RunFolder, now
from recipes.core.storage.files import write_json, write_text
from recipes.core.storage.processes import myself
from recipes.core.trial import manifest as manifests
from recipes.core.trial.cells import Cell
from recipes.core.trial.manifest import Manifest, outputs_of
from recipes.core.trial.states import read_record, record_end, record_start

Act = Callable[[Path, Sequence[str]], None]


def make_cell(arm: str, seed: int) -> Cell:
    overrides = (f"arm={arm}", f"seed={seed}")
    return Cell(name := f"{arm}-s{seed}", name, arm, seed, overrides, f"prior/{arm}/0123456789-s{seed}")


@pytest.fixture
def planned(tmp_path: Path) -> tuple[Path, Manifest]:
    """Folder and manifest of a trial of two arms over two seeds; nothing is written."""
    cells = tuple(make_cell(arm, seed) for seed in (0, 1) for arm in ("prior", "ntp"))
    folder = tmp_path / "outputs" / "prior" / "trials" / "0123456789"
    return folder, Manifest("trial", "prior", "steelyard trial prior", now(), 1, cells)


def act(folder: Path, name: str, state: str, error: str = "", metrics: dict[str, float] | None = None) -> None:
    """Do what a worker and its run leave behind if the cell ends so; `CUT_OFF` is a process that is gone."""
    cell = manifests.read(folder).cell(name)
    run = RunFolder(outputs_of(folder) / cell.folder)
    record_start(folder, name)
    write_text(run.path / "config.yaml", f"recipe: prior\narm: {cell.arm}\nseed: {cell.seed}\n")
    run.update_status(state="running", step=3, max_steps=6, error=None, started=now(), finished=None, resumed_from=0)
    if state == CUT_OFF:
        leave_dead(folder, name)
        return
    if metrics:
        run.log(6, "final", metrics, 1.0)
    run.update_status(state=state, error=error or None, finished=now())
    if state == DONE:
        run.finish()
    record_end(folder, name, state, error)


def leave_dead(folder: Path, name: str) -> None:
    """Make the process of a cell one that no longer lives."""
    write_json(folder / "cells" / f"{name}.json", read_record(folder, name) | {"pid": 2**22 + 1, "born": "0"})


def leave_dead_lock(path: Path) -> None:
    """A lock of a process of this host that no longer lives."""
    write_json(path, myself() | {"pid": 2**22 + 1, "born": "0", "token": "t"})


def all_end(state: str, error: str = "") -> Act:
    """Every cell that is launched ends in this state."""

    def play(folder: Path, names: Sequence[str]) -> None:
        for name in names:
            act(folder, name, state, error if state == FAILED else "")

    return play


class FakeLauncher:
    """Plays one act a launch; the last one again for all that follow."""

    def __init__(self, *acts: Act, jobs: int = 2) -> None:
        self.name, self.jobs = "slurm", jobs
        self.acts = list(acts) or [all_end(DONE)]
        self.launches: list[list[str]] = []
        self.threads: list[int] = []
        self.nodes: list[int] = []

    def __call__(self, folder: Path, names: Sequence[str], threads: int, nodes: int = 1) -> None:
        play = self.acts[min(len(self.launches), len(self.acts) - 1)]
        self.launches.append(list(names))
        self.threads.append(threads)
        self.nodes.append(nodes)
        play(folder, names)


def change_json(path: Path, **changes: Any) -> None:
    """Change entries of a JSON file behind the back of who wrote it."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
