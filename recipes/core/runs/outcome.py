"""How a run ended."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended. `reused` runs were finished before; `baseline` is the folder it was compared with."""

    folder: Path
    status: str
    metrics: dict[str, float]
    reused: bool
    resumed_from: int
    baseline: Path | None
