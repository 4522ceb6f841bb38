"""`steelyard sweep`: one cell for every combination of values, or cells that Optuna proposes."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cli import completion
from cli.cells import (
    JOBS,
    LAUNCHER,
    RETRY,
    end,
    launcher_of,
    launcher_words,
    open_jobs,
    outputs_of,
    show_cells,
    show_plan,
    watch_cells,
)
from cli.console import heading, note, pairs, say, table
from recipes.core import registry
from recipes.core.errors import UserError
from recipes.core.schema import did_you_mean
from recipes.core.trial import cells as planning
from recipes.core.trial import manifest as manifests
from recipes.core.trial.states import CUT_OFF, DONE, FAILED, INTERRUPTED, CellState

if TYPE_CHECKING:
    from recipes.core.trial.launch import Launcher


def sweep(
    recipe: str = typer.Argument(metavar="RECIPE", help="Name of the recipe.", autocompletion=completion.recipes),
    overrides: list[str] = typer.Argument(
        None,
        metavar="KEY=VALUE",
        help="Keys with several values: weighting.alpha=0.5,1 seed=range(3); launcher.KEY=VALUE for the launcher.",
        autocompletion=completion.overrides,
    ),
    sweeper: str = typer.Option("", help="grid (default): every combination; optuna: TPE proposes cells."),
    trials: int = typer.Option(20, min=1, help="Cells that Optuna proposes."),
    metric: str = typer.Option("", help="Final metric of the table and the search; the claim's if none."),
    launcher: str = LAUNCHER,
    jobs: int = JOBS,
    retry: bool = RETRY,
    status: bool = typer.Option(False, "--status", help="Show how far the cells are; start nothing."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show the cells and what they need; start nothing."),
) -> None:
    """Run a recipe for every combination of values and print one table.

    The same command again goes on where it was stopped; finished cells are reused.
    """
    keys, options, named = open_jobs(list(overrides or []))
    chosen = sweeper or next((word.partition("=")[2] for word in keys if word.startswith("sweeper=")), "grid")
    keys = [word for word in keys if not word.startswith("sweeper=")]
    if chosen not in ("grid", "optuna"):
        raise UserError(f"unknown sweeper {chosen!r}", where="--sweeper", hint=did_you_mean(chosen, ["grid", "optuna"]))
    measured = registry.card(recipe).claim.metric
    launcher, metric = launcher or named, metric or measured
    made = launcher_of(launcher, jobs, options)
    words = ["--metric", metric] if metric != measured else []
    if chosen == "optuna":
        # How many run at once is part of a search: the sampler learns from them together.
        words += ["--sweeper", "optuna", "--trials", str(trials)]
        jobs = made.jobs
    command = shlex.join(["steelyard", "sweep", recipe, *keys, *words, *launcher_words(launcher, jobs, options)])
    if chosen == "optuna":
        _search(recipe, keys, made, metric, trials, retry, command, look=status or dry_run)
        return
    found = planning.sweep_cells(recipe, keys)
    folder, manifest = manifests.plan("sweep", recipe, found, outputs_of(found[0], recipe), command, made.jobs)
    if status:
        watch_cells(folder, manifest, metric)
    elif dry_run:
        show_plan(folder, manifest, made)
    else:
        from recipes.core.trial.drive import drive

        states, stopped = drive(folder, manifest, made, retry)
        _conclude(folder, states, metric, command, stopped)


def _search(
    recipe: str,
    keys: list[str],
    launcher: "Launcher",
    metric: str,
    trials: int,
    retry: bool,
    command: str,
    look: bool,
) -> None:
    """Search, or with `look` only show what would be searched and what is there."""
    from recipes.core.trial.search import check_space, plan_search, read_space, search, search_identity

    space = read_space(recipe, keys)
    tried = check_space(space)
    folder = Path(outputs_of(tried[0], recipe)) / recipe / "sweeps" / search_identity(space, metric, launcher.jobs)
    if look:
        pairs([("sweep folder", str(folder)), *((key, repr(kind)) for key, kind in space.distributions.items())])
        if (folder / manifests.NAME).exists():
            watch_cells(folder, manifests.read(folder), metric)
        return
    manifest = plan_search(folder, space, command, launcher.jobs)
    ended: tuple[list[CellState], bool] = ([], False)
    for ended in search(folder, manifest, space, launcher, metric=metric, trials=trials, retry=retry):
        note(f"{sum(state.state == DONE for state in ended[0])} of {trials} cells done")
    _conclude(folder, ended[0], metric, command, ended[1], ranked=True)


def _conclude(
    folder: Path, states: list[CellState], metric: str, command: str, stopped: bool, ranked: bool = False
) -> None:
    """Print the table, write the results and end with the right exit code."""
    from recipes.core.compare import number_text
    from recipes.core.trial.sweep_table import best_first, settings, write_sweep

    found = settings(states, metric)
    rows = [
        {
            "setting": setting.label,
            metric: number_text(setting.mean) if setting.values else "",
            "+-": "" if setting.half_width is None else number_text(setting.half_width),
            "done": f"{len(setting.values)}/{setting.cells}",
        }
        for setting in (best_first(found, states, metric) if ranked else found)
    ]
    heading(f"{metric}: mean over seeds, +- half of its 95% t interval")
    table(rows, numbers=[metric, "+-", "done"])
    _tell_unknown(states, metric)
    show_cells(states, only=(FAILED, INTERRUPTED, CUT_OFF))
    say()
    pairs([("results", str(write_sweep(folder, states, metric))), ("sweep folder", str(folder))])
    end(states, stopped, command)


def _tell_unknown(states: list[CellState], metric: str) -> None:
    """Say which metrics there are if no finished cell has the one asked for."""
    from recipes.core.records import final_metrics

    measured = [final_metrics(state.run) for state in states if state.state == DONE]
    if measured and not any(metric in metrics for metrics in measured):
        note(f"no cell logs a final metric {metric!r}; {did_you_mean(metric, sorted(measured[0]))}")
