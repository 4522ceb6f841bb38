"""Run folders: where a run keeps all it was, did and measured."""

import json
import platform
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recipes.core import compose
from recipes.core.config import RunConfig
from recipes.core.cores import usable_cores
from recipes.core.files import write_json, write_text
from recipes.core.registry import ROOT
from recipes.core.storage import fence
from recipes.core.storage.disk import full_disk_told

# States of a run: the first five stand in `status.json`; one that says it runs while nobody does was cut off.
QUEUED, RUNNING, DONE, FAILED, INTERRUPTED = "queued", "running", "done", "failed", "interrupted"
CUT_OFF = "cut off"
LOCK = "owner.lock"


@dataclass(frozen=True)
class RunFolder:
    """One run's folder: `outputs/<recipe>/<arm>/<config hash>-s<seed>/`."""

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
            return dict(json.loads((self.path / "status.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return {}

    def update_status(self, **changes: Any) -> None:
        """Change some entries of `status.json`, atomically."""
        write_json(self.path / "status.json", self.status() | changes)

    def log(self, step: int, kind: str, metrics: dict[str, float], seconds: float) -> None:
        """Append one line to the metric stream. `kind` is train, eval or final."""
        line = json.dumps({"step": step, "kind": kind, "metrics": metrics, "seconds": round(seconds, 3)})
        fence.check(self.metrics)
        with full_disk_told(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def read_metrics(self, kind: str) -> list[tuple[int, dict[str, float]]]:
        """(step, metrics) of every line of one kind, in order; a line cut off while written does not count."""
        if not self.metrics.exists():
            return []
        whole = self.metrics.read_text(encoding="utf-8").rpartition("\n")[0]
        lines = [json.loads(line) for line in whole.splitlines() if line]
        return [(line["step"], line["metrics"]) for line in lines if line["kind"] == kind]

    def clear(self) -> None:
        """Empty the folder but for the lock of the process that clears it."""
        fence.check(self.path)
        for path in self.path.iterdir():
            if path.name == LOCK:
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def run_folder(config: RunConfig) -> RunFolder:
    """The folder of a config: its name holds all that can change the result, and no clock."""
    name = f"{compose.config_hash(config)}-s{config.seed}"
    return RunFolder(Path(config.outputs) / config.recipe / config.arm / name)


def start(folder: RunFolder, config: RunConfig, command: str, environment: dict[str, Any]) -> None:
    """Write what is known before the first step: config, environment, status."""
    write_text(folder.path / "config.yaml", compose.to_yaml(config))
    write_json(folder.path / "env.json", {"command": command} | environment | _machine())
    folder.update_status(
        state=RUNNING,
        step=0,
        max_steps=config.trainer.max_steps,
        error=None,
        started=now(),
        finished=None,
        resumed_from=0,
    )


def now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _machine() -> dict[str, Any]:
    from importlib.metadata import version

    packages = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "numpy", "hydra-core", "wandb")
    return {
        "python": sys.version.split()[0],
        "packages": {name: version(name) for name in packages},
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "cores": usable_cores(),
        "commit": _commit(),
    }


def _commit() -> str | None:
    """Commit of the checkout, with "+changes" if files differ from it; None outside a checkout."""
    git = ["git", "-C", str(ROOT)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, encoding="utf-8", check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain"], capture_output=True, encoding="utf-8", check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if changed else "")
