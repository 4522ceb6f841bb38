"""How much memory this process may use: that of the machine, or less by the limit of its container; its collection."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def usable_memory() -> int | None:
    """Bytes of memory that this process may use; None if the system does not say."""
    sizes = [_machine(), *(_limit(path) for path in LIMITS)]
    return min((size for size in sizes if size), default=None)


@contextmanager
def uncollected() -> Iterator[None]:
    """Within the block Python looks for no cycles of garbage: among many new objects, all kept, there are none.

    To look through them again and again, as they grow more, takes a quarter of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _machine() -> int | None:
    for line in _text(MEMINFO).splitlines():
        name, _, rest = line.partition(":")
        if name == "MemTotal":
            return int(rest.split()[0]) * 1024
    return None


def _limit(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None  # "max" is no limit


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
