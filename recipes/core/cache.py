"""The content-addressed cache: what depends on content only is computed once for all arms, seeds and cells."""

import json
import os
import shutil
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

from recipes.core.files import full_disk_told, publish_folder, sha256_file, write_json
from recipes.core.locks import owned

MANIFEST = "manifest.json"


def home() -> Path:
    """Where caches and assets live: `STEELYARD_HOME`, by default the user's cache folder."""
    if named := os.environ.get("STEELYARD_HOME"):
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "steelyard"


def cached(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """The folder of a cache entry, built first if it is absent or damaged.

    Args:
        kind: What it holds, in plain words that make a folder name ("references", "tokens").
        key: Hash of everything the content depends on.
        build: Fills the empty folder it is given. Runs under a lock that other processes and nodes wait for.

    Returns:
        A folder whose files match the checksums written when it was built.
    """
    folder = home() / "cache" / kind / key
    if folder.is_dir() and not problems(folder):
        return folder
    with owned(folder.with_name(f"{key}.lock"), f"cache entry {kind}/{key}", wait=True):
        if folder.is_dir():
            found = problems(folder)
            if not found:
                return folder
            print(f"warning: cache entry {folder} is damaged ({found[0]}); building it again", file=sys.stderr)
        _build(folder, build)
    return folder


def problems(folder: Path) -> list[str]:
    """What is wrong with a published folder: missing, added or changed files. Empty if it is whole."""
    try:
        manifest = dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return [f"{MANIFEST} is missing or unreadable"]
    found = []
    for name, expected in manifest.items():
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif path.stat().st_size != expected["size"]:
            found.append(f"{name} has {path.stat().st_size} bytes instead of {expected['size']}")
        elif sha256_file(path) != expected["sha256"]:
            found.append(f"{name} has changed")
    return found


def write_manifest(folder: Path) -> None:
    """Record size and SHA-256 of every file below `folder` in its manifest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    entries = {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": sha256_file(path)} for path in files
    }
    write_json(folder / MANIFEST, entries)


def _build(folder: Path, build: Callable[[Path], None]) -> None:
    staging = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.staging")
    staging.mkdir(parents=True)
    try:
        with full_disk_told(folder):
            build(staging)
            write_manifest(staging)
            publish_folder(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
