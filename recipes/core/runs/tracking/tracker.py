"""What a tracker is, the one that does nothing, and the guard of all others: a tracker never breaks a run."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.core.config.fields import flatten
from recipes.core.config.settings import TrackerConfig
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.storage.files import read_json, write_json
from recipes.core.storage.seals import TRACKER_IDS


class Tracker:
    """Where metrics go besides the run folder; the base class sends nothing anywhere."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Metrics of one step."""

    def summary(self, metrics: dict[str, float]) -> None:
        """Final metrics."""

    def image(self, name: str, path: Path) -> None:
        """A picture."""

    def heatmap(self, name: str, heatmap: dict[str, Any]) -> None:
        """Texts with one weight a token (content of `heatmap.json`)."""

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """A table of texts and numbers."""

    def finish(self, success: bool) -> None:
        """Flush and close; records whether the run came to its end."""


class NullTracker(Tracker):
    """The tracker of a run that has none."""


class GuardedTracker(Tracker):
    """A tracker whose first failure is reported once on stderr, after which nothing more is sent.

    Args:
        title: The service's name, for the warning.
        start: Reaches the service and returns the tracker that talks to it.
    """

    def __init__(self, title: str, start: Callable[[], Tracker]) -> None:
        self._title = title
        self._tracker: Tracker = NullTracker()
        self._failed = False
        self._guard(lambda: setattr(self, "_tracker", start()))

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Metrics of one step."""
        self._guard(lambda: self._tracker.log(step, metrics))

    def summary(self, metrics: dict[str, float]) -> None:
        """Final metrics."""
        self._guard(lambda: self._tracker.summary(metrics))

    def image(self, name: str, path: Path) -> None:
        """A picture."""
        self._guard(lambda: self._tracker.image(name, path))

    def heatmap(self, name: str, heatmap: dict[str, Any]) -> None:
        """Texts with one weight a token."""
        self._guard(lambda: self._tracker.heatmap(name, heatmap))

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """A table of texts and numbers."""
        self._guard(lambda: self._tracker.table(name, columns, rows))

    def finish(self, success: bool) -> None:
        """Flush and close."""
        self._guard(lambda: self._tracker.finish(success))

    def _guard(self, action: Callable[[], Any]) -> None:
        if self._failed:
            return
        try:
            action()
        # Whatever a tracker raises (its own errors, a dead service's OSError), the run is worth more.
        except Exception as error:
            self._failed = True
            first = (str(error).splitlines() or [""])[0]
            note(
                f"warning: {self._title} failed ({type(error).__name__}: {first}); the run goes on without it, "
                "metrics.jsonl has everything"
            )


@dataclass(frozen=True)
class Tracked:
    """The run, or the summary of a trial, that a tracker shows.

    Attributes:
        config: Tracker settings.
        folder: Of the run, or of the trial; a tracker's files go into it.
        outputs: Folder of all runs.
        title: Name of the run unless the settings say so.
        group: What it is shown with unless the settings say so.
        about: The resolved config, shown beside the run.
        steps: Optimizer steps of the run: where final metrics, pictures and tables stand on its axis.
    """

    config: TrackerConfig
    folder: Path
    outputs: Path
    title: str
    group: str
    about: dict[str, Any]
    steps: int = 0

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.config.name or self.title


def run_id(folder: Path, kind: str, new: Callable[[], str] = lambda: secrets.token_hex(8)) -> tuple[str, bool]:
    """The name under which a service knows the run of a folder, and whether it knew it before.

    It is drawn when the run starts and kept in its folder: a resumed run goes on in its curve, while one that starts
    anew (`--fresh`), or the same run on another machine, is another to the service.

    Args:
        folder: Of the run.
        kind: Of tracker.
        new: Makes a new one.
    """
    try:
        ids = read_json(folder / TRACKER_IDS)
    except (OSError, UserError):
        ids = {}
    known = ids.get(kind)
    if isinstance(known, str):
        return known, True
    drawn = new()
    write_json(folder / TRACKER_IDS, ids | {kind: drawn})
    return drawn, False


def texts(tree: dict[str, Any]) -> dict[str, str]:
    """A nested config as dotted keys and texts."""
    return {key: str(value) for key, value in flatten(tree).items()}
