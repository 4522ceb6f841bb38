"""`steelyard sweep`: one cell for every combination of values, or cells that Optuna proposes."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cli import completion
from cli.cells import (
    DRY_RUN,
    FRESH,
    JOBS,
    LAUNCHER,
    PLANNED,
    RETRY,
    STATUS,
    UNFINISHED,
    cells_result,
    end,
    launcher_of,
    launcher_words,
    open_jobs,
    show_cells,
    show_plan,
    watch_cells,
)
from cli.console import heading, note, pairs, say, table
from cli.keys import (
    CONFIG,
    CONFIG_FOLDER,
    OUTPUTS_KEY,
    RECIPE,
    file_words,
    note_idle,
    recipe_and_file,
    typed_keys,
)
from cli.results import JSON, as_files, print_result
from recipes.core.config import registry
from recipes.core.config.config_file import cell_words
from recipes.core.config.unread import of_no_use
from recipes.core.errors import UserError
from recipes.core.runs.folder import DONE
from recipes.core.spelling import did_you_mean
from recipes.core.statistics.claims import card_for
from recipes.core.trial import cells as planning
from recipes.core.trial import manifest as manifests
from recipes.core.trial.states import CellState, cell_states, state_of_cells

if TYPE_CHECKING:
    from recipes.core.config.settings import Card
    from recipes.core.trial.launch import Launcher
    from recipes.core.trial.manifest import Manifest
    from recipes.core.trial.search import Space
    from recipes.core.trial.sweep_table import Setting


ALIKE = 0.85  # share of letters from which on a name is another one mistyped


def sweep(
    recipe: str = RECIPE,
    overrides: list[str] = typer.Argument(
        None,
        metavar="KEY=VALUE",
        help="Keys with several values: weighting.alpha=0.5,1 seed=range(3); launcher.KEY=VALUE for the launcher.",
        autocompletion=completion.overrides,
    ),
    sweeper: str = typer.Option("", help="grid (default): every combination; optuna: TPE proposes cells."),
    trials: int = typer.Option(20, min=1, help="Cells that Optuna proposes."),
    metric: str = typer.Option("", help="Final metric of the table and the search; the claim's if none."),
    outputs: str = OUTPUTS_KEY,
    config: str = CONFIG,
    config_dir: str = CONFIG_FOLDER,
    launcher: str = LAUNCHER,
    jobs: int = JOBS,
    retry: bool = RETRY,
    fresh: bool = FRESH,
    status: bool = STATUS,
    dry_run: bool = DRY_RUN,
    as_json: bool = JSON,
) -> None:
    """Run a recipe for every combination of values, in one table.

    The same command again goes on where it was stopped; finished cells are reused.
    """
    recipe, typed, file = recipe_and_file(recipe, overrides, config)
    typed = typed_keys(typed, outputs)
    keys, options, named = open_jobs(cell_words(file, typed, chooses_arms=False) if file else typed)
    chosen, keys = _sweeper(sweeper, keys)
    card = card_for(recipe, keys)
    measured = card.claim.metric
    launcher, metric = launcher or named, metric or measured
    _check_metric(card, metric)
    chosen_launcher = launcher_of(launcher, jobs, options)
    words = ["--metric", metric] if metric != measured else []
    if chosen == "optuna":
        # How many run at once is part of a search: the sampler learns from them together.
        words += ["--sweeper", "optuna", "--trials", str(trials)]
        jobs = chosen_launcher.jobs
    words += launcher_words(launcher, jobs, options)
    typed = _sweeper("grid", open_jobs(typed)[0])[1] if file else keys
    command = shlex.join(["steelyard", "sweep", recipe, *file_words(file, config_dir), *typed, *words])
    if chosen == "optuna":
        if status or dry_run:
            _show_search(recipe, keys, chosen_launcher, metric, command, dry_run, as_json)
        else:
            _search(recipe, keys, chosen_launcher, metric, trials, retry, fresh, command, as_json)
        return
    _grid(recipe, keys, chosen_launcher, metric, command, retry, fresh, status, dry_run, as_json)


def _grid(
    recipe: str,
    keys: list[str],
    launcher: "Launcher",
    metric: str,
    command: str,
    retry: bool,
    fresh: bool,
    status: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Show or run every combination of values."""
    cells = planning.sweep_cells(recipe, keys)
    folder, manifest, configs = manifests.plan("sweep", recipe, cells, command, launcher.jobs)
    if status:
        watch_cells(folder, manifest, metric, as_json)
        return
    note_idle(of_no_use(configs, cells[0].overrides))
    from recipes.core.runs.index import index_of
    from recipes.core.trial.starting import check_cells

    now = cell_states(folder, manifest, index_of(manifests.outputs_of(folder)))
    check_cells(now, configs, launcher, fresh)
    if dry_run:
        show_plan(folder, manifest, configs, launcher, now, as_json)
    else:
        from recipes.core.trial.drive import drive

        states, stopped = drive(folder, manifest, launcher, retry, fresh=fresh)
        _conclude(folder, manifest, states, metric, command, stopped, as_json=as_json)


def _sweeper(typed: str, keys: list[str]) -> tuple[str, list[str]]:
    """The sweeper that was typed, as an option or among the keys, and the other keys."""
    chosen = typed or next((word.partition("=")[2] for word in keys if word.startswith("sweeper=")), "grid")
    if chosen not in ("grid", "optuna"):
        raise UserError(f"unknown sweeper {chosen!r}", where="--sweeper", hint=did_you_mean(chosen, ["grid", "optuna"]))
    return chosen, [word for word in keys if not word.startswith("sweeper=")]


