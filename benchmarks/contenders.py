"""Trainers in processes of their own that take turns, step by step; one that fails costs the others nothing."""

import argparse
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from benchmarks.alignment_trainer import PEERS

WARM_UP = 1  # steps that are not counted: the optimizer's state is made in the first
WAIT_SECONDS = {"cpu": 1800, "cuda": 75}  # until a trainer is ready, and for each of its steps


class ContenderFailed(Exception):
    """A trainer ended or said nothing for too long; says which and its last words."""


class Contender:
    """A process that trains one step at a time, each on request."""

    def __init__(self, system: str, folder: Path, options: argparse.Namespace, environment: dict[str, str]) -> None:
        python = options.peer_python if system in PEERS else sys.executable
        names = ("device", "threads", "steps", "batch", "precision")
        arguments = [f"--{name}={getattr(options, name)}" for name in names]
        command = [python, "-m", "benchmarks.alignment_trainer", f"--system={system}", f"--folder={folder}", *arguments]
        variables = {"OMP_NUM_THREADS": str(options.threads), "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", **environment}
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115, closed by `stop`
        self.process = subprocess.Popen(
            command,
            cwd=Path(__file__).resolve().parents[1],
            env={**os.environ, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            encoding="utf-8",
        )
        self.system, self.wait = system, WAIT_SECONDS[options.device]
        self.steps: list[dict[str, float]] = []
        self.lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()
        self.is_ready = False

    def ready(self) -> None:
        """Wait until it can take its first step. Raises ContenderFailed."""
        if not self.is_ready:
            self._read()
            self.is_ready = True

    def step(self) -> None:
        """Have one step done. Raises ContenderFailed."""
        self.ready()
        with suppress(OSError):  # it has ended, and what it said last says why
            print("go", file=self.process.stdin, flush=True)
        self.steps.append(self._read())

    def finish(self) -> dict[str, Any]:
        """What it sends at its end, beside its steps. Raises ContenderFailed."""
        outcome = self._read()
        self.process.wait()
        return {**outcome, "steps": self.steps}

    def stop(self) -> None:
        """End it if it still runs."""
        self.process.kill()
        self.process.wait()
        self.errors.close()

    def _listen(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put("")

    def _read(self) -> dict[str, Any]:
        try:
            line = self.lines.get(timeout=self.wait)
        except queue.Empty:
            raise ContenderFailed(f"{self.system} said nothing for {self.wait} seconds") from None
        if not line:
            code = self.process.wait()
            raise ContenderFailed(f"{self.system} ended with {code}: {self._last_words()}")
        return dict(json.loads(line))

    def _last_words(self) -> str:
        self.errors.seek(0)
        return next((line.strip() for line in reversed(self.errors.readlines()) if line.strip()), "no word")


def taking_turns(
    systems: Iterable[str], folder: Path, options: argparse.Namespace
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Have trainers train, one step of each in turn.

    Args:
        systems: Their names; the first writes what the others read before it is ready.
        folder: With `pairs.jsonl`.
        options: Of the benchmark.

    Returns:
        What each sent at its end, and of those that failed why.
    """
    absent: dict[str, str] = {}
    with ExitStack() as stack:
        running: dict[str, Contender] = {}
        for system in systems:
            running[system] = Contender(system, folder, options, {})
            stack.callback(running[system].stop)
            if len(running) == 1:
                _each(running, absent, Contender.ready)
        _each(running, absent, Contender.ready)
        for number in range(options.steps):
            _each(running, absent, Contender.step, reverse=bool(number % 2))
        return _each(running, absent, Contender.finish), absent


def _each(running: dict[str, Contender], absent: dict[str, str], call: Any, reverse: bool = False) -> dict[str, Any]:
    """What a call gives for each that runs; one that fails is stopped and runs no more."""
    results = {}
    for system in sorted(running, reverse=reverse):
        try:
            results[system] = call(running[system])
        except ContenderFailed as error:
            absent[system] = str(error)
            print(f"left out: {error}", file=sys.stderr, flush=True)
            running.pop(system).stop()
    return results
