"""Checkpoints that are whole or absent: staged, checked, renamed; a damaged one gives way to the one before.

A checkpoint that lost a file is worse than none: without its random state a run resumes and silently ends elsewhere.
So each carries `complete.json` with the size and SHA-256 of every file, written last.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from recipes.core.errors import UserError
from recipes.core.storage import fence
from recipes.core.storage.checksums import checksums, files_below, mismatches, read_checksums
from recipes.core.storage.disk import raising_disk_full
from recipes.core.storage.files import publish_folder, sha256_bytes, write_bytes, write_json

MANIFEST, MEASURED = "complete.json", "measured.json"
STREAM, CURVES = "metrics.jsonl", "curve/step-[0-9]*.parquet"
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
def publish(folder: Path, step: int) -> Iterator[Path]:
    """Give the block an empty folder to fill; publish it as `checkpoint-<step>` if the block ends well.

    Args:
        folder: The run's `checkpoints` folder.
        step: Optimizer steps done.

    Raises:
        RunFailed: the disk is full; published checkpoints are untouched and nothing half-written stays.
    """
    name, staging = f"checkpoint-{step}", staging_folder(folder, step)
    fence.check(folder)
    shutil.rmtree(staging, ignore_errors=True)
    with raising_disk_full(folder / name):
        try:
            (staging / name).mkdir(parents=True)
            yield staging
            _write_manifest(staging / name)
            publish_folder(staging / name, folder / name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def verify(checkpoint: Path) -> list[str]:
    """What is wrong with a checkpoint: missing or changed files, no manifest. Empty if it can be trusted."""
    entries = read_checksums(checkpoint / MANIFEST)
    return [f"{MANIFEST} is missing or unreadable"] if entries is None else mismatches(checkpoint, entries)


def note_measured(run: Path, checkpoint: Path) -> None:
    """Note in a checkpoint what its run had measured until then: a run that resumes goes on from exactly that."""
    curves = [path for path in run.glob(CURVES) if int(path.stem.removeprefix("step-")) <= step_of(checkpoint)]
    files = [path for path in [run / STREAM, *curves] if path.is_file()]
    if files:
        write_json(checkpoint / MEASURED, checksums(run, files))


def cut_back(run: Path, step: int) -> None:
    """Take the metric stream of a run back to where it was when the checkpoint after `step` was saved.

    Raises:
        UserError: what was measured before the checkpoint has changed since.
    """
    stream, folder = run / STREAM, run / "checkpoints" / f"checkpoint-{step}"
    noted = read_checksums(folder / MEASURED) or {}
    kept = noted.pop(STREAM, {"size": 0, "sha256": sha256_bytes(b"")})
    try:
        content = stream.read_bytes() if stream.exists() else b""
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(stream)) from error
    problems = mismatches(run, noted)
    if sha256_bytes(content[: kept["size"]]) != kept["sha256"]:
        problems.insert(0, f"{STREAM} has changed")
    if problems:
        raise UserError(
            f"{problems[0]} since {folder.name} was saved, so the run cannot go on from it",
            where=str(run),
            hint="type the same command with --fresh: it starts anew",
        )
    if len(content) > kept["size"]:
        write_bytes(stream, content[: kept["size"]])


def newest_valid(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that can be trusted; says which were passed over and why.

    Args:
        folder: The run's `checkpoints` folder; need not exist.
        say: Takes one line for each checkpoint passed over.
    """
    for checkpoint in sorted(_checkpoint_folders(folder), key=step_of, reverse=True):
        problems = verify(checkpoint)
        if not problems:
            return checkpoint
        say(f"{checkpoint.name} cannot be used ({'; '.join(problems)}); looking at the one before")
    return None


def prune(folder: Path) -> None:
    """Keep the last two checkpoints."""
    for checkpoint in sorted(_checkpoint_folders(folder), key=step_of)[:-KEEP]:
        shutil.rmtree(checkpoint)


def _checkpoint_folders(folder: Path) -> list[Path]:
    return [path for path in folder.glob("checkpoint-*") if NAME.fullmatch(path.name) and path.is_dir()]


def _write_manifest(checkpoint: Path) -> None:
    write_json(checkpoint / MANIFEST, checksums(checkpoint, files_below(checkpoint)))
