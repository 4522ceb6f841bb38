"""One owner at a time for a folder, across processes, containers and hosts.

The lock is a small file created with `O_EXCL`, which network file systems honour (flock they often do not). It names
the owner's process (see `storage.processes`) and holds a token; a heartbeat refreshes its time stamp. A lock whose
process is gone is taken over, at once where that can be seen and else when its heartbeat is old by the clock of the
disk it lies on: hosts' clocks differ. An owner that was thought dead finds another token and writes nothing more (see
`storage.fence`).

filelock's `SoftFileLease` works the same way, but does not say whether an owner lives without taking its lock, which
`runs` and a trial's driver must know.
"""

import json
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from recipes.core.errors import UserError
from recipes.core.process.background import background_thread
from recipes.core.storage import fence
from recipes.core.storage.disk import make_folder, nothing_begun, writable
from recipes.core.storage.fence import Hold
from recipes.core.storage.processes import lives, myself

HEARTBEAT_SECONDS = 10.0
DEAD_AFTER_SECONDS = 120.0
LOOK_EVERY_SECONDS = 0.2


@contextmanager
def hold(path: Path, what: str, wait: bool, guards: Path | None = None) -> Iterator[None]:
    """Hold the lock file `path` for the duration of the block.

    Args:
        path: The lock file; its folder is made.
        what: What is owned, for the message ("run folder outputs/...").
        wait: Wait for a live owner to finish, rather than refuse.
        guards: What only the owner may write; the lock file's folder if None.

    Raises:
        UserError: a live process owns it and `wait` is False; names the owner's host and pid.
    """
    with _folder_of(path):
        with nothing_begun(), writable(path.parent):
            token = _acquire(path, what, wait)
        try:
            hold = Hold(path, what, token, os.path.abspath(guards or path.parent))
            with _guard(hold), background_thread(partial(_heartbeat, hold)):
                yield
        finally:
            if _read(path).get("token") == token:
                path.unlink(missing_ok=True)


@contextmanager
def _folder_of(path: Path) -> Iterator[None]:
    """Make the folder of a lock file; folders that this made and that stayed empty go again."""
    missing = [folder for folder in path.parents if not os.path.isdir(folder)]
    try:
        with nothing_begun():
            make_folder(path.parent)
        yield
    finally:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def hold_shared(path: Path, what: str) -> Iterator[None]:
    """Work under the lock of the process that started this one, for the duration of the block.

    Args:
        path: The lock file.
        what: What is owned, for the message.
    """
    token = _read(path).get("token", "")
    with _guard(Hold(path, what, token, os.path.abspath(path.parent))):
        yield


@contextmanager
def _guard(hold: Hold) -> Iterator[None]:
    fence.enter(hold)
    try:
        yield
    finally:
        fence.leave(hold)


def owner_of(path: Path) -> str | None:
    """ "process 123 on host name" of the live owner of a lock file, or None."""
    owner = read_owner(path)
    return _name(owner) if owner else None


def read_owner(path: Path) -> dict[str, Any] | None:
    """The live owner of a lock file ("host", "pid", ...), or None."""
    owner = _read(path)
    return owner if owner and is_alive(path, owner) else None


def is_alive(path: Path, owner: dict[str, Any]) -> bool:
    """Whether the process that wrote `myself()` into a file lives, or the file is fresh where that cannot be seen."""
    alive = lives(owner) if owner else None
    if alive is not None:
        return path.exists() and alive
    try:
        age = _clock(path.parent) - path.stat().st_mtime
    except FileNotFoundError:
        return False
    # An empty one was created but not yet written, or cut off while it was.
    return age < (DEAD_AFTER_SECONDS if owner else HEARTBEAT_SECONDS)


def _clock(folder: Path) -> float:
    """The time in seconds, by the clock that stamps the files of a folder."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:  # only to be read
        return time.time()


def _acquire(path: Path, what: str, wait: bool) -> str:
    token = uuid.uuid4().hex
    mine = myself() | {"token": token}
    while not _create(path, mine):
        owner = _read(path)
        if not is_alive(path, owner):
            _take_over(path, owner)
        elif wait:
            time.sleep(LOOK_EVERY_SECONDS)
        else:
            raise UserError(
                f"{what} is in use by {_name(owner)}",
                hint="wait for it to end, or give this run another seed, config or outputs=FOLDER",
            )
    return token


def _create(path: Path, content: dict[str, Any]) -> bool:
    """Create the lock file; False if it is there, or to be tried again."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    except FileNotFoundError:  # the folder was empty, and went with the process that had made it
        make_folder(path.parent)
        return False
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return True


def _take_over(path: Path, dead: dict[str, Any]) -> None:
    """Remove a dead owner's lock; the rename makes sure that only one of several waiters does."""
    grave = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.dead")
    try:
        os.rename(path, grave)
    except FileNotFoundError:
        return
    taken = _read(grave)
    if taken.get("token") != dead.get("token"):
        # Someone else took it over between our look and our rename: give it back unless it was made again.
        _create(path, taken)
    grave.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        return fence.read_lock(path)
    except OSError:
        return {}


def _heartbeat(hold: Hold, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        try:
            hold.check()
        except fence.LockLost:
            return
        with suppress(OSError):
            os.utime(hold.lock)


def _name(owner: dict[str, Any]) -> str:
    return f"process {owner.get('pid', '?')} on host {owner.get('host', '?')}"
