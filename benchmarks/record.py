"""Where a benchmark's result goes: `results/<name>-<device>.json`, with what it was measured on and when."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recipes.core.storage.files import write_json

RESULTS = Path(os.environ.get("STEELYARD_BENCHMARK_RESULTS") or Path(__file__).parent / "results")


def record(name: str, device: str, result: dict[str, Any]) -> Path:
    """Write a result beside the device, the versions and the date.

    Args:
        name: Name of the benchmark.
        device: "cpu" or "cuda".
        result: What was measured.
    """
    path = RESULTS / f"{name}-{device}.json"
    write_json(path, {"measured": datetime.now(UTC).date().isoformat(), **machine(device), **result})
    print(f"written: {path}")
    return path


def machine(device: str) -> dict[str, Any]:
    """What a number was measured on."""
    import torch

    about: dict[str, Any] = {"device": device, "torch": torch.__version__, "python": platform.python_version()}
    if device == "cuda":
        return about | {"gpu": torch.cuda.get_device_name()}
    return about | {"processor": _processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
