"""Finished runs as records: find them, read what they measured, and tell which can be paired.

Imports neither torch nor SciPy: listing runs is quick.
"""

import glob
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

from recipes.core.config.fields import flatten
from recipes.core.config.identity_keys import LATER_KEYS, NOT_IDENTITY
from recipes.core.config.sources import read_yaml
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.process.memory import uncollected
from recipes.core.runs.folder import AGAIN, DAMAGED, DONE, QUEUED, RunFolder
from recipes.core.runs.identity import Identity, hash_of, read_identity
from recipes.core.storage.files import read_json
from recipes.core.storage.seals import SEAL

ABSENT = "(not set)"
VERSION = "version of the recipe"
GROUPS = {"trials": "trial", "sweeps": "sweep"}  # folders beside those of arms
NAME = re.compile(r"[0-9a-f]{10}-s(\d+)")


@dataclass(frozen=True)
class RunRecord:
    """What a run folder says about its run; `arm` is the label of a run that has one.

    `problem` is what is wrong with a run that was finished; `content` says what the keys that name files stood for, and
    `version` is that of the recipe.
    """

    path: Path
    recipe: str
    arm: str
    seed: int
    state: str
    started: str
    config: dict[str, Any]
    problem: str = ""
    content: dict[str, str] = field(default_factory=dict)
    version: int | None = None

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The flat config without what results do not depend on; files stand for their content, not for their name."""
        flat = {key: value for key, value in self.flat.items() if _counts(key) and LATER_KEYS.get(key, ABSENT) != value}
        return flat | {key: value or None for key, value in self.content.items()}

    @cached_property
    def status(self) -> dict[str, Any]:
        """Its `status.json`; empty if it cannot be read."""
        return RunFolder(self.path).status()

    @cached_property
    def flat(self) -> dict[str, Any]:
        """Its config by dotted key."""
        return flatten(self.config)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Its final metrics; empty if it has none."""
        return final_metrics(self.path)

    @cached_property
    def info(self) -> dict[str, Any]:
        """What its metrics mean; empty if it does not say."""
        return read_info(self.path)


def load_run(folder: Path, intact: bool = False) -> RunRecord:
    """Read what a run folder says about its run.

    A finished run that is no longer what it was when it ended is in the state "damaged", and `problem` says why.

    Args:
        folder: The run folder.
        intact: Whether the caller knows that it is what it was when it ended; else its files are compared.

    Raises:
        UserError: it is no run folder, or its config is not that of its name.
    """
    run = RunFolder(folder)
    status, problem = run.status(), ""
    if not intact:
        problem = run.damage(status)
    if problem and (named := _from_name(folder, status.get("started") or "", problem)):
        return named
    try:
        config = read_yaml(folder / "config.yaml")
        recipe, arm, seed = config["recipe"], config.get("label") or config["arm"], config["seed"]
        if not (isinstance(recipe, str) and isinstance(arm, str) and type(seed) is int):
            raise TypeError("recipe, arm or seed of another type")
    except (OSError, KeyError, TypeError, ValueError, AttributeError, yaml.YAMLError, RecursionError) as error:
        raise no_run(folder) from error
    state = DAMAGED if problem else status.get("state", QUEUED)
    identity = read_identity(folder)
    if identity and not problem and NAME.fullmatch(folder.name):
        _check_name(folder, config, identity)
    content, version = (identity.content, identity.version) if identity else ({}, None)
    return RunRecord(folder, recipe, arm, seed, state, status.get("started") or "", config, problem, content, version)


def no_run(path: Path) -> UserError:
    """The error for a path that is no run folder, with the run, trial or sweep in whose folder it lies."""
    why = "it has no readable config.yaml" if path.exists() else "there is no such folder"
    what = "is a file, no run folder" if path.is_file() else f"is not a run folder: {why}"
    hint = "run folders are outputs/RECIPE/ARM/HASH-sSEED; steelyard runs lists them"
    for folder in (Path(os.path.abspath(path)), *Path(os.path.abspath(path)).parents):
        if folder != path and NAME.fullmatch(folder.name) and (folder / "config.yaml").is_file():
            hint = f"it lies in a run folder: type {folder}"
        elif folder.parent.name in GROUPS and (folder / "manifest.json").is_file():
            hint = f"it belongs to a {GROUPS[folder.parent.name]}, {folder}; {_report_of_group(folder)}"
        else:
            continue
        break
    return UserError(what, where=str(path), hint=hint)


def _report_of_group(folder: Path) -> str:
    """What writes the report of a trial or sweep again."""
    try:
        command = read_json(folder / "manifest.json").get("command")
    except (OSError, UserError):
        command = None
    return f"its report is written again by its command:\n{command}" if command else "it has no readable manifest.json"


@uncollected()
def find_runs(
    outputs: Path,
    recipe: str | None = None,
    warn: bool = True,
    arm: str | None = None,
    load: Callable[[Path], RunRecord] = load_run,
) -> list[RunRecord]:
    """Every run below an outputs folder (of one recipe, of one arm), ordered by recipe, arm, seed and start.

    What cannot be read or is damaged is named on stderr; it stops no other run.

    Args:
        outputs: The folder.
        recipe: Only runs of this recipe.
        warn: Name what is left out or damaged.
        arm: Only runs filed under this arm or label.
        load: Reads a run folder; that of an index reads none that it knows.
    """
    records = []
    folders = outputs.glob(f"{recipe or '*'}/{glob.escape(arm) if arm else '*'}/*-s*")
    for path in sorted(folders, key=lambda path: path.parts):
        if not any(os.path.lexists(f"{path}/{name}") for name in ("config.yaml", "status.json", SEAL)):
            continue
        try:
            records.append(_check_filing(load(path)))
        except UserError as error:
            if warn and path.exists():
                note(f"warning: {error.where} {error.what}; it is left out")
            continue
        if warn and records[-1].problem:
            note(f"warning: {path} is damaged: {records[-1].problem}; it is not compared\n  {AGAIN}")
    return sorted(records, key=lambda run: (run.recipe, run.arm, run.seed, run.started))


