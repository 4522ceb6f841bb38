"""The content-addressed cache: what depends on content only is computed once for all arms, seeds and cells."""

import os
import uuid
from collections.abc import Callable
from pathlib import Path

from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.storage.checksums import Entries, checksums, files_below, mismatches, read_checksums
from recipes.core.storage.disk import DiskFull, raising_disk_full
from recipes.core.storage.files import publish_folder, remove, sha256_json, write_json
from recipes.core.storage.fingerprints import fingerprint
from recipes.core.storage.locks import hold, owner_of

MANIFEST = "manifest.json"
PARTIAL = ".partial"  # how the folder of a build ends that was stopped and goes on when it is asked for again


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


def entry_folder(kind: str, key: str) -> Path:
    """Where an entry lies once it is built; arguments as in `build_once`."""
    return home() / "cache" / kind / key


def build_once(kind: str, key: str, build: Callable[[Path], None], resumable: bool = False) -> Path:
    """The folder of a cache entry, built first if it is absent or damaged.

    Args:
        kind: What it holds, in plain words that make a folder name ("references", "tokens").
        key: Hash of everything the content depends on.
        build: Fills the folder it is given. Runs under a lock that other processes and nodes wait for.
        resumable: `build` goes on from what its folder holds if it was stopped or killed, or the disk was full, when it
            was called before; else the folder it is given is always empty.

    Returns:
        A folder whose files match the checksums written when it was built. Files of a megabyte and more are hashed
        the first time, and again when `stat` shows that they changed.
    """
    folder = entry_folder(kind, key)
    if folder.is_dir() and not problems(folder):
        return folder
    with hold(_lock(folder.parent, key), f"cache entry {kind}/{key}", wait=True, guards=folder):
        if folder.exists() or folder.is_symlink():
            damage = problems(folder)
            if not damage:
                return folder
            note(f"warning: cache entry {folder} is damaged ({damage[0]}); building it again")
        _build(folder, build, resumable)
    return folder


def problems(folder: Path, hashed: bool = False) -> list[str]:
    """What is wrong with a published folder: missing or changed files. Empty if it is whole.

    Args:
        folder: As from `build_once`.
        hashed: Hash all files, whatever `stat` says of them.
    """
    entries = read_checksums(folder / MANIFEST)
    if entries is None:
        return [f"{MANIFEST} is missing or unreadable"]
    return changes(folder, entries, hashed)


def changes(folder: Path, entries: Entries, hashed: bool = False) -> list[str]:
    """What is wrong with the files of a folder: missing, changed. Large ones are hashed as in `build_once`.

    Args:
        folder: Where the files lie.
        entries: As from `checksums`.
        hashed: Hash all files, whatever `stat` says of them.
    """
    return [] if not hashed and _is_known(folder, entries) else mismatches(folder, entries)


def entries() -> list[Path]:
    """The folders of all entries, sorted."""
    return sorted(path.parent for path in (home() / "cache").glob(f"*/*/{MANIFEST}") if path.parent.name[0] != ".")


def stopped_builds() -> list[Path]:
    """The folders of builds that were stopped and can go on from what they hold, sorted; none that is going on."""
    partial = sorted((home() / "cache").glob(f"*/.*{PARTIAL}"))
    return [path for path in partial if not owner_of(_lock(path.parent, path.name[1 : -len(PARTIAL)]))]


def _lock(folder: Path, key: str) -> Path:
    return folder / f"{key}.lock"


def write_manifest(folder: Path) -> None:
    """Record size and SHA-256 of every file below `folder` in its manifest."""
    files = [path for path in files_below(folder) if path.name != MANIFEST]
    write_json(folder / MANIFEST, checksums(folder, files))


def _is_known(folder: Path, entries: Entries) -> bool:
    """Whether the files are those of the manifest, by the fingerprint that is kept with the times of large ones."""
    try:
        actual = fingerprint({name: folder / name for name in entries}, home())
    except UserError:
        return False
    return actual == sha256_json(sorted((name, entry["sha256"]) for name, entry in entries.items()))


def _build(folder: Path, build: Callable[[Path], None], resumable: bool) -> None:
    end = PARTIAL if resumable else f".{uuid.uuid4().hex[:8]}.staging"
    staging, kept = folder.with_name(f".{folder.name}{end}"), False
    staging.mkdir(parents=True, exist_ok=resumable)
    try:
        with raising_disk_full(folder):
            build(staging)
            write_manifest(staging)
            publish_folder(staging, folder)
    except (KeyboardInterrupt, SystemExit, DiskFull):
        kept = resumable
        raise
    finally:
        if not kept:
            remove(staging)
