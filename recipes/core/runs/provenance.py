"""Where a run comes from: machine, GPU and driver, versions of all packages, commit and what differs from it."""

import platform
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from recipes.core.config.registry import ROOT
from recipes.core.process.cores import processor_name, usable_cores
from recipes.core.storage.files import write_text

DIFF = "changes.diff"
LARGEST_DIFF = 2**20  # characters; of a longer one, files that do not fit are left out
# What pages show of all packages that `env.json` lists.
SHOWN = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "numpy", "hydra-core", "wandb")


def machine(code: "Checkout") -> dict[str, Any]:
    """Python, packages, host, processor and the commit of the code, for `env.json`."""
    versions = package_versions()
    return {
        "python": sys.version.split()[0],
        "packages": {name: versions[name] for name in SHOWN if name in versions},
        "all_packages": versions,
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "processor": processor_name(),
        "cores": usable_cores(),
        "commit": code.name,
    }


@lru_cache(maxsize=1)
def package_versions() -> dict[str, str]:
    """Version of every installed package by its name in small letters, sorted; of two, the one that is imported."""
    versions: dict[str, str] = {}
    for package in distributions():
        if name := package.metadata["Name"]:  # one that is half removed has none
            versions.setdefault(name.lower(), package.version)
    return dict(sorted(versions.items()))


def gpus() -> dict[str, Any]:
    """Names, memory and driver of the CUDA devices that the run may use, for `env.json`. Imports torch."""
    import torch

    devices = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    memory = [round(device.total_memory / 2**30, 1) for device in devices]
    return {
        "gpu": torch.cuda.get_device_name(),
        "gpus": len(devices),
        "gpu_memory_gib": memory[torch.cuda.current_device()],
        "gpu_driver": _driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


@dataclass(frozen=True)
class Checkout:
    """The commit that runs, and what differs from it.

    Attributes:
        commit: Its hash; None outside a checkout.
        changed: Lines of `git status --porcelain`.
        diff: Of the files that git knows, against the commit; cut at LARGEST_DIFF.
    """

    commit: str | None
    changed: tuple[str, ...] = ()
    diff: str = ""

    @property
    def name(self) -> str | None:
        """The hash, with "+changes" if files differ from it."""
        return self.commit + ("+changes" if self.changed else "") if self.commit else None


def checkout(folder: Path = ROOT) -> Checkout:
    """What git says of a checkout."""
    try:
        commit = _git(folder, "rev-parse", "HEAD").strip()
        changed = tuple(_git(folder, "status", "--porcelain").splitlines())
    except (OSError, subprocess.SubprocessError):
        return Checkout(None)
    try:
        diff = _git(folder, "diff", "HEAD", "--no-color", "--no-ext-diff") if changed else ""
    except (OSError, subprocess.SubprocessError) as error:
        return Checkout(commit, changed, f"git diff failed: {error}\n")
    return Checkout(commit, changed, short_diff(diff))


def short_diff(diff: str, largest: int = LARGEST_DIFF) -> str:
    """A diff of at most `largest` characters: what is over is left out by whole files and named at its end."""
    files = ["diff --git " + part for part in diff.split("diff --git ")[1:]] if diff else []
    kept: list[str] = []
    left: list[str] = []
    size = 0
    for file in files:
        fits = size + len(file) <= largest
        size += len(file) if fits else 0
        (kept if fits else left).append(file)
    names = [file.partition("\n")[0].removeprefix("diff --git ") for file in left]
    return "".join(
        [*kept, *(f"left out, {len(file)} characters: {name}\n" for file, name in zip(left, names, strict=True))]
    )


def write_changes(folder: Path, code: Checkout) -> None:
    """Write `changes.diff` of a run: which files differ from the commit and how; nothing if none do."""
    if code.changed:
        write_text(folder / DIFF, "\n".join([f"commit {code.commit}", *code.changed, "", code.diff]))


def _driver() -> str | None:
    """Version of the NVIDIA driver; None if nobody tells."""
    if not (program := shutil.which("nvidia-smi")):
        return None
    query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.run(query, capture_output=True, encoding="utf-8", check=True, timeout=10).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return lines[0] if lines else None


def _git(folder: Path, *words: str) -> str:
    git = ["git", "-C", str(folder), *words]
    return subprocess.run(git, capture_output=True, encoding="utf-8", errors="replace", check=True, timeout=60).stdout
