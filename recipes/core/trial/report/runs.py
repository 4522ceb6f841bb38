"""Pages of a trial's runs, drawn when somebody asks for them."""

from pathlib import Path

from recipes.core.report.run import report_run
from recipes.core.trial.report.page import write_trial_report
from recipes.core.trial.result import TrialResult


def write_pages(result: TrialResult) -> dict[str, Path]:
    """Draw the page of every finished run of a trial beside the baseline of its seed, then the trial's, with links.

    Returns:
        As from `write_trial_report`.
    """
    claim = result.card.claim
    baselines = {run.seed: run for run in result.runs if run.arm == claim.baseline}
    for run in result.runs:
        report_run(run, None if run.arm == claim.baseline else baselines.get(run.seed), result.card)
    return write_trial_report(result)
