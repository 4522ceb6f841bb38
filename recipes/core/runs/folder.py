"""Run folders: where a run keeps all it was, did and measured."""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recipes.core.config import compose
from recipes.core.config.settings import RunConfig
from recipes.core.errors import UserError
from recipes.core.runs.identity import FILE, Identity, identify
from recipes.core.runs.provenance import DIFF, checkout, machine, write_changes
from recipes.core.storage import fence
from recipes.core.storage.disk import raising_disk_full
from recipes.core.storage.files import read_json, remove, write_json, write_text
from recipes.core.storage.seals import SEAL, seal_problem, write_seal

# States of a run: the first five stand in `status.json`; one that says it runs while nobody does was cut off, and one
# that was done and is no longer what it was then is damaged.
QUEUED, RUNNING, DONE, FAILED, INTERRUPTED = "queued", "running", "done", "failed", "interrupted"
CUT_OFF, DAMAGED = "cut off", "damaged"
STATES = (QUEUED, RUNNING, DONE, FAILED, INTERRUPTED)
AGAIN = "type its command again with --fresh"
LOCK = "owner.lock"


@dataclass(frozen=True)
class RunFolder:
    """One run's folder: `outputs/<recipe>/<arm or label>/<config hash>-s<seed>/`."""

    path: Path

    @property
    def lock(self) -> Path:
        """The file that names the process working in this folder."""
        return self.path / LOCK

    @property
    def checkpoints(self) -> Path:
        """Folder of published checkpoints."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """The metric stream, one JSON object a line."""
        return self.path / "metrics.jsonl"

    def curve(self, step: int) -> Path:
        """Per-example scores measured after a step, written again when a resumed run passes it again."""
        return self.path / "curve" / f"step-{step}.parquet"

    def status(self) -> dict[str, Any]:
        """Content of `status.json`; empty if the run never started or the file cannot be read."""
        try:
            status = read_json(self.path / "status.json")
        except (OSError, UserError):
            return {}
        return status if _is_status(status) else {}

    def damage(self, status: dict[str, Any] | None = None) -> str:
        """What is wrong with a run that was finished; empty if nothing is, or if it is not finished yet.

        Args:
            status: What `status` just said; else it is asked.
        """
        state = (self.status() if status is None else status).get("state")
        if state == DONE:
            return seal_problem(self.path)
        if state is None and (self.path / SEAL).exists():
            return "status.json is missing or damaged"
        return ""

    def finish(self, **changes: Any) -> None:
        """Seal what lies in the folder, and change the state to done with some other entries of `status.json`."""
        status = self.status() | {"state": DONE, "finished": now()} | changes
        write_seal(self.path, status)
        write_json(self.path / "status.json", status)

    def read_json(self, name: str) -> dict[str, Any]:
        """The JSON object in one of the folder's files; empty if there is no such file.

        Raises:
            UserError: the file is damaged.
        """
        try:
            return read_json(self.path / name)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise UserError(f"cannot be read: {error.strerror}", where=str(self.path / name), hint=AGAIN) from error
        except UserError as error:
            raise UserError(error.what, error.where, AGAIN) from error

    def update_status(self, **changes: Any) -> None:
        """Change some entries of `status.json`, atomically."""
        write_json(self.path / "status.json", self.status() | changes)

    def log(self, step: int, kind: str, metrics: dict[str, float], seconds: float) -> None:
        """Append one line to the metric stream. `kind` is train, eval or final."""
        line = json.dumps({"step": step, "kind": kind, "metrics": metrics, "seconds": round(seconds, 3)})
        fence.check(self.metrics)
        with raising_disk_full(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def read_metrics(self, kind: str) -> list[tuple[int, dict[str, float]]]:
        """(step, metrics) of every line of one kind, in order; a line cut off while written does not count.

        Raises:
            UserError: a line is no measurement.
        """
        return [(line["step"], line["metrics"]) for line in self.read_lines() if line["kind"] == kind]

    def read_lines(self) -> list[dict[str, Any]]:
        """All whole lines of the metric stream; arguments and errors as in `read_metrics`."""
        try:
            whole = self.metrics.read_bytes().rpartition(b"\n")[0]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(f"cannot be read: {error.strerror}", where=str(self.metrics), hint=AGAIN) from error
        return [_metric_line(line, f"{self.metrics}, line {n}") for n, line in enumerate(whole.split(b"\n"), 1) if line]

    def clear(self) -> None:
        """Empty the folder but for the lock of the process that clears it."""
        fence.check(self.path)
        for path in self.path.iterdir():
            if path.name == LOCK:
                continue
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def run_folder(config: RunConfig, identity: Identity | None = None) -> RunFolder:
    """The folder of a config: its name holds all that can change the result, and no clock.

    Args:
        config: The config.
        identity: Its identity, if it is known; else the files that it names are looked at.

    Raises:
        UserError: see `identify`.
    """
    return RunFolder(Path(config.outputs) / config.recipe / config.variant / run_name(config, identity))


def run_name(config: RunConfig, identity: Identity | None = None) -> str:
    """The name of a config's folder; arguments and errors as of `run_folder`."""
    return f"{(identity or identify(config)).hash}-s{config.seed}"


def start(
    folder: RunFolder, config: RunConfig, identity: Identity, command: str, environment: dict[str, Any], steps: int
) -> None:
    """Write what is known before the first step: config, environment, status. A seal of before is broken.

    Args:
        folder: Of the run.
        config: Of the run.
        identity: What the folder's name was made from.
        command: What was typed.
        environment: For `env.json`.
        steps: That the run will take; 0 where nothing is trained.
    """
    remove(folder.path / SEAL)
    remove(folder.path / DIFF)
    write_text(folder.path / "config.yaml", compose.to_yaml(config))
    write_json(folder.path / FILE, asdict(identity))
    code = checkout()
    environment = {"command": command, "folder": _working_folder()} | environment | machine(code)
    write_json(folder.path / "env.json", environment)
    write_changes(folder.path, code)
    folder.update_status(
        state=RUNNING,
        step=0,
        max_steps=steps,
        error=None,
        started=now(),
        finished=None,
        resumed_from=0,
    )


def _working_folder() -> str:
    """Where relative paths of the config begin; empty if the folder is gone."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _is_status(status: dict[str, Any]) -> bool:
    """Whether an object has the types that `status.json` has, as far as it has the entries."""
    steps = (status.get(name) or 0 for name in ("step", "max_steps", "resumed_from"))
    texts = (status.get(name) or "" for name in ("error", "started", "finished"))
    return (
        status.get("state") in STATES
        and all(isinstance(step, int) for step in steps)
        and all(isinstance(text, str) for text in texts)
        and all(_is_time(status.get(name) or "") for name in ("started", "finished"))
    )


def _is_time(text: str) -> bool:
    try:
        return not text or bool(datetime.fromisoformat(text))
    except ValueError:
        return False


def _metric_line(line: bytes, where: str) -> dict[str, Any]:
    """A line of the metric stream as an object. Raises UserError if it is none."""
    try:
        entry = json.loads(line.decode("utf-8"))
        numbers = entry["metrics"].values()
        right = isinstance(entry["step"], int) and isinstance(entry["kind"], str)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        right, numbers, entry = False, (), {}
    if not right or not all(isinstance(number, int | float) for number in numbers):
        raise UserError("is damaged: it is no measurement", where=where, hint=AGAIN)
    return dict(entry)
