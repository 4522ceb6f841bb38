"""Fingerprints: what files hold, wherever they lie, in 64 hex digits.

Hashing gigabytes at each command would take minutes, so the fingerprint of a set of files is kept in `STEELYARD_HOME`
under what `stat` says of all of them (names, sizes, times of change, inodes); so are hashes of models that were loaded
from them. A home that cannot be written, or an entry that is damaged, only costs the time to hash again.
"""

import os
import stat
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.core.errors import SteelyardError, UserError
from recipes.core.storage.files import sha256_file, sha256_json, sha256_text, write_text

KEPT_FROM = 2**20  # bytes; smaller sets of files are hashed each time
MOST_KEPT = 4096
# A file that changed so recently may change again and keep its time: clocks of disks are coarse.
SETTLED_SECONDS = 2.0

_once: ContextVar[dict[Hashable, Any] | None] = ContextVar("once", default=None)


@contextmanager
def look_once() -> Iterator[None]:
    """Within the block, a path that is read in one way is looked at once: all cells of a plan see the same content.

    What follows from paths alone may be kept with it, see `memo`.
    """
    token = _once.set({} if (known := _once.get()) is None else known)
    try:
        yield
    finally:
        _once.reset(token)


def memo() -> dict[Hashable, Any] | None:
    """Where the answers to what was asked within `look_once` are, by what was asked; None outside of it."""
    return _once.get()


def fingerprint(files: Mapping[str, Path], home: Path) -> str:
    """The fingerprint of a set of files.

    Args:
        files: The files by the names under which they count; their places do not. A single file counts by its
            content alone if its name here is empty.
        home: Where fingerprints of large sets are kept.

    Raises:
        UserError: a file is missing, cannot be read, or is no regular file (a pipe can be read only once).
    """
    stamp = stamp_of(files)

    def compute() -> str:
        return sha256_json(sorted((name, _hash(path)) for name, path in files.items()))

    return keep_hash(stamp.digest, home, stamp, compute)


@dataclass(frozen=True)
class Stamp:
    """What `stat` says of a set of files.

    Attributes:
        files: The files by name.
        digest: Hash of what it says.
        size: Bytes of all of them.
        changed: When the last of them changed, in nanoseconds of the clock of their disk.
    """

    files: Mapping[str, Path]
    digest: str
    size: int
    changed: int

    def holds(self) -> bool:
        """Whether it still says the same, of files that cannot change from here on and leave it as it is."""
        settled = self.changed < time.time_ns() - SETTLED_SECONDS * 1e9
        try:
            return settled and stamp_of(self.files) == self
        except UserError:
            return False


def stamp_of(files: Mapping[str, Path]) -> Stamp:
    """What `stat` says of files.

    Raises:
        UserError: as in `fingerprint`.
    """
    seen = {name: _look(path) for name, path in files.items()}
    stamps = sorted((name, os.path.abspath(path), *seen[name]) for name, path in files.items())
    changed = max((changed for _, *times, _ in seen.values() for changed in times), default=0)
    return Stamp(files, sha256_json(stamps), sum(size for size, *_ in seen.values()), changed)


def keep_hash(key: str, home: Path, stamp: Stamp, compute: Callable[[], str]) -> str:
    """A hash of 64 hex digits that follows from large files: computed once, and again when `stat` shows a change.

    Args:
        key: What it is kept under, 64 hex digits made of the stamp's and of all else that it depends on.
        home: Where it is kept.
        stamp: Of the files, from before they were read.
        compute: Gives it.
    """
    kept = home / "cache" / "fingerprints" / key
    if stamp.size < KEPT_FROM:
        return compute()
    if known := _read(kept):
        return known
    value = compute()
    if stamp.holds():
        _keep(kept, value)
    return value


def _look(path: Path) -> tuple[int, int, int, int]:
    """Size, times of change of content and of inode, and inode."""
    try:
        state = path.stat()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if not stat.S_ISREG(state.st_mode):
        raise UserError(
            "is no regular file, and is needed more than once", where=str(path), hint="save it as a file first"
        )
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino


def _hash(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(path)) from error


def _read(kept: Path) -> str:
    """A fingerprint that was kept, with a check of its own behind it; empty if there is none or it is damaged."""
    try:
        value, _, check = kept.read_text(encoding="utf-8").partition(" ")
    except (OSError, ValueError):
        return ""
    return value if check == _check(kept, value) else ""


def _keep(kept: Path, value: str) -> None:
    with suppress(OSError, SteelyardError):
        write_text(kept, f"{value} {_check(kept, value)}", durable=False)
        others = sorted(kept.parent.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        for path in others[:-MOST_KEPT]:
            path.unlink(missing_ok=True)


def _check(kept: Path, value: str) -> str:
    return sha256_text(f"{kept.name} {value}")[:16]
