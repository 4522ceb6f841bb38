"""The end of a trial: compare, judge, write, and send the answer to the tracker."""

from pathlib import Path

from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.export.card import renew_card
from recipes.core.messages import note
from recipes.core.runs.tracking.opening import open_tracker
from recipes.core.runs.tracking.tracker import NullTracker, Tracked, Tracker
from recipes.core.statistics.comparison_table import comparison_table
from recipes.core.trial.answers import answer_to
from recipes.core.trial.manifest import outputs_of
from recipes.core.trial.report.page import write_trial_report
from recipes.core.trial.result import TrialResult, analyse, write_results


def conclude(folder: Path) -> tuple[TrialResult, dict[str, Path]]:
    """Compare the finished cells, judge the claim, write results and report, and send them to the tracker.

    Args:
        folder: The trial's folder.

    Returns:
        The result, and what was written by kind ("html", "md", "png", "svg", "results").
    """
    result = analyse(folder)
    files = write_trial_report(result) | {"results": write_results(result)}
    _renew_cards(result)
    _track(result, files)
    return result, files


def _renew_cards(result: TrialResult) -> None:
    """Write the answer into the cards of the models that the cells left."""
    answer = answer_to(result.lead, result.manifest.command)
    for run in result.runs:
        try:
            renew_card(run, answer)
        except (OSError, UserError) as error:  # somebody else's folder
            note(f"warning: the card of the model in {run.path} could not be written again: {error}")


def _track(result: TrialResult, files: dict[str, Path]) -> None:
    """Send verdict, forest plot and tables to a summary run in the group of the cells."""
    manifest, folder = result.manifest, result.folder
    config = compose.compose(manifest.recipe, [*manifest.cells[0].overrides])
    group = f"{manifest.recipe}-{folder.name}"
    settings = {"command": manifest.command, "arms": manifest.arms, "seeds": manifest.seeds, "claim": result.card.claim}
    title = f"{manifest.recipe}/trial/{folder.name}"
    tracked = Tracked(config.tracker, folder, outputs_of(folder), title, group, settings)
    tracker = open_tracker(tracked, config.budget)
    if isinstance(tracker, NullTracker):
        return
    try:
        send_answer(tracker, result, files["png"])
    finally:
        tracker.finish(True)


def send_answer(tracker: Tracker, result: TrialResult, picture: Path) -> None:
    """Log the verdict, the forest plot, one table for the verdicts and one for each arm."""
    verdict = result.verdict
    numbers = {"seeds": float(verdict.seeds)}
    if interval := verdict.interval:
        numbers |= {"difference": interval.estimate, "interval/low": interval.low, "interval/high": interval.high}
    tracker.summary(numbers)
    tracker.image("forest plot", picture)
    judged = [result.lead, *result.further]
    answers = [[one.claim.statement, one.headline, one.verdict.reason, one.claim.published] for one in judged]
    tracker.table("verdict", ["claim", "verdict", "because", "published"], answers)
    for comparison in result.comparisons:
        rows = comparison_table(comparison)
        name = f"{comparison.arm} beside {comparison.baseline}"
        tracker.table(name, list(rows[0]), [list(row.values()) for row in rows])
