"""What a trial ran: its cells, their commands, what failed, where environments and configs differ."""

import itertools
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from recipes.core.messages import duration_text
from recipes.core.report.page import read_environment
from recipes.core.runs.folder import DONE, FAILED
from recipes.core.runs.records import config_differences, flatten
from recipes.core.trial.cells import command_of
from recipes.core.trial.manifest import Manifest
from recipes.core.trial.report.arms import Arm
from recipes.core.trial.result import TrialResult
from recipes.core.trial.states import CellState

NO_ENVIRONMENT = {"command", "seed"}  # differ between cells by design


@dataclass(frozen=True)
class CellRow:
    """One line of the table of cells; `link` is relative to the trial's folder, empty if the folder does not exist."""

    state: CellState
    steps: str
    duration: str
    link: str
    command: str

    @property
    def mark(self) -> str:
        """Class of the state's badge."""
        return {DONE: "better", FAILED: "worse"}.get(self.state.state, "unclear")


def cell_rows(result: TrialResult) -> list[CellRow]:
    """All cells in the manifest's order."""
    return [
        CellRow(
            state,
            f"{state.step:,} of {state.max_steps:,}" if state.max_steps else "",
            _duration(state),
            _link(result.folder, state.cell.folder),
            command_of(result.manifest.recipe, state.cell),
        )
        for state in result.states
    ]


def seconds_of(state: CellState) -> float | None:
    """How long a cell took from its last start to its end; None if it did not end."""
    if not (state.started and state.finished):
        return None
    return (datetime.fromisoformat(state.finished) - datetime.fromisoformat(state.started)).total_seconds()


def more_seeds_command(manifest: Manifest, more: int) -> str:
    """The trial's command with `more` further seeds: those typed, then the smallest that were not."""
    planned = frozenset(manifest.seeds)
    free = (seed for seed in itertools.count() if seed not in planned)
    seeds = [*manifest.seeds, *itertools.islice(free, more)]
    counted = sorted(seeds) == list(range(len(seeds)))
    text = str(len(seeds)) if counted else ",".join(map(str, seeds))
    words, kept, skip = shlex.split(manifest.command), [], False
    for word in words:
        if not skip and word != "--seeds" and not word.startswith("--seeds="):
            kept.append(word)
        skip = word == "--seeds"
    return shlex.join([*kept, "--seeds", text])


def environment_differences(result: TrialResult) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """Environment keys in which finished cells differ, as (key, [(value, names of the cells)])."""
    alike: dict[str, tuple[dict[str, Any], list[int]]] = {}  # environments that differ, and the runs that had them
    for number, run in enumerate(result.runs):
        environment = _shared(read_environment(run.path))
        if (key := repr(environment)) not in alike:
            alike[key] = flatten(environment), []
        alike[key][1].append(number)
    if len(alike) < 2:
        return []
    names = {(state.cell.arm, state.cell.seed): state.cell.name for state in result.states}
    labels = [names.get((run.arm, run.seed), f"{run.arm}, seed {run.seed}") for run in result.runs]
    differing = []
    for key in dict.fromkeys(key for environment, _ in alike.values() for key in environment):
        runs_by_value: dict[str, list[int]] = {}
        for environment, numbers in alike.values():
            runs_by_value.setdefault(str(environment.get(key, "not recorded")), []).extend(numbers)
        if len(runs_by_value) > 1:
            cells = [(value, [labels[number] for number in sorted(runs)]) for value, runs in runs_by_value.items()]
            differing.append((key, cells))
    return differing


def common_environment(result: TrialResult) -> dict[str, Any]:
    """Environment of the first finished run, without what is recorded for each cell."""
    environment = read_environment(result.runs[0].path) if result.runs else {}
    return _shared(environment)


def _shared(environment: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in environment.items() if key not in NO_ENVIRONMENT}


def config_table(arms: Sequence[Arm]) -> tuple[list[str], list[tuple[Arm, list[str]]]]:
    """Config keys that the arms set differently, of one seed.

    Returns:
        The keys, and each arm's value of every key.
    """
    seeds = [set(arm.runs) for arm in arms if arm.runs]
    if not seeds:
        return [], []
    shared = set.intersection(*seeds)
    runs = [(arm, arm.runs[min(shared)] if shared else next(iter(arm.runs.values()))) for arm in arms if arm.runs]
    keys = dict.fromkeys(
        key
        for _, run in runs[1:]
        for key, _, _ in config_differences(run, runs[0][1])
        if key != "arm" and (shared or key != "seed")
    )
    flat = [(arm, flatten(run.config)) for arm, run in runs]
    return list(keys), [(arm, [str(config.get(key, "(not set)")) for key in keys]) for arm, config in flat]


def _duration(state: CellState) -> str:
    seconds = seconds_of(state)
    return "" if seconds is None else duration_text(seconds)


def _link(folder: Path, cell: str) -> str:
    """From the trial's folder (`outputs/<recipe>/trials/<name>`) to a run's report, or its folder without one."""
    run = folder.parents[2] / cell
    if not run.is_dir():
        return ""
    target = run / "report.html" if (run / "report.html").exists() else run
    return quote(os.path.relpath(target, folder))
