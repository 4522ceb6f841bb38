"""Scores of a run's model in tasks of lm-eval, evaluated after it was finished: `evaluate/`, outside the seal."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recipes.core.errors import UserError
from recipes.core.storage.files import read_json, write_json

FOLDER = "evaluate"
LONGEST = 120  # characters of a file's name


@dataclass(frozen=True)
class TaskScore:
    """One metric of one task.

    Attributes:
        task: Its name.
        metric: Its name, with the filter of answers behind a comma where it is not "none" ("exact_match,strict").
        value: The number.
        error: Its standard error; None if it is not known.
        examples: That were asked.
        few_shot: Examples with answers before each; None if the task has no such number.
        higher_is_better: Which direction is good; None if it is not known.
    """

    task: str
    metric: str
    value: float
    error: float | None
    examples: int | None
    few_shot: int | None
    higher_is_better: bool | None


@dataclass(frozen=True)
class TaskEvaluation:
    """Scores of one evaluation, and how it was done ("limit", "batch_size", "device", versions of packages)."""

    settings: dict[str, Any]
    scores: tuple[TaskScore, ...]


def file_name(settings: Mapping[str, Any]) -> str:
    """Name of the file of an evaluation: its tasks, and what makes its scores others than those of the whole tasks.

    Args:
        settings: Of a `TaskEvaluation`: "tasks", "few_shot", "limit" and "include_path".
    """
    tasks, few_shot, limit, include = (settings[key] for key in ("tasks", "few_shot", "limit", "include_path"))
    name = ",".join(tasks).replace("/", "-")
    if len(name) > LONGEST:
        name = f"{name[:LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    shots = f"_{few_shot}-shot" if few_shot is not None else ""
    first = f"_first-{limit}" if limit is not None else ""
    # Two folders may have a task of one name.
    folder = f"_{Path(include).name}-{hashlib.sha256(include.encode()).hexdigest()[:8]}" if include else ""
    return f"{name}{shots}{first}{folder}.json"


def write_evaluation(run: Path, evaluation: TaskEvaluation) -> Path:
    """Write an evaluation into a run's folder; an earlier one of the same tasks and settings gives way.

    Returns:
        The file.
    """
    path = run / FOLDER / file_name(evaluation.settings)
    write_json(path, asdict(evaluation))
    return path


def read_evaluations(run: Path) -> list[TaskEvaluation]:
    """All evaluations in a run's folder that can be read, in the order of their files' names."""
    return [evaluation for path in sorted((run / FOLDER).glob("*.json")) if (evaluation := _read(path))]


def _read(path: Path) -> TaskEvaluation | None:
    try:
        tree = read_json(path)
        return TaskEvaluation(dict(tree["settings"]), tuple(TaskScore(**score) for score in tree["scores"]))
    except (OSError, UserError, KeyError, TypeError, ValueError):
        return None
