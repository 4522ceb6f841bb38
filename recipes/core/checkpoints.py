"""Checkpoints that are whole or absent: staged, checked, renamed; a damaged one gives way to the one before.

A checkpoint that lost a file is worse than none: without its random state a run resumes and silently ends elsewhere.
So each carries `complete.json` with the size and SHA-256 of every file, written last.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from recipes.core.files import full_disk_told, publish_folder, sha256_file, write_json

MANIFEST = "complete.json"
NAME = re.compile(r"checkpoint-(\d+)")
KEEP = 2


def step_of(checkpoint: Path) -> int:
    """The step a checkpoint folder was saved after."""
    match = NAME.fullmatch(checkpoint.name)
    if not match:
        raise ValueError(f"{checkpoint} is not a checkpoint folder")
    return int(match[1])


def staging_folder(folder: Path, step: int) -> Path:
    """Where a checkpoint is filled before it is published, in a subfolder that has its final name."""
    return folder / f".staging-checkpoint-{step}"


@contextmanager
def staged(folder: Path, step: int) -> Iterator[Path]:
    """Give the block an empty folder to fill; publish it as `checkpoint-<step>` if the block ends well.

    Args:
        folder: The run's `checkpoints` folder.
        step: Optimizer steps done.

    Raises:
        RunFailed: the disk is full; published checkpoints are untouched and nothing half-written stays.
    """
    name, staging = f"checkpoint-{step}", staging_folder(folder, step)
    shutil.rmtree(staging, ignore_errors=True)
    with full_disk_told(folder / name):
        try:
            (staging / name).mkdir(parents=True)
            yield staging
            _write_manifest(staging / name)
            publish_folder(staging / name, folder / name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def verify(checkpoint: Path) -> list[str]:
    """What is wrong with a checkpoint: missing or changed files, no manifest. Empty if it can be trusted."""
    try:
        files = dict(json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return [f"{MANIFEST} is missing or unreadable"]
    problems = []
    for name, expected in files.items():
        path = checkpoint / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif path.stat().st_size != expected["size"]:
            problems.append(f"{name} has {path.stat().st_size:,} bytes instead of {expected['size']:,}")
        elif sha256_file(path) != expected["sha256"]:
            problems.append(f"{name} has changed since it was saved")
    return problems


def newest_valid(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that can be trusted; tells which were passed over and why.

    Args:
        folder: The run's `checkpoints` folder; need not exist.
        say: Takes one line for each checkpoint passed over.
    """
    for checkpoint in sorted(_published(folder), key=step_of, reverse=True):
        problems = verify(checkpoint)
        if not problems:
            return checkpoint
        say(f"{checkpoint.name} cannot be used ({'; '.join(problems)}); looking at the one before")
    return None


def prune(folder: Path) -> None:
    """Keep the last two checkpoints."""
    for checkpoint in sorted(_published(folder), key=step_of)[:-KEEP]:
        shutil.rmtree(checkpoint)


def _published(folder: Path) -> list[Path]:
    return [path for path in folder.glob("checkpoint-*") if NAME.fullmatch(path.name)]


def _write_manifest(checkpoint: Path) -> None:
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    entries = {
        str(path.relative_to(checkpoint)): {"size": path.stat().st_size, "sha256": sha256_file(path)} for path in files
    }
    write_json(checkpoint / MANIFEST, entries)
