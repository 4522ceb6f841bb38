"""`steelyard report`: draw the page of a run, or those of a trial and its runs; tables and figures for papers."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cli import completion
from cli.console import note, pairs
from cli.keys import OUTPUTS, target_folder
from cli.results import JSON, as_files, print_result
from recipes.core.config import registry
from recipes.core.errors import UserError
from recipes.core.runs.folder import DONE
from recipes.core.runs.records import find_runs, load_run, outputs_of
from recipes.core.spelling import did_you_mean
from recipes.core.statistics.claims import baseline_of, card_of
from recipes.core.trial.manifest import is_trial

if TYPE_CHECKING:
    from recipes.core.config.settings import Card
    from recipes.core.runs.records import RunRecord
    from recipes.core.trial.report.results import Results

HTML = "html"
FORMATS = (HTML, "md", "tex", "csv", "pdf", "svg")


def report(
    target: str = typer.Argument(
        None,
        metavar="RUN_FOLDER|TRIAL_FOLDER|RECIPE",
        help="The run, or the trial with its runs; of a recipe, or of all, the finished run that started last.",
        autocompletion=completion.recipes,
    ),
    formats: str = typer.Option(
        HTML, "--format", metavar="FORMAT,...", help=f"What to write: {', '.join(FORMATS)}; several with commas."
    ),
    metrics: str = typer.Option(
        "", metavar="METRIC,...", help="Metrics of tables and figures. If none: those of the claims; all in a CSV."
    ),
    arms: str = typer.Option("", metavar="ARM,...", help="Arms of tables and figures, beside the baseline; else all."),
    to: Path = typer.Option(None, metavar="FOLDER", help="Where tables and figures go; else beside the page."),
    outputs: Path = OUTPUTS,
    as_json: bool = JSON,
) -> None:
    """Write the report of a run, or those of a trial and its runs.

    The run stands beside the newest run of the baseline that can be paired with it. The page shows all metrics and
    arms and stays in its folder; md, tex and csv are tables, pdf and svg each figure of a trial's page for papers.
    """
    kinds, chosen = _formats(formats), (_words("--metrics", metrics), _words("--arms", arms))
    if kinds == [HTML] and (metrics or arms or to):
        typed = "--metrics" if metrics else "--arms" if arms else "--to"
        raise UserError(f"the page shows everything, in its folder: {typed} is for tables and figures", "--format html",
                        "type --format tex,csv,md,pdf or svg")  # fmt: skip
    folder = target_folder(to) if to else None
    is_path = target is not None and target not in registry.recipe_names() and os.path.lexists(target)
    if is_path and is_trial(Path(str(target))):
        details, files = _report_trial(Path(str(target)), kinds, chosen, folder)
    else:
        run = load_run(Path(str(target))) if is_path else load_run(newest(target, outputs))
        runs = outputs_of(run) if is_path else outputs
        details, files = _report_run(run, runs, is_path, kinds, chosen, folder)
    if as_json:
        print_result("report", details | {"files": as_files(files)})
    else:
        pairs([*((kind, str(path)) for kind, path in files), *_rows(details)])


Details = dict[str, Any]
Files = list[tuple[str, Path]]  # kind, path
Chosen = tuple[list[str], list[str]]  # metrics, arms


def _report_run(
    run: "RunRecord", outputs: Path, warn: bool, kinds: list[str], chosen: Chosen, to: Path | None
) -> tuple[Details, Files]:
    """Write what was asked of a run; the baseline's run beside it, and the files."""
    from recipes.core.runs.records import check_finished
    from recipes.core.trial.report.results import results_of_run

    card = card_of(run)
    baseline = baseline_of(run, card, outputs, warn=warn)
    files: Files = []
    if set(kinds) - {HTML}:
        check_finished(run)
        files = _write(results_of_run(run, baseline, card), kinds, chosen, to or run.path)
    if HTML in kinds:
        files = [*_page(run, baseline, card), *files]
    return {"baseline": str(baseline.path) if baseline else None}, files


def _rows(details: Details) -> list[tuple[str, str]]:
    """What is printed besides the files."""
    if "baseline" in details:
        return [("baseline", details["baseline"] or "none finished that can be paired")]
    return [("pages of runs", str(details["run_pages"]))] if details["run_pages"] else []


def _page(run: "RunRecord", baseline: "RunRecord | None", card: "Card") -> Files:
    from recipes.core.report.run import report_run

    report_run(run, baseline, card)
    drawn = [("report", run.path / "report.html"), ("picture", run.path / "report.png")]
    return [(kind, path) for kind, path in drawn if path.exists()]


def _report_trial(folder: Path, kinds: list[str], chosen: Chosen, to: Path | None) -> tuple[Details, Files]:
    """Write what was asked of a trial; how many pages of runs there are, and the files."""
    from recipes.core.trial.report.results import results_of_trial
    from recipes.core.trial.report.runs import write_pages
    from recipes.core.trial.result import analyse

    result = analyse(folder)
    files = _write(results_of_trial(result), kinds, chosen, to or folder) if set(kinds) - {HTML} else []
    if HTML not in kinds:
        return {"run_pages": 0}, files
    return {"run_pages": len(result.runs)}, [*write_pages(result).items(), *files]


def _write(results: "Results", kinds: list[str], chosen: Chosen, folder: Path) -> Files:
    """Write tables and figures, and say which metrics tables for papers leave out."""
    from recipes.core.trial.report.files import write_files

    files = write_files(results, [kind for kind in kinds if kind != HTML], *chosen, folder)
    left = len(results.metrics) - len(results.leading)
    if left and not chosen[0] and {"md", "tex"} & set(kinds):
        names = ", ".join(one.name for one in results.leading)
        note(f"table.{'tex' if 'tex' in kinds else 'md'} shows {names}; --metrics chooses among {left} more")
    return [(path.suffix.lstrip("."), path) for path in files]


def _formats(typed: str) -> list[str]:
    """The formats, each once. Raises UserError for one that there is not."""
    kinds = _words("--format", typed)
    for kind in kinds:
        if kind not in FORMATS:
            raise UserError(f"unknown format {kind!r}", where="--format", hint=did_you_mean(kind, list(FORMATS)))
    if not kinds:
        raise UserError("names no format", where=f"--format {typed!r}", hint=f"choose from {', '.join(FORMATS)}")
    return kinds


def _words(option: str, typed: str) -> list[str]:
    """Words between commas, each once. Raises UserError where something was typed and is none."""
    words = list(dict.fromkeys(word.strip() for word in typed.split(",") if word.strip()))
    if typed and not words:
        raise UserError("names nothing", where=f"{option} {typed!r}", hint="type names with commas between them")
    return words


def newest(recipe: str | None, outputs: Path) -> Path:
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
