"""What the launching process and the processes of its run tell each other: files in a folder of their own."""

import json
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.core.errors import RunFailed, SteelyardError, UserError
from recipes.core.storage.files import write_json, write_text

STOP, KILL = "stop", "kill"
OUTCOME = "outcome.json"
FORESEEN = (UserError, RunFailed, KeyboardInterrupt)
RESUME = "type the same command again: the run resumes from its last checkpoint"


class WorkerError(Exception):
    """An error that nobody foresaw in one of a run's processes; its traceback is among the notes."""


@dataclass(frozen=True)
class Failure:
    """How one process failed, and when by the machine's clock."""

    rank: int
    seconds: float
    error: BaseException


@dataclass(frozen=True)
class Exchange:
    """The folder that the processes of one run share."""

    path: Path

    def ask(self, word: str) -> None:
        """Ask all processes to stop and save (`STOP`) or to end at once (`KILL`)."""
        write_text(self.path / word, "")

    def was_asked(self, word: str) -> bool:
        """Whether that was asked for."""
        return (self.path / word).exists()

    def hand_back(self, outcome: dict[str, Any]) -> None:
        """Give the result of the run to the launching process."""
        write_json(self.path / OUTCOME, outcome)

    def outcome(self) -> dict[str, Any]:
        """What was handed back."""
        return dict(json.loads((self.path / OUTCOME).read_text(encoding="utf-8")))

    def tell(self, rank: int, error: BaseException) -> None:
        """Leave word of how this process fails."""
        write_json(self.path / f"failure-{rank}.json", report_of(error))

    def failures(self) -> list[Failure]:
        """How processes failed, in order of time: the first is the cause, the others lost their partner."""
        failures = []
        for path in self.path.glob("failure-*.json"):
            report = json.loads(path.read_text(encoding="utf-8"))
            rank = int(path.stem.rpartition("-")[2])
            failures.append(Failure(rank, report["seconds"], error_of(rank, report)))
        return sorted(failures, key=lambda failure: failure.seconds)


def report_of(error: BaseException) -> dict[str, Any]:
    """How a process fails, as plain values: when, and what it says. A subclass of a foreseen error is that error."""
    kind = next((kind for kind in FORESEEN if isinstance(error, kind)), type(error))
    report: dict[str, Any] = {"seconds": time.time(), "kind": kind.__name__}
    if isinstance(error, SteelyardError):
        return report | {"what": error.what, "where": error.where, "hint": error.hint}
    return report | {"text": str(error), "traceback": "".join(traceback.format_exception(error))}


def error_of(rank: int, report: dict[str, Any]) -> BaseException:
    """The error that `report_of` described, of the process with this number."""
    for kind in (UserError, RunFailed):
        if report["kind"] == kind.__name__:
            return kind(report["what"], report["where"], report["hint"])
    if report["kind"] == KeyboardInterrupt.__name__:
        return KeyboardInterrupt()
    error = WorkerError(f"process {rank}: {report['kind']}: {report['text']}")
    error.add_note(report["traceback"])
    return error
