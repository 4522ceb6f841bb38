"""Trials in real processes: start a driver, look at its cells, kill, and compare what cells end with."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from recipes.core.config.registry import ROOT
from recipes.core.runs.folder import RUNNING, RunFolder
from recipes.core.storage.locks import is_alive
from recipes.core.trial import manifest as manifests
from recipes.core.trial.states import CellState, cell_states, read_record
from tests.cli.conftest import Ended

TINY = [
    *["budget=smoke", "tracker=none", "trainer.threads=1", "trainer.log_steps=1", "trainer.batch_size=4"],
    *["reference.steps=2", "reference.batch_size=4", "evaluation.examples=4", "evaluation.watch_examples=4"],
    *["evaluation.candidates=2", "evaluation.captions=2"],
]
SHORT = [*TINY, "trainer.max_steps=3"]
LONG = [*TINY, "trainer.max_steps=40", "trainer.save_steps=4"]
PATIENCE_SECONDS = 900.0
MARK = "STEELYARD_TEST_MARK"


@dataclass
class Driver:
    """Starts of `steelyard trial prior` with the same words, in processes of their own.

    Attributes:
        outputs: Outputs folder.
        words: What is typed after `steelyard trial prior`, without outputs.
        environment: Variables beside those of the tests.
        cwd: Where it is typed.
        mark: In the environment of every process it starts, to find them again.
    """

    outputs: Path
    words: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    cwd: Path = ROOT
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def typed(self) -> list[str]:
        """The words after `steelyard`."""
        return ["trial", "prior", *self.words, f"outputs={self.outputs}"]

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        """Start it, in a session of its own as on a terminal."""
        extra = {"PYTHONPATH": str(ROOT), MARK: self.mark} | self.environment
        line = [sys.executable, "-m", "cli.app", *self.typed, *more]
        with self.out.open("ab") as out, self.err.open("ab") as err:
            return subprocess.Popen(
                line, cwd=self.cwd, env=os.environ | extra, start_new_session=True, stdout=out, stderr=err
            )

    @contextlib.contextmanager
    def started(self, *more: str) -> Iterator[subprocess.Popen[bytes]]:
        """A start; all processes of this driver are gone when the block ends."""
        with self.start(*more) as process:
            try:
                yield process
            finally:
                process.kill()
                self.kill_all()

    def run(self, *more: str) -> Ended:
        """One start to its end."""
        self.out.write_text("")
        self.err.write_text("")
        with self.started(*more) as process:
            code = process.wait(timeout=PATIENCE_SECONDS)
        return Ended(code, self.out.read_text(), self.err.read_text())

    def kill_all(self) -> None:
        """End what is left of this driver's processes."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @property
    def out(self) -> Path:
        """What its starts printed."""
        return self.outputs.with_name(f"{self.outputs.name}.out")

    @property
    def err(self) -> Path:
        """What its starts told on the side."""
        return self.outputs.with_name(f"{self.outputs.name}.err")

    @property
    def folder(self) -> Path:
        """The trial's folder; there once the manifest is."""
        (path,) = (self.outputs / "prior" / "trials").glob("*/manifest.json")
        return path.parent

    def states(self) -> list[CellState]:
        """State of every cell; none before there is a manifest."""
        if not list(self.outputs.glob("prior/trials/*/manifest.json")):
            return []
        return cell_states(self.folder, manifests.read(self.folder))

    def count(self, state: str) -> int:
        """Cells in a state."""
        return sum(each.state == state for each in self.states())

    def logs(self) -> str:
        """All logs of cells."""
        return "".join(path.read_text() for path in sorted((self.folder / "logs").glob("*.log")))

    def processes(self) -> list[int]:
        """Living processes that this driver's starts have left or made, the drivers themselves included."""
        pids = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if f"{MARK}={self.mark}".encode() in path.read_bytes().split(b"\0"):
                    pids.append(int(path.parent.name))
        return pids

    def workers(self) -> list[int]:
        """Living processes that cells run in."""
        pids = []
        for record in self.outputs.glob("prior/trials/*/cells/*.json"):
            with contextlib.suppress(OSError, ValueError):
                owner = json.loads(record.read_text())
                if owner["state"] == "running" and is_alive(record, owner):
                    pids.append(int(owner["pid"]))
        return sorted(set(pids))


