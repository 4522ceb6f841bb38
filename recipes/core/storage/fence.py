"""What this process owns, looked up before it writes: an owner that lost its lock must not write any more.

A process that was suspended for minutes, or cut off from a shared disk, looks dead to others; one of them takes its
lock. When it wakes up it knows nothing of that. So whatever publishes something below a locked folder asks here first.
"""

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.core.errors import RunFailed

# A lock that was taken by mistake is given back within this time.
LOOKS, PAUSE_SECONDS = 4, 0.25


class LockLost(RunFailed):
    """Another process took over what this one works on, while this one looked dead."""


@dataclass
class Hold:
    """A lock that this process holds.

    Attributes:
        lock: The lock file.
        what: What it guards, for messages.
        token: What the file holds as long as the lock is this process's.
        guards: What lies at or below this absolute path may only be written while it is.
        lost: Whether it is known to be lost.
    """

    lock: Path
    what: str
    token: str
    guards: str
    lost: bool = field(default=False)

    def check(self) -> None:
        """Make sure that the lock is still this process's.

        Raises:
            LockLost: it is another's, or gone.
        """
        for look in range(LOOKS):
            if self.lost or self._is_held():
                break
            time.sleep(PAUSE_SECONDS if look < LOOKS - 1 else 0)
        else:
            self.lost = True
        if self.lost:
            raise LockLost(
                f"{self.what} is not this process's any more: its lock was taken over or removed",
                where=str(self.lock),
                hint="this happens to a process that is suspended or cut off from the disk for minutes; it stops "
                "without writing anything. Type the same command again to go on or to see who works on it",
            )

    def _is_held(self) -> bool:
        try:
            return read_lock(self.lock).get("token") == self.token
        except FileNotFoundError:
            return False
        except OSError:  # the disk does not answer: nothing says that the lock is lost
            return True


_holds: dict[str, Hold] = {}


def enter(hold: Hold) -> None:
    """This process holds a lock from here on."""
    _holds[hold.token] = hold


def leave(hold: Hold) -> None:
    """It does not any more."""
    _holds.pop(hold.token, None)


def check(path: Path) -> None:
    """Make sure that `path` is this process's to write, if it lies below anything that this process has locked.

    Raises:
        LockLost: the lock was taken over or removed.
    """
    if not _holds:
        return
    target = os.path.abspath(path)
    for hold in list(_holds.values()):
        if target == hold.guards or target.startswith(hold.guards + os.sep):
            hold.check()


def read_lock(path: Path) -> dict[str, Any]:
    """What a lock file holds; empty if it is not written yet or was cut off.

    Raises:
        OSError: it is not there or cannot be read.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        return {}
