"""The seal of a finished run: size and SHA-256 of everything that later commands read, written when the run ends.

What is read of a finished run is either what the run wrote, or refused with the name of the file that changed. The
final status stands inside the seal, so that a seal without its `status.json`, or the other way round, is noticed too.
Weights are sealed through the manifest of their checkpoint, or of `hf/`, which whoever reads them compares.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from recipes.core.errors import UserError
from recipes.core.storage.checksums import are_entries, checksums, files_below, mismatches
from recipes.core.storage.files import read_json, sha256_json, write_json

SEAL, STATUS = "seal.json", "status.json"
TRACKER_IDS = "tracker.json"
# Folders of weights, and the manifest that stands in the seal for all that they hold.
MANIFESTS = {"checkpoints": "complete.json", "hf": "steelyard.json"}
VERSION = 1
# Written again at any time, or read by nobody.
UNSEALED = (SEAL, STATUS, TRACKER_IDS, "owner.lock", "report.html", "report.png")
UNSEALED_FOLDERS = ("wandb", "tensorboard", "plots", "logs", "evaluate")
# Read wherever they are there: one that was added to a finished run is no part of it.
OPTIONAL = (
    "heatmap.json",
    "plots.json",
    "strips.json",
    "cuts.json",
    "examples.parquet",
    "metrics_info.json",
    "env.json",
)
HASHED_BELOW = (
    2**26
)  # larger files that nobody compares runs by (a selection of documents) are recognised by their size
MISSING = "seal.json is missing: the run was finished by an older version, or the file was removed"

OPENED = os.O_DIRECTORY | getattr(os, "O_PATH", os.O_RDONLY)  # a folder in which files are looked at by their names
Look = tuple[tuple[str, int, int, int, int], ...]
_compared: dict[Path, tuple[Look, str]] = {}  # folder -> what `stat` said of its files, and what was wrong then


def write_seal(folder: Path, status: dict[str, Any]) -> None:
    """Seal a run that is finished but for its `status.json`, which is to hold `status`."""
    files = [path for path in files_below(folder) if _is_sealed(path.relative_to(folder))]
    tree = {"version": VERSION, "status": status, "files": checksums(folder, files)}
    write_json(folder / SEAL, tree | {"sha256": sha256_json(tree)})


def seal_digest(folder: Path) -> str | None:
    """What tells the results in a sealed folder from all others; None if it has no readable seal."""
    seal = _read_seal(folder)
    return str(seal["sha256"]) if seal else None


def seal_problem(folder: Path) -> str:
    """The first thing that is wrong with a finished run; empty if it is what it was when it ended.

    Files are hashed once in a process, and again when `stat` shows that they changed.
    """
    return examine(folder)[1]


def examine(folder: Path) -> tuple[Look, str]:
    """What `stat` said of all that decides about a finished run before it was read, and what `seal_problem` says."""
    known = _compared.get(folder)
    if known is None or look([name for name, *_ in known[0]], folder) != known[0]:
        known = _compared[folder] = _examine(folder)
    return known


def _examine(folder: Path) -> tuple[Look, str]:
    """`examine`, with all files read: those that must be as they were, and those that must not be there."""
    before = look([SEAL], folder)
    seal = _read_seal(folder)
    seen = look(dict.fromkeys([SEAL, STATUS, *OPTIONAL, *(seal["files"] if seal else ())]), folder)
    return seen, _problem(folder, seal if seen[:1] == before else _read_seal(folder))


def look(names: Iterable[str], folder: Path) -> Look:
    """Name, size, times and inode of files of a folder; a size of -1 for one that is not there."""
    try:
        place = os.open(folder, OPENED)  # which is then walked to once
    except OSError:
        return tuple((name, -1, 0, 0, 0) for name in names)
    seen, stat = [], os.stat
    try:
        for name in names:
            try:
                state = stat(name, dir_fd=place)
            except OSError:
                seen.append((name, -1, 0, 0, 0))
            else:
                seen.append((name, state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino))
    finally:
        os.close(place)
    return tuple(seen)


def _problem(folder: Path, seal: dict[str, Any] | None) -> str:
    if seal is None:
        return f"{SEAL} is damaged" if (folder / SEAL).exists() else MISSING
    try:
        status = read_json(folder / STATUS)
    except (OSError, UserError):
        return f"{STATUS} is missing or damaged"
    if status != seal["status"]:
        return f"{STATUS} has changed"
    more = [name for name in OPTIONAL if name not in seal["files"]]
    added = [f"{name} was added" for name in more if os.path.exists(f"{folder}/{name}")]
    return next(iter([*mismatches(folder, seal["files"], HASHED_BELOW), *added]), "")


def _read_seal(folder: Path) -> dict[str, Any] | None:
    try:
        seal = read_json(folder / SEAL)
    except (OSError, UserError):
        return None
    claimed = seal.pop("sha256", None)
    try:
        actual = sha256_json(seal)
    except ValueError:  # half a surrogate pair
        return None
    if claimed != actual or seal.get("version") != VERSION or not are_entries(seal.get("files")):
        return None
    return seal | {"sha256": claimed}


def _is_sealed(name: Path) -> bool:
    if str(name) in UNSEALED or name.parts[0] in UNSEALED_FOLDERS or any(part.startswith(".") for part in name.parts):
        return False
    return name.parts[0] not in MANIFESTS or name.name == MANIFESTS[name.parts[0]]
