"""How many cores this process may use: its affinity (taskset, Slurm) and the quotas of its cgroups (containers)."""

import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/proc/self/cgroup")
MOUNTS = Path("/proc/self/mountinfo")
GPU_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


def usable_cores() -> int:
    """Cores that this process may use, at least 1; a quota of one and a half counts as two."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(math.ceil(quota) for quota in _quotas())]))


def processor_name() -> str:
    """Name of the processor as the system gives it, else its architecture."""
    names = (line.partition(":")[2].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def may_have_gpu() -> bool:
    """Whether this machine has the driver of a GPU (NVIDIA, also under WSL, or AMD); torch knows what it can use."""
    return any(Path(name).exists() for name in GPU_DRIVERS)


def _quotas() -> Iterator[float]:
    """CPU quotas, in cores, of the cgroups this process is in and of those above them."""
    mounts = _mounts()
    for line in _lines(CGROUPS):
        number, controllers, path = line.split(":", 2)
        kind = "cgroup2" if number == "0" else "cgroup"
        if kind == "cgroup" and "cpu" not in controllers.split(","):
            continue
        for root, mount in mounts.get(kind, []):
            # In a container the mount may show the cgroup's own folder as its root.
            below = path if root == "/" else path.removeprefix(root)
            folder = mount / below.strip("/")
            for parent in (folder, *folder.parents):
                quota = _quota(parent)
                if quota is not None:
                    yield quota
                if parent == mount:
                    break


def _quota(folder: Path) -> float | None:
    """Quota of one cgroup in cores, or None if it has none; `cpu.max` is version 2, the others version 1."""
    words = " ".join(_lines(folder / "cpu.max")).split()
    if not words:
        words = _lines(folder / "cpu.cfs_quota_us") + _lines(folder / "cpu.cfs_period_us")
    try:
        quota, period = (int(word) for word in words)
    except ValueError:  # "max", or no such files
        return None
    return quota / period if quota > 0 and period > 0 else None


def _mounts() -> dict[str, list[tuple[str, Path]]]:
    """File system type -> (root, mount point) of the mounts that may show CPU quotas."""
    mounts: dict[str, list[tuple[str, Path]]] = {}
    for line in _lines(MOUNTS):
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2" or (kind == "cgroup" and "cpu" in options.split(" ")[-1].split(",")):
            root, mount = before.split(" ")[3:5]
            mounts.setdefault(kind, []).append((root, Path(mount)))
    return mounts


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