def _check_metric(card: "Card", metric: str) -> None:
    """Refuse a metric that no run of the recipe will have, or that is a slip of the pen, before anything runs."""
    claims = [claim.metric for claim in (card.claim, *card.claims)]
    known = list(dict.fromkeys([*claims, *card.price, *(name for pair in card.frontiers for name in pair)]))
    if card.measures(metric) and (metric in known or not any(_is_slip(metric, name) for name in known)):
        return
    hint = f"{did_you_mean(metric, known)}\nnames of metrics are {', '.join(card.metrics)}"
    raise UserError(f"no run logs a metric {metric!r}", where="--metric", hint=hint)


def _is_slip(metric: str, name: str) -> bool:
    """Whether a metric is `name` mistyped: nearly its letters, whatever its digits (accuracy@0.5, accuracy@0.25)."""
    typed, meant = (re.sub(r"[\d.]+", "", text) for text in (metric, name))
    return typed != meant and SequenceMatcher(None, typed, meant).ratio() > ALIKE


def _search(
    recipe: str,
    keys: list[str],
    launcher: "Launcher",
    metric: str,
    trials: int,
    retry: bool,
    fresh: bool,
    command: str,
    as_json: bool,
) -> None:
    from recipes.core.trial.search import plan_search, search

    folder, space = _folder_and_space(recipe, keys, launcher, metric, starts=True)
    manifest = plan_search(folder, space, command, launcher.jobs)
    ended: tuple[list[CellState], bool] = ([], False)
    for ended in search(folder, manifest, space, launcher, metric=metric, trials=trials, retry=retry, fresh=fresh):
        note(f"{sum(state.state == DONE for state in ended[0])} of {trials} cells done")
    _conclude(folder, manifests.read(folder), ended[0], metric, command, ended[1], ranked=True, as_json=as_json)


def _show_search(
    recipe: str, keys: list[str], launcher: "Launcher", metric: str, command: str, dry_run: bool, as_json: bool
) -> None:
    """Print what is searched, and the cells that there are."""
    folder, space = _folder_and_space(recipe, keys, launcher, metric, starts=dry_run)
    searched = {key: repr(kind) for key, kind in space.distributions.items()}
    manifest = manifests.read(folder) if (folder / manifests.NAME).exists() else None
    if as_json:
        planned = manifest or manifests.Manifest("sweep", recipe, command, "", 0, ())
        states = cell_states(folder, planned)
        state = PLANNED if dry_run or not manifest else state_of_cells(states)
        print_result("sweep", cells_result(folder, planned, states, state, command) | {"space": searched})
        return
    pairs([("sweep folder", str(folder)), *searched.items()])
    if manifest:
        watch_cells(folder, manifest, metric)


def _folder_and_space(
    recipe: str, keys: list[str], launcher: "Launcher", metric: str, starts: bool
) -> "tuple[Path, Space]":
    """Folder and space of a search, its values checked; if it `starts`, whether its cells may too."""
    from recipes.core.trial.search import check_space, read_space, search_identity
    from recipes.core.trial.starting import check_configs

    space = read_space(recipe, keys)
    tried = [cell.config for cell in check_space(space)]
    if starts:
        check_configs(tried, launcher)
    outputs = Path(tried[0].outputs)
    return outputs / recipe / "sweeps" / search_identity(space, metric, launcher.jobs), space


def _conclude(
    folder: Path,
    manifest: "Manifest",
    states: list[CellState],
    metric: str,
    command: str,
    stopped: bool,
    ranked: bool = False,
    as_json: bool = False,
) -> None:
    """Print the table, write the results and end with the right exit code."""
    from recipes.core.trial.report.frontiers import write_frontiers
    from recipes.core.trial.sweep_table import best_first, settings, write_sweep

    measured = settings(states, metric)
    measured = best_first(measured, states, metric) if ranked else measured
    card = registry.card(manifest.recipe)
    drawn = [("frontier", path) for path in write_frontiers(folder, card, states)]
    files = [("results", write_sweep(folder, states, metric)), *drawn]
    _note_missing_metric(states, metric)
    if card.frontiers and not drawn:
        note(f"no frontier: the seeds of no arm reach a common {card.frontiers[0][0]}")
    if as_json:
        ended = cells_result(folder, manifest, states, state_of_cells(states, stopped), command)
        rows = [asdict(setting) | {"mean": setting.mean} for setting in measured]
        print_result("sweep", ended | {"metric": metric, "settings": rows, "files": as_files(files)})
    else:
        _show_settings(measured, metric)
        show_cells(states, only=UNFINISHED)
        say()
        pairs([*((kind, str(path)) for kind, path in files), ("sweep folder", str(folder))])
    end(states, stopped, command)


def _show_settings(measured: "Sequence[Setting]", metric: str) -> None:
    from recipes.core.statistics.texts import number_text

    rows = [
        {
            "setting": setting.label,
            metric: number_text(setting.mean) if setting.values else "",
            "+-": "" if setting.half_width is None else number_text(setting.half_width),
            "done": f"{len(setting.values)}/{setting.cells}",
        }
        for setting in measured
    ]
    heading(f"{metric}: mean over seeds, +- half of its 95% t interval")
    table(rows, numbers=[metric, "+-", "done"])


def _note_missing_metric(states: list[CellState], metric: str) -> None:
    """Name the metrics that there are if no finished cell has the one asked for."""
    from recipes.core.runs.records import final_metrics

    done = [state.run for state in states if state.state == DONE]
    if done and not any(metric in final_metrics(run) for run in done):
        note(f"no cell logs a final metric {metric!r}; {did_you_mean(metric, sorted(final_metrics(done[0])))}")
