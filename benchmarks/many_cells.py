"""A trial and a sweep of ten thousand cells that are done: what it takes to plan them, to look at them, to go on.

    python -m benchmarks.many_cells [--cells 10000] [--folder FOLDER] [--commands sweep_status,runs,...]

Two arms of `rag-importance`, which trains nothing, at `budget=smoke`. The first cell of each arm is run; the folders of
all others are laid down from it by the writers that a run has, with their config, identity and metrics (those of the
first run, plus noise), with the records that a sweep and a trial keep of their starts. Then, each in a process of its
own: `trial` and `sweep` with `--status` and `--dry-run`, `runs` with `--json` and without, `sweep --dry-run` of as many
cells that were never started, and `sweep` and `trial` once more, which reuse all cells and conclude. A command is done
twice, as what it keeps for the next time counts: `first` and `again`; `sweep --status` and `runs` start with nothing
kept. `sweep` then does the last cell anew, among all others that are done. A sweep of 10,000 cells none of which has
started is killed with its processes when its first cell begins, and resumed: what it takes until a cell begins. Last, a
warm worker does the last cells anew. With `--folder` the run folders stay there, and are used again. Promises:
manifest, status and `runs` under 5 s of processor time each, a cheap cell at most .5 CPU-seconds. Only what is measured
whole, of 10,000 cells, is recorded.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import record
from recipes.core.config import compose
from recipes.core.config.registry import ROOT
from recipes.core.config.settings import RunConfig
from recipes.core.runs.folder import DONE, RunFolder, now
from recipes.core.runs.identity import FILE, identify
from recipes.core.runs.index import index_file
from recipes.core.storage.files import write_json, write_text
from recipes.core.storage.processes import myself
from recipes.core.storage.seals import SEAL, STATUS
from recipes.core.trial import manifest as manifests
from recipes.core.trial.cells import sweep_cells, trial_cells
from recipes.core.trial.manifest import Manifest
from recipes.core.trial.worker import run_cell

RECIPE, ARMS, CELLS, AGAIN = "rag-importance", ("prune", "none"), 10_000, 6
LIMIT, CELL_LIMIT = 5.0, 0.5  # CPU-seconds of a command, of a cell
WRITTEN = ("config.yaml", FILE, "metrics.jsonl", STATUS, SEAL, "report.html", "report.png")
UNKNOWN = ("sweep_status", "runs")  # whose first turn starts with nothing kept
USUAL = ("sweep_status", "trial_status", "runs", "runs_json", "sweep_dry_run", "trial_dry_run", "new_dry_run")
WHOLE = ("sweep", "trial")  # restarts that reuse all cells
PROMISED = ("manifest_write", "manifest_read", "trial_status", "sweep_status", "runs", "runs_json")


def main(options: argparse.Namespace) -> int:
    """Measure, print and record; the exit code is 1 if a promise is broken."""
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR"))))
        outputs = folder / "outputs"
        began = time.process_time()
        trial = _plan(outputs, options.cells)
        took = round((time.process_time() - began) / 2, 2)
        result: dict[str, Any] = {"cells": options.cells, "planning_cpu_seconds": took}
        _lay(outputs, *trial[1:])
        result |= _manifest(*trial[:2])
        words = _commands(outputs, options.cells)
        for name in options.commands:
            if name in UNKNOWN:
                index_file(outputs).unlink(missing_ok=True)
            result |= {f"{name}_{turn}": _measure(words[name]) for turn in ("first", "again")}
            print(name, json.dumps(result[f"{name}_first"]), json.dumps(result[f"{name}_again"]), flush=True)
        if set(WHOLE) <= set(options.commands):
            result |= _pages(trial[0]) | _restarts(outputs, trial[1], words)
        result["worker_cpu_seconds"] = _worker(trial[0], trial[1], AGAIN)
    result |= {"promise_cpu_seconds": LIMIT, "promise_cell_cpu_seconds": CELL_LIMIT}
    print(json.dumps(result, indent=2))
    if options.cells == CELLS and {*USUAL, *WHOLE} <= set(options.commands):
        record("many_cells", "cpu", result)
    return int(_is_broken(result))


def _is_broken(result: dict[str, Any]) -> bool:
    """Whether something takes longer than was promised: a command at its second turn, a cell behind the first."""
    commands = [result[f"{name}_again"]["cpu_seconds"] for name in PROMISED if f"{name}_again" in result]
    files = [result[name] for name in PROMISED if name in result]
    cells = sorted(result["worker_cpu_seconds"][1:])
    return max(commands + files) > LIMIT or cells[len(cells) // 2] > CELL_LIMIT


def _keys(outputs: Path) -> list[str]:
    return ["budget=smoke", "tracker=none", "trainer.threads=1", f"outputs={outputs}"]


def _plan(outputs: Path, cells: int) -> tuple[Path, Manifest, Sequence[RunConfig]]:
    """The trial, its manifest written, as that of the sweep, which has the same runs."""
    seeds = cells // len(ARMS)
    sweep = sweep_cells(RECIPE, [*_keys(outputs), f"arm={','.join(ARMS)}", f"seed=range({seeds})"])
    _write(*manifests.plan("sweep", RECIPE, sweep, "", 1)[:2])
    trial = manifests.plan("trial", RECIPE, trial_cells(RECIPE, _keys(outputs), ARMS, range(seeds)), "", 1)
    _write(*trial[:2])
    return trial


def _write(folder: Path, manifest: Manifest) -> None:
    """A manifest, and the record that each cell leaves that was started once."""
    manifests.write(folder, manifest)
    record = {"state": DONE, "attempts": 1, "error": "", **myself()}
    for cell in manifest.cells:
        if not (path := folder / "cells" / f"{cell.name}.json").exists():
            write_json(path, record, durable=False)


def _commands(outputs: Path, cells: int) -> dict[str, list[str]]:
    seeds = cells // len(ARMS)
    trial = ["trial", RECIPE, *_keys(outputs), "--arms", ",".join(ARMS), "--seeds", str(seeds), "--jobs", "1"]
    sweep = ["sweep", RECIPE, *_keys(outputs), f"arm={','.join(ARMS)}", f"seed=range({seeds})", "--jobs", "1"]
    runs = ["runs", f"--outputs={outputs}"]
    return {
        "sweep_status": [*sweep, "--status"],
        "trial_status": [*trial, "--status"],
        "runs": runs,
        "runs_json": [*runs, "--json"],
        "sweep_dry_run": [*sweep, "--dry-run"],
        "trial_dry_run": [*trial, "--dry-run"],
        "new_dry_run": [*_new(outputs, cells), "--dry-run"],
        "sweep": sweep,
        "trial": trial,
    }


def _new(outputs: Path, cells: int) -> list[str]:
    """A sweep of as many cells, of which none has started."""
    seeds = f"seed=range({cells},{cells + cells // len(ARMS)})"
    return ["sweep", RECIPE, *_keys(outputs), f"arm={','.join(ARMS)}", seeds, "--jobs", "1"]


def _pages(folder: Path) -> dict[str, float]:
    """MiB of what a trial writes at its end."""
    names = ("report.html", "report.svg", "results.json")
    return {f"{name}_mib": round((folder / name).stat().st_size / 2**20, 2) for name in names}


def _restarts(outputs: Path, manifest: Manifest, words: dict[str, list[str]]) -> dict[str, Any]:
    """A sweep whose last cell is missing; what a new one takes until a cell begins, and what one that was killed."""
    last = RunFolder(outputs / manifest.cells[-1].folder)
    last.clear()
    result = {"sweep_last_cell": _measure(words["sweep"])}
    new = _new(outputs, len(manifest.cells))
    shutil.rmtree(_folder_of(new), ignore_errors=True)
    result |= {"first_cell_new": _until_a_cell(new, signal.SIGKILL), "first_cell_resumed": _until_a_cell(new)}
    print(json.dumps(result), flush=True)
    return result


def _folder_of(words: Sequence[str]) -> Path:
    """The folder of a sweep that is typed so."""
    keys = [word for word in words[2:] if "=" in word]
    return manifests.plan("sweep", RECIPE, sweep_cells(RECIPE, keys), "", 1)[0]


def _until_a_cell(words: Sequence[str], end: int = signal.SIGTERM) -> dict[str, float]:
    """Wall and processor time of a sweep and its worker until a cell begins; then the driver gets a signal."""
    folder, began = _folder_of(words) / "cells", time.time()
    process = subprocess.Popen([sys.executable, "-m", "cli.app", *words], cwd=ROOT, **_quiet())
    while not any(path.stat().st_mtime >= began for path in folder.glob("*.json")):
        if process.poll() is not None:
            raise RuntimeError(f"steelyard {' '.join(words)} ended with {process.returncode} before a cell began")
        time.sleep(0.02)
    took, cpu = time.time() - began, sum(map(_cpu_seconds, [process.pid, *_children(process.pid)]))
    workers = _children(process.pid)
    process.send_signal(end)
    process.wait()
    while any(Path(f"/proc/{worker}").exists() for worker in workers):  # it ends with its parent
        time.sleep(0.1)
    return {"cpu_seconds": round(cpu, 2), "wall_seconds": round(took, 2)}


def _children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _lay(outputs: Path, manifest: Manifest, configs: Sequence[RunConfig]) -> None:
    """Run the first cell of each arm; give all other cells its folder, as if they had been run."""
    noise, first = np.random.default_rng(0), dict[str, RunFolder]()
    for cell, config in zip(manifest.cells, configs, strict=True):
        run = RunFolder(outputs / cell.folder)
        if cell.arm not in first:
            first[cell.arm] = run
            if not (run.path / SEAL).exists():
                words = ["run", RECIPE, *_keys(outputs), f"arm={cell.arm}", f"seed={cell.seed}"]
                _measure(words)
        elif not (run.path / SEAL).exists():
            _copy(first[cell.arm], run, config, noise)


def _copy(genuine: RunFolder, run: RunFolder, config: RunConfig, noise: np.random.Generator) -> None:
    """A finished run folder of a config, with the files of another run."""
    run.path.mkdir(parents=True, exist_ok=True)
    for path in genuine.path.iterdir():
        if path.name not in WRITTEN:
            shutil.copy(path, run.path / path.name)
    write_text(run.path / "config.yaml", compose.to_yaml(config), durable=False)
    write_json(run.path / FILE, asdict(identify(config)), durable=False)
    run.metrics.unlink(missing_ok=True)
    for step, metrics in genuine.read_metrics("final"):
        run.log(step, "final", {name: value + 0.01 * noise.normal() for name, value in metrics.items()}, 0.0)
    run.finish(started=now(), step=0, max_steps=0, error=None, resumed_from=0)


def _manifest(folder: Path, manifest: Manifest) -> dict[str, float]:
    """Seconds to write a manifest and to read it."""
    return {
        "manifest_write": _seconds(lambda: manifests.write(folder, manifest)),
        "manifest_read": _seconds(lambda: manifests.read(folder)),
    }


def _seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _measure(words: Sequence[str]) -> dict[str, float]:
    """Wall and processor time of a command line, from the start of its process to its end, and its largest memory."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen([sys.executable, "-m", "cli.app", *words], cwd=ROOT, **_quiet(errors))
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        took = time.perf_counter() - began
        if process.returncode:
            errors.seek(0)
            text = errors.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"steelyard {' '.join(words)} ended with {process.returncode}: {text}")
    times = {"cpu_seconds": round(used.ru_utime + used.ru_stime, 2), "wall_seconds": round(took, 2)}
    return times | {"peak_mib": round(used.ru_maxrss / 1024)}


def _quiet(errors: Any = subprocess.DEVNULL) -> dict[str, Any]:
    """How processes are started here: one thread, nothing on the terminal."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return {"stdout": subprocess.DEVNULL, "stderr": errors, "stdin": subprocess.DEVNULL, "env": environment}


def _worker(folder: Path, manifest: Manifest, number: int) -> list[float]:
    """CPU-seconds of the last cells, done anew one after another in this process; those of the first warm it up."""
    seconds = []
    for cell in manifest.cells[-number:]:
        RunFolder(manifests.outputs_of(folder) / cell.folder).clear()
        before = os.times()
        state = run_cell(folder, cell.name)
        if state != "done":
            raise RuntimeError(f"cell {cell.name} ended {state}")
        seconds.append(round(sum(os.times()[:4]) - sum(before[:4]), 3))
    return seconds


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many_cells")
    parser.add_argument("--cells", type=int, default=CELLS)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--commands", type=lambda text: text.split(","), default=[*USUAL, *WHOLE])
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main(_options()))
