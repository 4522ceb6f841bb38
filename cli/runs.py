"""`steelyard runs`: what ran and how it ended."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from cli import completion
from cli.console import print_json, say, table
from cli.keys import OUTPUTS
from recipes.core.config import registry
from recipes.core.runs.folder import CUT_OFF, RUNNING, RunFolder
from recipes.core.runs.records import RunRecord, find_runs
from recipes.core.storage.locks import owner_of


def runs(
    recipe: str = typer.Argument(
        None, metavar="RECIPE", help="Only runs of this recipe.", autocompletion=completion.recipes
    ),
    outputs: Path = OUTPUTS,
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """List what ran and how it ended."""
    if recipe is not None:
        registry.card(recipe)  # refuses an unknown name
    entries = [_entry(run) for run in find_runs(outputs, recipe)]
    if as_json:
        print_json(entries)
    elif not entries:
        say(f"no runs{f' of {recipe}' if recipe else ''} in {outputs}; start one: steelyard run {recipe or 'RECIPE'}")
    else:
        table([_row(entry) for entry in entries], numbers=["seed", "step"])


def state_of(run: RunRecord) -> str:
    """The state of `status.json`; "cut off" if it says running and no live process owns the folder."""
    running = run.state == RUNNING
    return CUT_OFF if running and owner_of(RunFolder(run.path).lock) is None else run.state


def age(since: str, now: datetime) -> str:
    """How long ago an ISO time was, in its largest unit; empty if there is none."""
    if not since:
        return ""
    started = datetime.fromisoformat(since)
    seconds = (now - (started if started.tzinfo else started.replace(tzinfo=UTC))).total_seconds()
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


def _entry(run: RunRecord) -> dict[str, Any]:
    status = RunFolder(run.path).status()
    return {
        "recipe": run.recipe,
        "arm": run.arm,
        "seed": run.seed,
        "state": state_of(run),
        "step": status.get("step"),
        "max_steps": status.get("max_steps"),
        "started": run.started or None,
        "finished": status.get("finished"),
        "error": run.problem or status.get("error"),
        "folder": str(run.path),
    }


def _row(entry: dict[str, Any]) -> dict[str, str]:
    step = f"{entry['step']}/{entry['max_steps']}" if entry["max_steps"] else ""
    started = age(entry["started"] or "", datetime.now(UTC))
    row = {name: str(entry[name]) for name in ("recipe", "arm", "seed", "state")}
    return row | {"step": step, "age": started, "folder": entry["folder"]}
