"""`steelyard runs`: what ran, in which keys it differs, what came out and how it ended."""

import shutil
import sys
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import typer

from cli import completion
from cli.console import heading, say, table
from cli.keys import OUTPUTS
from cli.results import JSON, print_result
from recipes.core.config import registry
from recipes.core.errors import UserError
from recipes.core.messages import WIDEST, duration_text
from recipes.core.runs.arm_configs import differing_keys, value_text
from recipes.core.runs.folder import CUT_OFF, DONE, RUNNING, RunFolder
from recipes.core.runs.headline import headline
from recipes.core.runs.index import index_of
from recipes.core.runs.records import RunRecord, find_runs, seconds_between
from recipes.core.statistics.texts import number_text
from recipes.core.storage.locks import owner_of

NEEDED = ("arm", "seed", "state", "run")  # columns that no width takes away
BETWEEN = 3  # blanks between two columns, at most


def runs(
    recipe: str = typer.Argument(
        None, metavar="RECIPE", help="Only runs of this recipe.", autocompletion=completion.recipes
    ),
    outputs: Path = OUTPUTS,
    as_json: bool = JSON,
) -> None:
    """List what ran, how it ended and what came out.

    Beside the claim's metric stand the keys in which runs of one arm differ. Columns that the terminal has no room
    for are named below the table; --json has all.
    """
    if recipe is not None:
        registry.card(recipe)  # refuses an unknown name
    kept = index_of(outputs)
    records = find_runs(outputs, recipe, load=kept.load)
    kept.write()
    if as_json:
        groups = [(name, list(group)) for name, group in groupby(records, key=lambda run: run.recipe)]
        print_result("runs", [entry for name, group in groups for entry in _entries(name, group)])
    elif not records:
        say(f"no runs{f' of {recipe}' if recipe else ''} in {outputs}; start one: steelyard run {recipe or 'RECIPE'}")
    else:
        for index, (name, group) in enumerate(groupby(records, key=lambda run: run.recipe)):
            if index:
                say()
            _show(name, list(group), outputs)


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


def _entries(recipe: str, records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """The runs of a recipe as plain values."""
    keys, claimed = differing_keys(records), _claimed(recipe)
    return [_entry(run, keys, claimed) for run in records]


def _entry(run: RunRecord, keys: Sequence[str], claimed: str | None) -> dict[str, Any]:
    status = run.status
    metric, value = _headline(run, claimed)
    return {
        "recipe": run.recipe,
        "arm": run.arm,
        "seed": run.seed,
        "state": state_of(run),
        "step": status.get("step"),
        "max_steps": status.get("max_steps"),
        "metric": metric,
        "value": value,
        "started": run.started or None,
        "finished": status.get("finished"),
        "seconds": seconds_between(status),
        "keys": {key: value_text(run, key) for key in keys},
        "error": run.problem or status.get("error"),
        "folder": str(run.path),
    }


def _claimed(recipe: str) -> str | None:
    """The claim's metric; None of a recipe that is not here."""
    try:
        return registry.card(recipe).claim.metric
    except UserError:
        return None


def _headline(run: RunRecord, claimed: str | None) -> tuple[str | None, float | None]:
    """Name and value of the claim's metric, as the run has it; the value is None of one that is not finished."""
    if claimed is None:
        return None, None
    try:
        measured = run.metrics if run.state == DONE else {}
    except UserError:
        return None, None
    metric = headline(claimed, measured)
    return metric, measured.get(metric)


def _show(recipe: str, records: Sequence[RunRecord], outputs: Path) -> None:
    """Print the runs of a recipe, and what there was no room for."""
    entries = _entries(recipe, records)
    keys = list(entries[0]["keys"])
    metric = next((entry["metric"] for entry in entries if entry["value"] is not None), None)
    rows = [_row(entry, metric) for entry in entries]
    shown = [name for name in rows[0] if name in NEEDED or any(row[name] for row in rows)]
    width = _width()
    names: list[str] = [name for name in shown if name != "run"]
    dropped: list[str] = []
    if width is not None and not _fits(names, rows, width):
        names, dropped = _drop([name for name in shown if name != "folder"], rows, keys, width)
    heading(recipe)
    table(rows, names, numbers=["seed", "step", metric or "", "took"])
    if "run" in names:
        say(f"run folders: {outputs / recipe}/ARM/RUN")
    if dropped:
        text = f"no room in {width} columns for {', '.join(dropped)}; a wider terminal or --json has all"
        say(textwrap.fill(text, width or WIDEST, break_long_words=False, break_on_hyphens=False))


def _row(entry: dict[str, Any], metric: str | None) -> dict[str, str]:
    """The texts of a line by column; `folder` is where the run lies, `run` the last part of that."""
    row = {name: str(entry[name]) for name in ("arm", "seed", "state")}
    row["step"] = f"{entry['step']}/{entry['max_steps']}" if entry["max_steps"] else ""
    if metric:
        other = f" ({entry['metric']})" if entry["metric"] != metric else ""
        row[metric] = "" if entry["value"] is None else number_text(entry["value"]) + other
    row["took"] = "" if entry["seconds"] is None else duration_text(entry["seconds"])
    row["age"] = age(entry["started"] or "", datetime.now(UTC))
    return row | entry["keys"] | {"run": Path(entry["folder"]).name, "folder": entry["folder"]}


def _drop(
    names: list[str], rows: Sequence[dict[str, str]], keys: Sequence[str], width: int
) -> tuple[list[str], list[str]]:
    """The columns that a width has room for, and those that it has not: first step and age, then the widest keys."""
    kept, dropped = list(names), []
    by_width = sorted(keys, key=lambda key: -_column_width(key, rows))
    for name in ("step", "age", *by_width, "took"):
        if _fits(kept, rows, width):
            break
        if name in kept:
            kept.remove(name)
            dropped.append(name)
    return kept, dropped


def _fits(names: Sequence[str], rows: Sequence[dict[str, str]], width: int) -> bool:
    return sum(_column_width(name, rows) for name in names) + BETWEEN * (len(names) - 1) <= width


def _column_width(name: str, rows: Sequence[dict[str, str]]) -> int:
    return max(len(name), *(len(row[name]) for row in rows))


def _width() -> int | None:
    """Columns of the terminal; None where the lines go into a file or another program, whatever COLUMNS says."""
    if sys.stdout.isatty():
        return shutil.get_terminal_size().columns
    return None
