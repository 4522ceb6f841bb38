"""What a run's model reached in benchmarks that were asked after it was finished: `evaluate/`, outside the seal."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recipes.core.errors import UserError
from recipes.core.storage.files import read_json, write_json

FOLDER = "evaluate"
LONGEST = 120  # characters of a file's name


@dataclass(frozen=True)
class Mark:
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
class Benchmark:
    """Marks of one evaluation, and how it was done ("limit", "batch_size", "device", versions of packages)."""

    settings: dict[str, Any]
    marks: tuple[Mark, ...]


def file_name(tasks: Sequence[str], few_shot: int | None, limit: int | None) -> str:
    """Name of the file of an evaluation: its tasks, and what makes its marks others than those of the whole tasks."""
    name = ",".join(tasks).replace("/", "-")
    if len(name) > LONGEST:
        name = f"{name[:LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    shots = f"_{few_shot}-shot" if few_shot is not None else ""
    return f"{name}{shots}{f'_first-{limit}' if limit is not None else ''}.json"


def write_benchmark(run: Path, name: str, benchmark: Benchmark) -> Path:
    """Write an evaluation into a run's folder; an earlier one of the same tasks and settings gives way.

    Returns:
        The file.
    """
    path = run / FOLDER / name
    write_json(path, asdict(benchmark))
    return path


def read_benchmarks(run: Path) -> list[Benchmark]:
    """All evaluations in a run's folder that can be read, in the order of their files' names."""
    return [benchmark for path in sorted((run / FOLDER).glob("*.json")) if (benchmark := _read(path))]


def _read(path: Path) -> Benchmark | None:
    try:
        tree = read_json(path)
        return Benchmark(dict(tree["settings"]), tuple(Mark(**mark) for mark in tree["marks"]))
    except (OSError, UserError, KeyError, TypeError, ValueError):
        return None