def signal_training(driver: Driver, number: int) -> None:
    """Send a signal to a process whose cell is in training now: another may still import, or be past its last step."""
    training = next(state for state in driver.states() if _is_training(state))
    os.kill(read_record(driver.folder, training.cell.name)["pid"], number)


def undisturbed(driver: Driver, *more: str) -> None:
    """Do all cells one after another in this process, without any launcher."""
    from cli import app
    from recipes.core.trial import worker
    from recipes.core.trial.launch import Launcher

    def do(self: Launcher, folder: Path, names: Sequence[str], threads: int, nodes: int = 1) -> None:
        for name in names:
            worker.run_cell(folder, name)

    with pytest.MonkeyPatch.context() as patch:
        for name, value in driver.environment.items():
            patch.setenv(name, value)
        patch.setattr(Launcher, "__call__", do)
        assert app.main([*driver.typed, *more]) == 0


def wait_until(condition: Callable[[], Any], what: str, process: subprocess.Popen[bytes] | None = None) -> None:
    """Look often; fails if the process ends before, or after the tests' patience."""
    until = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if process and process.poll() is not None and not condition():
            raise AssertionError(f"ended with {process.returncode} before: {what}")
        assert time.monotonic() < until, f"waited too long: {what}"
        time.sleep(0.05)  # a look takes time from the processes that are looked at


def trains(driver: Driver, cells: int, step: int = 1) -> Callable[[], bool]:
    """Whether so many cells are in training, past a step."""
    return lambda: sum(_is_training(state, step) for state in driver.states()) >= cells


def _is_training(state: CellState, step: int = 1) -> bool:
    return state.state == RUNNING and step <= state.step < state.max_steps


def final_metrics(driver: Driver) -> dict[str, Any]:
    """Every line of every cell's metrics without what a clock says, by cell."""
    return {state.cell.name: _metrics(RunFolder(state.run)) for state in driver.states()}


def endings(driver: Driver) -> dict[str, dict[str, Any]]:
    """All that must be the same bit for bit, by cell: metrics, weights, scores, curves."""
    return {state.cell.name: _ending(RunFolder(state.run)) for state in driver.states()}


def assert_done_once(driver: Driver) -> None:
    """Every cell is done, measured every step and its end once, and left no lock and no half-written file."""
    for state in driver.states():
        assert (state.state, state.error) == ("done", ""), state
        steps = [line["step"] for line in _metrics(RunFolder(state.run)) if line["kind"] == "train"]
        assert steps == list(range(1, state.max_steps + 1)), state
        assert [line["kind"] for line in _metrics(RunFolder(state.run))].count("final") == 1, state
        assert not RunFolder(state.run).lock.exists(), state


def _metrics(folder: RunFolder) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def _ending(folder: RunFolder) -> dict[str, Any]:
    steps = folder.status()["max_steps"]
    files = [folder.checkpoints / f"checkpoint-{steps}" / "model.safetensors", folder.path / "examples.parquet"]
    files += [folder.path / "heatmap.json", *sorted((folder.path / "curve").iterdir())]
    return {"metrics": _metrics(folder), **{path.name: path.read_bytes() for path in files}}


@contextlib.contextmanager
def ray_head(folder: Path, address: str, mark: str) -> Iterator[None]:
    """A Ray cluster of one node with two cores that was started elsewhere, with an environment of its own."""
    environment = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environment |= {"HOME": str(folder), "RAY_AUTH_MODE": "disabled", "RAY_raylet_start_wait_time_s": "300", MARK: mark}
    line = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2"]
    line += [f"--port={address.partition(':')[2]}", "--include-dashboard=false", f"--temp-dir=/tmp/ray-{mark[:8]}"]
    log = folder / "ray.log"
    with log.open("wb") as file:
        head = subprocess.Popen(line, cwd=folder, env=environment, stdout=file, stderr=file, start_new_session=True)
    try:
        wait_until(lambda: b"Ray runtime started" in log.read_bytes(), "the cluster runs")
        yield
    finally:
        head.terminate()
        head.wait(timeout=PATIENCE_SECONDS)
        shutil.rmtree(f"/tmp/ray-{mark[:8]}", ignore_errors=True)
