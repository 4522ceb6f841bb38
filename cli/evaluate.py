"""`steelyard evaluate`: a language model in tasks of lm-evaluation-harness."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cli import completion
from cli.console import pairs, say, table
from cli.export import run_at
from cli.keys import OUTPUTS
from cli.results import JSON, print_result
from recipes.core.config import registry
from recipes.core.errors import UserError
from recipes.core.storage import hub
from recipes.core.storage.files import home_path
from recipes.core.storage.places import run_of

if TYPE_CHECKING:
    from recipes.core.runs.records import RunRecord
    from recipes.core.runs.task_scores import TaskEvaluation


def evaluate(
    target: str = typer.Argument(
        metavar="RUN_FOLDER|RECIPE|MODEL",
        help="A run, a recipe's newest finished run, or a model: its folder or hub name.",
        autocompletion=completion.recipes,
    ),
    tasks: str = typer.Option(metavar="A,B", help="Tasks of lm-eval, or of --include-path."),
    limit: int = typer.Option(None, "--limit", min=1, metavar="N", help="Only the first N examples of each task."),
    include_path: Path = typer.Option(None, "--include-path", metavar="FOLDER", help="A folder of more tasks (YAML)."),
    batch_size: int = typer.Option(8, "--batch-size", min=1, help="Requests of a forward."),
    few_shot: int = typer.Option(None, "--few-shot", min=0, metavar="N", help="Examples with answers before each."),
    device: str = typer.Option("", "--device", metavar="cpu|cuda", help="Where; the GPU if there is one."),
    outputs: Path = OUTPUTS,
    as_json: bool = JSON,
) -> None:
    """Ask a language model the tasks of lm-eval.

    The scores of a run stand in `evaluate/` of its folder, and on its page.
    """
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names or device not in ("", "cpu", "cuda"):
        where, hint = ("--tasks", "type --tasks A,B") if not names else (f"--device {device}", "type cpu or cuda")
        raise UserError("is not known" if names else "names no task", where, hint)
    is_run = target in registry.recipe_names() or run_of(home_path(target)) is not None
    if not is_run:
        _check_model(target)
    run = run_at(target, outputs) if is_run else None
    from recipes.core.export import evaluate as tasks_of_lm_eval
    from recipes.core.export.folder import check_trains

    if run:
        check_trains(run)
    include = home_path(include_path) if include_path else None
    settings = tasks_of_lm_eval.Settings(limit, few_shot, include, batch_size, device)
    path = str(run.path) if run else target
    tasks_of_lm_eval.check_library()
    tasks_of_lm_eval.check_model(path)
    manager = tasks_of_lm_eval.check_tasks(names, settings)
    evaluation = tasks_of_lm_eval.evaluate(path, names, settings, manager)
    file = _write(run, evaluation) if run else None
    if as_json:
        print_result("evaluate", {"model": target, "file": str(file) if file else None} | asdict(evaluation))
    else:
        _show(evaluation, run, file)


def _check_model(target: str) -> None:
    """Refuse at once what can be no model. Raises UserError."""
    path, hint = home_path(target), "give the folder of a run or of a model, a recipe, or a hub name"
    if not path.exists() and not hub.is_name(target):
        raise UserError("there is no such folder, and it is no hub name", target, hint)
    if path.exists() and not (path / "config.json").exists():
        raise UserError("is neither a run nor a model: it holds no config.json", target, hint)


def _write(run: "RunRecord", evaluation: "TaskEvaluation") -> Path:
    """Write the scores into the run's folder, and its page again."""
    from recipes.core.report.run import report_run
    from recipes.core.runs.records import outputs_of
    from recipes.core.runs.task_scores import write_evaluation
    from recipes.core.statistics.claims import baseline_of, card_of

    file = write_evaluation(run.path, evaluation)
    card = card_of(run)
    report_run(run, baseline_of(run, card, outputs_of(run), warn=False), card)
    return file


def _show(evaluation: "TaskEvaluation", run: "RunRecord | None", file: Path | None) -> None:
    from recipes.core.statistics.texts import number_text

    rows = [
        {
            "task": score.task,
            "metric": score.metric,
            "value": number_text(score.value),
            "+-": "" if score.error is None else number_text(score.error),
            "examples": "" if score.examples is None else f"{score.examples:,}",
            "shots": "" if score.few_shot is None else str(score.few_shot),
        }
        for score in evaluation.scores
    ]
    table(rows, ["task", "metric", "value", "+-", "examples", "shots"], ["value", "+-", "examples", "shots"])
    if run and file:
        say()
        pairs([("scores", str(file)), ("report", str(run.path / "report.html"))])
