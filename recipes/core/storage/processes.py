"""Which process is which, across process numbers that come again, containers, reboots and hosts."""

import os
import socket
from pathlib import Path
from typing import Any

PROC = Path("/proc")


def myself() -> dict[str, Any]:
    """What tells this process from every other.

    Returns:
        "host"; "boot", which names the running kernel; "space", which names its space of process numbers (containers
        have their own), or None where that cannot be read; "pid" and when it was "born".
    """
    machine = {"host": socket.gethostname(), "boot": _boot(), "space": _space()}
    return machine | {"pid": os.getpid(), "born": _born(os.getpid())}


def lives(process: dict[str, Any]) -> bool | None:
    """Whether a process that once wrote `myself()` lives; None if that cannot be told from here.

    Process numbers mean something only on the same kernel and in the same space of numbers. The host's name alone does
    not tell it: containers share it, and after a reboot it is the same.
    """
    here = myself()
    if here["space"] is None or any(process.get(key) != here[key] for key in ("host", "boot", "space")):
        return None
    return _born(process["pid"]) == process["born"] is not None


def _boot() -> str:
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _space() -> str | None:
    if not os.path.lexists(PROC / "self"):
        return ""  # no Linux, or no /proc: there are no other spaces, or they show under another host name
    try:
        # In a new space with the old /proc, its numbers are those of other processes.
        same = os.readlink(PROC / "self") == str(os.getpid())
        return str((PROC / "self/ns/pid").stat().st_ino) if same else None
    except OSError:
        return None


def _born(pid: int) -> str | None:
    """Start time of a process, to tell it from a later one with its number; None if it is gone."""
    try:
        fields = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except OSError:
        pass
    if (PROC / "self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "unknown"
