"""How a run ended, with all that was read of it, so that who shows it reads nothing again."""

from dataclasses import dataclass
from pathlib import Path

from recipes.core.config.settings import Card
from recipes.core.runs.records import RunRecord
from recipes.core.statistics.compare import Comparison


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended.

    Attributes:
        folder: Its folder.
        status: "done" or "interrupted".
        metrics: Final metrics; empty if it was interrupted.
        reused: It was finished before.
        resumed_from: The step from which it went on.
        record: What its folder says; None if it was interrupted.
        card: Its card; None if it was interrupted.
        baseline: The run that it was compared with; None if there is none, or no page was asked for.
        comparison: The two compared.
    """

    folder: Path
    status: str
    metrics: dict[str, float]
    reused: bool
    resumed_from: int
    record: RunRecord | None = None
    card: Card | None = None
    baseline: RunRecord | None = None
    comparison: Comparison | None = None
