"""The answer of the trial that a run is part of, for whoever meets the run alone."""

import os
from pathlib import Path
from typing import Any

from recipes.core.errors import UserError
from recipes.core.export.card import Answer
from recipes.core.runs.records import RunRecord
from recipes.core.statistics.intervals import Interval
from recipes.core.statistics.price import SideEffect, verdict_words
from recipes.core.storage.files import read_json
from recipes.core.trial import manifest as manifests
from recipes.core.trial.result import RESULTS


def answer_of(run: RunRecord) -> Answer | None:
    """What the newest finished trial that a run is a cell of came to; None if there is none that can be read."""
    folder = Path(os.path.abspath(run.path))
    trials = [path.parent for path in folder.parents[1].glob(f"trials/*/{RESULTS}")]
    for trial in sorted(trials, key=lambda path: (path / RESULTS).stat().st_mtime_ns, reverse=True):
        try:
            manifest = manifests.read(trial)
            if any(manifests.outputs_of(trial) / cell.folder == folder for cell in manifest.cells):
                return _read(read_json(trial / RESULTS), manifest.command)
        except (OSError, UserError, KeyError, TypeError):
            continue
    return None


def _read(results: dict[str, Any], command: str) -> Answer:
    claim, verdict = results["claim"], results["verdict"]
    effects = [SideEffect(**effect | {"interval": Interval(**effect["interval"])}) for effect in results["price"]]
    headline = verdict_words(verdict["word"], effects)
    return Answer(claim["statement"], headline, verdict["reason"], claim["published"], command)
