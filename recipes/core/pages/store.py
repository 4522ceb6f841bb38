"""From a trial's folder to docs/results: what pages need of it, and nothing that only one machine knows."""

import re
import shlex
import socket
from datetime import datetime
from pathlib import Path
from typing import Any

from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.pages.stored import RESULTS, StoredTrial, write_trial
from recipes.core.process.cores import processor_name
from recipes.core.report.page import read_environment
from recipes.core.runs.folder import DONE, RunFolder
from recipes.core.trial.budget import arms_of
from recipes.core.trial.report.answer import answer_rows
from recipes.core.trial.report.arms import Arm, metrics_info, trial_arms, trial_metrics
from recipes.core.trial.result import TrialResult, analyse

ABSOLUTE = re.compile(r"(^|[=,\[{(:'\" ])(~|/)")  # a path from the root or a home, wherever it stands in a word


def store(folder: Path, target: Path) -> Path:
    """Store a trial for pages.

    Args:
        folder: The trial's folder, every run finished.
        target: `docs/results/RECIPE/NAME.json`.

    Returns:
        `target`, written.

    Raises:
        UserError: `folder` is no trial's folder, runs are missing, `target` is elsewhere, or the command holds a path.
    """
    result = analyse(folder)
    return write_trial(stored_trial(result, _name(result.manifest.recipe, target)))


def stored_trial(result: TrialResult, name: str) -> StoredTrial:
    """What pages need of a finished trial. Raises UserError if runs are missing or its command holds a path."""
    missing = [f"{state.cell.name} is {state.state}" for state in result.states if state.state != DONE]
    if missing:
        what = f"{len(missing)} of {len(result.states)} runs are not finished ({missing[0]})"
        raise UserError(what, str(result.folder), f"finish them: {result.manifest.command}")
    arms = trial_arms(result)
    metrics = trial_metrics(arms, metrics_info(arms), result.card.claim.metric)
    environments = [read_environment(run.path) for run in result.runs]
    ends = [RunFolder(run.path).status() for run in result.runs]
    started, finished = (sorted(datetime.fromisoformat(end[key]) for end in ends) for key in ("started", "finished"))
    return StoredTrial(
        name=name,
        recipe=result.manifest.recipe,
        version=result.runs[0].version or result.card.version,
        command=_command(result),
        commits=tuple(dict.fromkeys(str(one.get("commit") or "unknown") for one in environments)),
        date=finished[-1].date().isoformat(),
        seconds=(finished[-1] - started[0]).total_seconds(),
        runs=len(result.runs),
        machines=_machines(environments),
        seeds=tuple(result.manifest.seeds),
        rows=tuple(answer_rows(result.comparisons, result.card.claim.metric)),
        judged=(result.lead, *result.further),
        metrics={one.name: {"title": one.title, "higher_is_better": one.higher_is_better} for one in metrics},
        values={arm.name: _values(arm, result.manifest.seeds) for arm in _in_order(arms, result.manifest.arms)},
        differences={arm.name: _differences(arm) for arm in arms if arm.comparison},
    )


def _name(recipe: str, target: Path) -> str:
    """`RECIPE/NAME` of a file below docs/results."""
    path = target.resolve()
    if path.parent != (RESULTS / recipe).resolve() or path.suffix != ".json":
        raise UserError("is no place for this trial", str(target), f"type docs/results/{recipe}/NAME.json")
    return f"{recipe}/{path.stem}"


def _command(result: TrialResult) -> str:
    """The command that gives this trial today: its arms named where they no longer follow from the budget."""
    # `outputs=` changes no result.
    words = [word for word in shlex.split(result.manifest.command) if not word.startswith("outputs=")]
    words += _arms_words(result, words)
    paths = [word for word in words if ABSOLUTE.search(word)]
    if paths:
        what = f"the command holds a path of this machine: {paths[0]}"
        raise UserError(what, str(result.folder), "measure with a name that others have too, or a relative path")
    return shlex.join(words)


def _arms_words(result: TrialResult, words: list[str]) -> list[str]:
    """`--arms` of a trial that named none, if a trial that names none has other arms now."""
    recipe, measured = result.manifest.recipe, result.manifest.arms
    keys = [word for word in words[3:] if "=" in word and not word.startswith("-")]
    if "--arms" in words or set(measured) == set(arms_of(recipe, keys)):
        return []
    return ["--arms", "all" if set(measured) == set(compose.arms(recipe, keys)) else ",".join(measured)]


def _machines(environments: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    machines = [_machine(environment) for environment in environments]
    return tuple(one for index, one in enumerate(machines) if one not in machines[:index])


def _machine(environment: dict[str, Any]) -> dict[str, Any]:
    """What a run was measured on; runs from before `processor` was recorded get it if they ran on this host."""
    here = environment.get("host") == socket.gethostname()
    return {
        "device": environment.get("device", "cpu"),
        "gpu": environment.get("gpu"),
        "processor": environment.get("processor") or (processor_name() if here else ""),
        "cores": environment.get("cores"),
        "threads": environment.get("threads"),
        "torch": environment.get("packages", {}).get("torch"),
        "python": environment.get("python"),
    }


def _in_order(arms: list[Arm], names: list[str]) -> list[Arm]:
    """Arms as they were planned."""
    return sorted(arms, key=lambda arm: names.index(arm.name))


def _values(arm: Arm, seeds: list[int]) -> dict[str, list[float | None]]:
    """Metric -> value of each seed."""
    names = dict.fromkeys(name for final in arm.finals.values() for name in final)
    values = {name: arm.values(name) for name in names}
    return {name: [by_seed.get(seed) for seed in seeds] for name, by_seed in values.items()}


def _differences(arm: Arm) -> dict[str, list[float]]:
    """Metric -> [estimate, low, high]."""
    rows = arm.comparison.rows if arm.comparison else ()
    intervals = {row.metric: row.interval for row in rows if row.interval}
    return {name: [one.estimate, one.low, one.high] for name, one in intervals.items()}
