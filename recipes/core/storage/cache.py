"""The content-addressed cache: what depends on content only is computed once for all arms, seeds and cells."""

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.storage.checksums import checksums, files_below, mismatches, read_checksums
from recipes.core.storage.disk import raising_disk_full
from recipes.core.storage.files import publish_folder, write_json
from recipes.core.storage.locks import hold

MANIFEST = "manifest.json"


def home() -> Path:
    """Where caches and assets live: `STEELYARD_HOME`, by default the user's cache folder.

    Raises:
        UserError: neither says where, as the user has no home.
    """
    try:
        if named := os.environ.get("STEELYARD_HOME"):
            return Path(named).expanduser().absolute()
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:
        raise UserError(
            "there is no home folder to keep caches and assets in", "HOME", "set STEELYARD_HOME to a folder of yours"
        ) from error
    return Path(base) / "steelyard"


def build_once(kind: str, key: str, build: Callable[[Path], None]) -> Path:
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
    with hold(folder.with_name(f"{key}.lock"), f"cache entry {kind}/{key}", wait=True, guards=folder):
        if folder.exists() or folder.is_symlink():
            damage = problems(folder)
            if not damage:
                return folder
            note(f"warning: cache entry {folder} is damaged ({damage[0]}); building it again")
        _build(folder, build)
    return folder


def problems(folder: Path) -> list[str]:
    """What is wrong with a published folder: missing or changed files. Empty if it is whole."""
    entries = read_checksums(folder / MANIFEST)
    return [f"{MANIFEST} is missing or unreadable"] if entries is None else mismatches(folder, entries)


def write_manifest(folder: Path) -> None:
    """Record size and SHA-256 of every file below `folder` in its manifest."""
    files = [path for path in files_below(folder) if path.name != MANIFEST]
    write_json(folder / MANIFEST, checksums(folder, files))


def _build(folder: Path, build: Callable[[Path], None]) -> None:
    staging = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.staging")
    staging.mkdir(parents=True)
    try:
        with raising_disk_full(folder):
            build(staging)
            write_manifest(staging)
            publish_folder(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
