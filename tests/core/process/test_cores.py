"""Cores are those the process may use, not the machine's."""

import os
from pathlib import Path

import pytest

from cli import doctor
from recipes.core.config.settings import TrainerConfig
from recipes.core.process import cores

V2 = "0::/user.slice/job\n"
V1 = "9:name=systemd:/job\n4:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n0::/\n"
V2_MOUNT = "30 23 0:26 / {folder} rw - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNT = (
    "31 23 0:27 {root} {folder} rw - cgroup cgroup rw,cpu,cpuacct\n32 23 0:28 / /none rw - cgroup cgroup rw,cpuset\n"
)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """`machine(groups, mounts, files)` of 64 cores: what stands below /proc, and files of the cgroup tree."""

    def build(groups: str, mounts: str, files: dict[str, str]) -> None:
        for name, text in {"cgroup": groups, "mountinfo": mounts}.items():
            (tmp_path / name).write_text(text)
        for name, text in files.items():
            path = tmp_path / "tree" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.setattr(cores, "CGROUPS", tmp_path / "cgroup")
        monkeypatch.setattr(cores, "MOUNTS", tmp_path / "mountinfo")
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)

    return build


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 64),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"user.slice/job/cpu.max": "300000 100000\n"}, 3),
        ({"user.slice/cpu.max": "150000 100000\n", "user.slice/job/cpu.max": "max 100000\n"}, 2),
        ({"user.slice/cpu.max": "400000 100000\n", "user.slice/job/cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "200000 100000\n"}, 2),  # a container sees its own cgroup as the root
    ],
)
def test_quotas_of_version_2(files: dict[str, str], expected: int, machine, tmp_path: Path) -> None:
    machine(V2, V2_MOUNT.format(folder=tmp_path / "tree"), files)
    assert cores.usable_cores() == expected


@pytest.mark.parametrize("root", ["/", "/docker/abc"])
@pytest.mark.parametrize(("quota", "expected"), [("-1", 64), ("500000", 5)])
def test_quotas_of_version_1(root: str, quota: str, expected: int, machine, tmp_path: Path) -> None:
    folder = "docker/abc/" if root == "/" else ""
    files = {f"{folder}cpu.cfs_quota_us": f"{quota}\n", f"{folder}cpu.cfs_period_us": "100000\n"}
    machine(V1, V1_MOUNT.format(folder=tmp_path / "tree", root=root), files)
    assert cores.usable_cores() == expected


def test_affinity_counts_everywhere(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine("", "", {})
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5})
    assert cores.usable_cores() == TrainerConfig().process_threads == 1
    assert doctor._cores().state.startswith("1 usable")


def test_no_module_counts_the_cores_of_the_machine() -> None:
    from recipes.core.config.registry import ROOT

    files = [path for folder in ("cli", "recipes") for path in (ROOT / folder).rglob("*.py")]
    counting = [path.name for path in files if "cpu_count" in path.read_text(encoding="utf-8")]
    assert counting == ["cores.py"]
