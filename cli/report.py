"""`steelyard report`: draw the page of a run, or those of a trial and its runs."""

import os
from pathlib import Path

import typer

from cli import completion
from cli.console import pairs
from cli.keys import OUTPUTS
from recipes.core.config import registry
from recipes.core.errors import UserError
from recipes.core.runs.folder import DONE
from recipes.core.runs.records import find_runs, load_run
from recipes.core.statistics.claims import baseline_of, card_of
from recipes.core.trial.manifest import is_trial


def report(
    target: str = typer.Argument(
        None,
        metavar="RUN_FOLDER|TRIAL_FOLDER|RECIPE",
        help="The run, or the trial with its runs; of a recipe, or of all, the finished run that started last.",
        autocompletion=completion.recipes,
    ),
    outputs: Path = OUTPUTS,
) -> None:
    """Write the report of a run, or those of a trial and its runs.

    The run stands beside the newest run of the baseline that can be paired with it.
    """
    is_path = target is not None and target not in registry.recipe_names() and os.path.lexists(target)
    if is_path and is_trial(Path(str(target))):
        _report_trial(Path(str(target)))
        return
    run = load_run(Path(str(target))) if is_path else load_run(_newest(target, outputs))
    from recipes.core.report.run import report_run

    found_in = run.path.absolute().parents[2] if is_path else outputs  # a link is not resolved: runs lie beside it
    card = card_of(run)
    baseline = baseline_of(run, card, found_in, warn=is_path)
    report_run(run, baseline, card)
    pairs(
        [
            ("report", str(run.path / "report.html")),
            *([("picture", str(picture))] if (picture := run.path / "report.png").exists() else []),
            ("baseline", str(baseline.path) if baseline else "none finished that can be paired"),
        ]
    )


def _report_trial(folder: Path) -> None:
    from recipes.core.trial.report.runs import write_pages
    from recipes.core.trial.result import analyse

    result = analyse(folder)
    files = write_pages(result)
    pairs([*((kind, str(path)) for kind, path in files.items()), ("pages of runs", str(len(result.runs)))])


def _newest(recipe: str | None, outputs: Path) -> Path:
    """Folder of the finished run that started last."""
    if recipe is not None:
        registry.card(recipe)  # refuses an unknown name
    finished = [run for run in find_runs(outputs, recipe) if run.state == DONE]
    if not finished:
        raise UserError(
            f"there is no finished run{f' of {recipe}' if recipe else ''}",
            where=str(outputs),
            hint=f"start one: steelyard run {recipe or 'RECIPE'}; runs elsewhere: --outputs FOLDER",
        )
    return max(finished, key=lambda run: run.started).path
