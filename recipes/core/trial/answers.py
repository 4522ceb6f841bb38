"""The answer of the trial that a run is part of, for whoever meets the run alone."""

import os
from pathlib import Path

from recipes.core.errors import UserError
from recipes.core.export.card import Answer
from recipes.core.runs.records import RunRecord
from recipes.core.statistics.price import verdict_words
from recipes.core.trial import manifest as manifests
from recipes.core.trial.result import RESULTS, Judged, read_results


def answer_of(run: RunRecord) -> Answer | None:
    """What the newest finished trial that a run is a cell of came to; None if there is none that can be read."""
    folder = Path(os.path.abspath(run.path))
    trials = [path.parent for path in folder.parents[1].glob(f"trials/*/{RESULTS}")]
    for trial in sorted(trials, key=lambda path: (path / RESULTS).stat().st_mtime_ns, reverse=True):
        try:
            manifest = manifests.read(trial)
            if any(manifests.outputs_of(trial) / cell.folder == folder for cell in manifest.cells):
                return answer_to(read_results(trial)[0][0], manifest.command)
        except (OSError, UserError):
            continue
    return None


def answer_to(lead: Judged, command: str) -> Answer:
    """The answer to the claim that leads in the trial of a command."""
    claim, verdict = lead.claim, lead.verdict
    headline = verdict_words(verdict.word, lead.prices)
    return Answer(claim.statement, headline, verdict.reason, claim.published, command)
