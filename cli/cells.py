"""What `steelyard trial` and `steelyard sweep` share: launcher options, and showing cells."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cli import completion
from cli.console import INTERRUPTED_CODE, note, pairs, say, table
from cli.results import print_result
from recipes.core.errors import UserError
from recipes.core.messages import duration_text
from recipes.core.process.cores import may_have_gpu, usable_cores
from recipes.core.runs.folder import CUT_OFF, DAMAGED, DONE, FAILED, INTERRUPTED

if TYPE_CHECKING:
    from recipes.core.config.settings import RunConfig
    from recipes.core.runs.index import RunIndex
    from recipes.core.trial.launch import Launcher
    from recipes.core.trial.manifest import Manifest
    from recipes.core.trial.states import CellState

MOST_JOBS = 4
ENDED = (DONE, FAILED, DAMAGED)
LOOK_EVERY_SECONDS = 2.0
LAUNCHER: Any = typer.Option(
    "",
    help="Where cells run: local, joblib, slurm, submitit or ray; joblib if several run at once, else local.",
    autocompletion=completion.launchers,
)
JOBS: Any = typer.Option(
    0,
    min=0,
    help="Cells at once; they share the cores. 0: as many as this machine has cores, at most 4; one with a GPU.",
    show_default=False,
)
RETRY: Any = typer.Option(False, "--retry", help="Start failed cells again, and do damaged ones anew.")
FRESH: Any = typer.Option(False, "--fresh", help="Throw away what the cells' run folders hold and do all anew.")
STATUS: Any = typer.Option(False, "--status", help="Show how far the cells are; start nothing.")
DRY_RUN: Any = typer.Option(False, "--dry-run", help="Show the cells and what they need; start nothing.")
PLANNED = "planned"
UNFINISHED = (FAILED, DAMAGED, INTERRUPTED, CUT_OFF)


def open_jobs(overrides: list[str]) -> tuple[list[str], list[str], str]:
    """Split what was typed into keys of the cells, keys of the launcher, and the launcher if it was typed as a key."""
    keys, options, named = [], [], ""
    for word in overrides:
        if word.startswith("launcher."):
            options.append(word.removeprefix("launcher."))
        elif word.startswith("launcher="):
            named = word.removeprefix("launcher=")
        else:
            keys.append(word)
    return keys, options, named


def launcher_of(name: str, jobs: int, options: Sequence[str]) -> "Launcher":
    """The launcher asked for, by default the one that fills this machine."""
    from recipes.core.trial.launch import Launcher

    if jobs == 0:
        jobs = 1 if name == "local" or may_have_gpu() else min(usable_cores(), MOST_JOBS)
    return Launcher(name or ("joblib" if jobs > 1 else "local"), jobs, options)


def show_plan(
    folder: Path,
    manifest: "Manifest",
    configs: "Sequence[RunConfig]",
    launcher: "Launcher",
    states: "Sequence[CellState]",
    as_json: bool = False,
) -> None:
    """Print what would run: cells by state, threads, what they need."""
    rows = _plan_rows(folder, manifest, configs, launcher, states)
    if as_json:
        plan = [{"what": what, "value": value} for what, value in rows]
        print_result(manifest.kind, cells_result(folder, manifest, states, PLANNED) | {"plan": plan})
        return
    pairs(rows)
    say()
    table([{"cell": s.cell.name, "state": s.state, "keys": " ".join(s.cell.overrides)} for s in states])


def _plan_rows(
    folder: Path,
    manifest: "Manifest",
    configs: "Sequence[RunConfig]",
    launcher: "Launcher",
    states: Sequence["CellState"],
) -> list[tuple[str, str]]:
    from recipes.core import runner
    from recipes.core.training.devices import device_of

    counts = {name: sum(s.state == name for s in states) for name in dict.fromkeys(s.state for s in states)}
    return [
        (f"{manifest.kind} folder", str(folder)),
        ("cells", f"{len(states)}: {', '.join(f'{number} {name}' for name, number in counts.items())}"),
        *([("steps", f"{steps:,} in all cells")] if (steps := sum(config.steps for config in configs)) else []),
        (
            "launcher",
            f"{launcher.name}, {launcher.jobs} at once, {manifest.threads} thread{'s' * (manifest.threads > 1)} each",
        ),
        *configs[0].describe(),
        *runner.needs(configs[0], device_of(configs[0]), runs=len(configs)),
        ("time", expected_time(folder, manifest, configs)),
    ]


def expected_time(folder: Path, manifest: "Manifest", configs: "Sequence[RunConfig]") -> str:
    """How long cells with these configs will take, in words."""
    from recipes.core.runs.index import index_of
    from recipes.core.runs.records import find_runs
    from recipes.core.trial.estimate import time_words

    index = index_of(folder.parents[2])
    runs = find_runs(folder.parents[2], manifest.recipe, warn=False, load=index.load)
    index.write()
    return time_words(manifest.recipe, configs, runs)


def show_cells(
    states: Sequence["CellState"],
    only: Sequence[str] | None = None,
    metric: str | None = None,
    index: "RunIndex | None" = None,
) -> None:
    """Print cells; only those in some states if asked. An index that gave the states knows the metrics of some."""
    rows = [_row(state, metric, index) for state in states if only is None or state.state in only]
    if rows:
        say()
        table(rows, [name for name in rows[0] if any(row[name] for row in rows)], numbers=["step", "ETA"])


def launcher_words(name: str, jobs: int, options: Sequence[str]) -> list[str]:
    """What chooses a launcher, to be typed again."""
    words = [f"launcher.{option}" for option in options]
    return words + (["--launcher", name] if name else []) + (["--jobs", str(jobs)] if jobs else [])


def cells_result(
    folder: Path, manifest: "Manifest", states: Sequence["CellState"], state: str, command: str | None = None
) -> dict[str, Any]:
    """A trial or sweep and its cells as plain values, for --json."""
    cells = [
        {
            "name": one.cell.name,
            "arm": one.cell.arm,
            "seed": one.cell.seed,
            "overrides": list(one.cell.overrides),
            "state": one.state,
            "step": one.step,
            "max_steps": one.max_steps,
            "error": one.error or None,
            "folder": str(one.run),
        }
        for one in states
    ]
    return {
        "recipe": manifest.recipe,
        "state": state,
        "command": command or manifest.command,
        "folder": str(folder),
        "arms": manifest.arms,
        "seeds": manifest.seeds,
        "cells": cells,
    }


def end(states: Sequence["CellState"], stopped: bool, command: str) -> None:
    """Leave with 130 if it was told to stop, 1 if cells are not done, and say what to type next."""
    failed = sum(state.state == FAILED for state in states)
    damaged = sum(state.state == DAMAGED for state in states)
    undone = sum(state.state != DONE for state in states)
    if stopped:
        note(f"interrupted; the same command goes on:\n  {command}")
        raise typer.Exit(INTERRUPTED_CODE)
    if failed:
        note(f"{failed} of {len(states)} cells failed; to start them again:\n  {command} --retry")
        raise typer.Exit(1)
    if damaged:
        note(f"{damaged} of {len(states)} cells are damaged and were left out; to do them again:\n  {command} --retry")
        raise typer.Exit(1)
    if undone:
        note(f"{undone} of {len(states)} cells are not done; the same command goes on:\n  {command}")
        raise typer.Exit(1)


def watch_cells(folder: Path, manifest: "Manifest", metric: str, as_json: bool = False) -> None:
    """Show how far the cells are: on a terminal until all have ended, once elsewhere."""
    from recipes.core.runs.index import index_of
    from recipes.core.trial.states import cell_states, state_of_cells

    if not (folder / "manifest.json").exists():
        raise UserError("was never started", where=str(folder), hint=f"type: {manifest.command}")
    index = index_of(folder.parents[2])
    states = cell_states(folder, manifest, index)
    if as_json:
        print_result(manifest.kind, cells_result(folder, manifest, states, state_of_cells(states)))
        return
    if not sys.stdout.isatty():
        show_cells(states, metric=metric, index=index)
        return
    from rich.console import Group
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    def draw() -> Any:
        rows = [_row(state, metric, index) for state in states]
        shown = [name for name in rows[0] if name != "keys" or any(row[name] for row in rows)]
        grid = Table(*shown, box=None, pad_edge=False)
        for row in rows:
            grid.add_row(*(row[name] for name in shown))
        ended = sum(state.state in ENDED for state in states)
        return Group(grid, Text(f"{ended} of {len(states)} ended; Ctrl-C leaves this view, the cells go on"))

    with Live(draw(), refresh_per_second=1) as live:
        try:
            while any(state.state not in ENDED for state in states):
                time.sleep(LOOK_EVERY_SECONDS)
                states = cell_states(folder, manifest, index)
                live.update(draw())
        except KeyboardInterrupt:
            note("")


def _row(state: "CellState", metric: str | None, index: "RunIndex | None") -> dict[str, str]:
    from recipes.core.trial.states import eta_seconds, newest_metric

    left = eta_seconds(state)
    row = {
        "cell": state.cell.name,
        "keys": state.cell.keys,
        "state": state.state,
        "step": f"{state.step}/{state.max_steps}" if state.max_steps else "",
        "ETA": duration_text(left) if left is not None else "",
    }
    if metric:
        value = newest_metric(state, metric, index)
        row[metric] = "" if value is None else f"{value:.3f}"
    return row | {"error": (state.error.splitlines() or [""])[0]}