def outputs_of(run: RunRecord) -> Path:
    """The outputs that a run lies in, where others can be paired with it; of a copy elsewhere its own folder.

    A link is not resolved: the runs to pair with lie beside it.
    """
    path = run.path.absolute()
    return path.parents[2] if path.parts[-3:-1] == (run.recipe, run.arm) else path


def _check_filing(run: RunRecord) -> RunRecord:
    """A run below an outputs folder. Raises UserError if it is not filed under what its config says."""
    recipe, arm = os.path.abspath(run.path).split(os.sep)[-3:-1]
    if (recipe, arm) != (run.recipe, run.arm):
        raise UserError(f"is filed under {recipe}/{arm}, its config says {run.recipe}/{run.arm}", where=str(run.path))
    return run


def check_finished(run: RunRecord) -> None:
    """Refuse a run that is not finished, or damaged. Raises UserError that says what to type."""
    if run.problem:
        raise UserError(f"the run is damaged: {run.problem}", where=str(run.path), hint=AGAIN)
    if run.state != DONE:
        raise UserError(
            f"the run is not finished (state: {run.state})",
            where=str(run.path),
            hint=f"finish it: steelyard run {run.recipe} with the keys of its config.yaml; it resumes",
        )


def _check_name(folder: Path, config: dict[str, Any], identity: Identity) -> None:
    """Raises UserError if a config is not the one that its folder is named after."""
    expected = f"{hash_of(config, identity.content, identity.version)}-s{config['seed']}"
    if folder.name != expected:
        raise UserError(
            f"its config.yaml is not the one it was started with: that of {expected}, not of {folder.name}",
            where=str(folder),
            hint=AGAIN,
        )


def _value_text(run: RunRecord, other: RunRecord, key: str) -> str:
    """A run's value of a key in which it differs from another: of two files of one name, what they hold as well."""
    value, mine, theirs = (flatten(one).get(key, ABSENT) for one in (run.config, run.config, other.config))
    held = f" ({run.content[key][:17]})" if run.content.get(key) and mine == theirs else ""
    return f"{value}{held}"


def _from_name(folder: Path, started: str, problem: str) -> RunRecord | None:
    """The record of a damaged run, as its folder is named: outputs/RECIPE/ARM/HASH-sSEED; None if it is not."""
    match = NAME.fullmatch(folder.name)
    if match is None:
        return None
    recipe, arm = Path(os.path.abspath(folder)).parts[-3:-1]
    return RunRecord(folder, recipe, arm, int(match[1]), DAMAGED, started, {}, problem)


def find_baseline(run: RunRecord, runs: Sequence[RunRecord], baseline: str, arm_keys: set[str]) -> RunRecord | None:
    """The newest finished run of the baseline arm that `run` can be paired with, None if there is none.

    Args:
        run: The run to compare.
        runs: Where to look, as from `find_runs`.
        baseline: Name of the baseline arm.
        arm_keys: Dotted prefixes that arms are free to change ({"weighting"}).
    """
    wanted = pairing_key(run, arm_keys)
    candidates = [
        other
        for other in runs
        if other.arm == baseline and other.state == DONE and pairing_key(other, arm_keys) == wanted
    ]
    return max(candidates, key=lambda other: other.started, default=None)


def pairing_key(run: RunRecord, arm_keys: set[str]) -> dict[str, Any]:
    """All that two runs must share to be paired: the recipe's version and the flat config, but for what arms choose."""
    shared = {key: value for key, value in run.identity.items() if not is_below(key, {"arm", *arm_keys})}
    return shared | {VERSION: run.version}


def config_differences(run: RunRecord, baseline: RunRecord) -> list[tuple[str, str, str]]:
    """Config keys that can change the result and differ, as (key, run's value, baseline's value); the version too."""
    left, right = run.identity, baseline.identity
    differing = [key for key in {**left, **right} if left.get(key, ABSENT) != right.get(key, ABSENT)]
    versions = [(VERSION, str(run.version), str(baseline.version))] if run.version != baseline.version else []
    return versions + [(key, _value_text(run, baseline, key), _value_text(baseline, run, key)) for key in differing]


def read_info(folder: Path) -> dict[str, Any]:
    """Content of `metrics_info.json`; empty if the run has none."""
    return RunFolder(folder).read_json("metrics_info.json")


def final_metrics(folder: Path) -> dict[str, float]:
    """The metrics of the last line of kind "final"; empty if there is none."""
    lines = RunFolder(folder).read_metrics("final")
    return lines[-1][1] if lines else {}


def seconds_taken(folder: Path) -> float | None:
    """Seconds that a run took; None if it has not ended, or was cut off: its clock counts the last start."""
    return seconds_between(RunFolder(folder).status())


def seconds_between(status: Mapping[str, Any]) -> float | None:
    """`seconds_taken` of a run with this status."""
    if not (status.get("started") and status.get("finished")) or status.get("resumed_from"):
        return None
    passed = datetime.fromisoformat(status["finished"]) - datetime.fromisoformat(status["started"])
    return passed.total_seconds()


@cache
def _counts(key: str) -> bool:
    """Whether a key can change results."""
    return not is_below(key, set(NOT_IDENTITY))


def is_below(key: str, prefixes: set[str]) -> bool:
    """Whether a dotted key is one of the prefixes or lies below one."""
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)
