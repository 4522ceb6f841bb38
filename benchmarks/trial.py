"""What planning and keeping a sweep of a thousand cells costs, without running any.

    python -m benchmarks.trial

CPU time to compose and check every cell, with its threads. Then the time to write and read the manifest, to read the
states of all cells, and the CPU time of the records of every cell (start and end): 100 ms a cell are promised for the
first, 5 ms a cell for the rest together. `records_wall_ms_per_cell` is what a worker waits for its two records: each is
flushed to the disk, which takes as long as the disk takes.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.record import record
from recipes.core.runs.folder import DONE, RunFolder, now
from recipes.core.trial import manifest as manifests
from recipes.core.trial.cells import sweep_cells
from recipes.core.trial.manifest import Manifest, outputs_of
from recipes.core.trial.states import cell_states, record_end, record_start

KEYS = ["budget=smoke", "tracker=none", "seed=range(100)", "weighting.alpha=range(1,11)"]
CELLS = 1_000
PLANNING_MS, KEEPING_MS = 100.0, 5.0


def main() -> int:
    """Measure, print and record; the exit code is 1 if a promise is broken."""
    with tempfile.TemporaryDirectory() as outputs:
        began = time.process_time()
        cells = sweep_cells("prior", [*KEYS, f"outputs={outputs}"])
        folder, manifest, _ = manifests.plan("sweep", "prior", cells, "steelyard sweep prior", jobs=1)
        planning = 1000 * (time.process_time() - began) / CELLS
        assert len(manifest.cells) == CELLS
        keeping, waited = _keeping(folder, manifest)
    result = {
        "cells": CELLS,
        "planning_cpu_ms_per_cell": planning,
        "planning_promise_ms": PLANNING_MS,
        **{f"{name}_ms_per_cell": value for name, value in keeping.items()},
        "keeping_promise_ms": KEEPING_MS,
        "records_wall_ms_per_cell": waited,
    }
    print(json.dumps(result, indent=2))
    record("trial", "cpu", result)
    return int(planning > PLANNING_MS or sum(keeping.values()) > KEEPING_MS)


def _keeping(folder: Path, manifest: Manifest) -> tuple[dict[str, float], float]:
    """Milliseconds a cell of what is written and read beside the runs, and how long its records keep a worker."""
    times = {
        "manifest_write": _ms(lambda: manifests.write(folder, manifest)),
        "manifest_read": _ms(lambda: manifests.read(folder)),
    }
    began = time.process_time()
    waited = _ms(lambda: [_record(folder, cell.name) for cell in manifest.cells])
    times["records_cpu"] = 1000 * (time.process_time() - began) / CELLS
    for cell in manifest.cells:
        RunFolder(outputs_of(folder) / cell.folder).finish(step=6, max_steps=6, started=now())
    return times | {"states": _ms(lambda: cell_states(folder, manifest))}, waited


def _record(folder: Path, name: str) -> None:
    record_start(folder, name)
    record_end(folder, name, DONE)


def _ms(work: Callable[[], Any]) -> float:
    """Wall time of some work over all cells, in milliseconds a cell."""
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began) / CELLS


if __name__ == "__main__":
    sys.exit(main())
