"""One owner at a time for a folder, across processes and nodes.

The lock is a small file created with `O_EXCL`, which network file systems honour (flock they often do not). It
names the owner's host, process and start; a heartbeat refreshes its time stamp. A lock whose process is gone
(same host) or whose heartbeat is old (another host) is taken over.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from recipes.core.background import beside
from recipes.core.errors import UserError

HEARTBEAT_SECONDS = 10.0
DEAD_AFTER_SECONDS = 120.0


@contextmanager
def owned(path: Path, what: str, wait: bool) -> Iterator[None]:
    """Hold the lock file `path` for the duration of the block.

    Args:
        path: The lock file; its folder is made.
        what: What is owned, for the message ("run folder outputs/...").
        wait: Wait for a live owner to finish, rather than refuse.

    Raises:
        UserError: a live process owns it and `wait` is False; names the owner's host and pid.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    token = _acquire(path, what, wait)
    try:
        with beside(partial(_heartbeat, path)):
            yield
    finally:
        if _read(path).get("token") == token:
            path.unlink(missing_ok=True)


def owner_of(path: Path) -> str | None:
    """ "host, process 123" of the live owner of a lock file, or None."""
    owner = read_owner(path)
    return _name(owner) if owner else None


def read_owner(path: Path) -> dict[str, Any] | None:
    """The live owner of a lock file ("host", "pid", ...), or None."""
    owner = _read(path)
    return owner if owner and is_alive(path, owner) else None


def myself() -> dict[str, Any]:
    """What tells this process from every other: "host", "pid" and when it was "born"."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid())}


def is_alive(path: Path, owner: dict[str, Any]) -> bool:
    """Whether the process that wrote a file about itself lives; on another host: whether the file is fresh."""
    try:
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return False
    if not owner:  # created but not yet written, or cut off while writing
        return age < HEARTBEAT_SECONDS
    if owner["host"] == socket.gethostname():
        return _born(owner["pid"]) == owner["born"] is not None
    return age < DEAD_AFTER_SECONDS


def _acquire(path: Path, what: str, wait: bool) -> str:
    token = uuid.uuid4().hex
    mine = myself() | {"token": token}
    while True:
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            owner = _read(path)
            if not is_alive(path, owner):
                _take_over(path, owner)
            elif wait:
                time.sleep(0.2)
            else:
                raise UserError(
                    f"{what} is in use by {_name(owner)}",
                    hint="wait for it to end, or give this run another seed, config or outputs=FOLDER",
                ) from None
            continue
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(mine, file)
        return token


def _take_over(path: Path, dead: dict[str, Any]) -> None:
    """Remove a dead owner's lock; the rename makes sure that only one of several waiters does."""
    grave = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.dead")
    try:
        os.rename(path, grave)
    except FileNotFoundError:
        return
    if _read(grave).get("token") != dead.get("token"):
        # Someone else took it over between our look and our rename: give it back unless it was re-made.
        with suppress(FileExistsError):
            os.link(grave, path)
    grave.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _born(pid: int) -> str | None:
    """Start time of a process, to tell a living owner from a reused process number; None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "unknown"


def _heartbeat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        try:
            os.utime(path)
        except OSError:
            return


def _name(owner: dict[str, Any]) -> str:
    return f"process {owner.get('pid', '?')} on host {owner.get('host', '?')}"
