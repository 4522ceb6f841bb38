"""`steelyard evaluate`: a language model in benchmarks of lm-evaluation-harness."""

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
from recipes.core.storage.files import home_path
from recipes.core.storage.places import run_of

if TYPE_CHECKING:
    from recipes.core.runs.benchmarks import Benchmark
    from recipes.core.runs.records import RunRecord


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

    The marks of a run stand in `evaluate/` of its folder, and on its page.
    """
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names or device not in ("", "cpu", "cuda"):
        where, hint = ("--tasks", "type --tasks A,B") if not names else (f"--device {device}", "type cpu or cuda")
        raise UserError("is not known" if names else "names no task", where, hint)
    is_run = target in registry.recipe_names() or run_of(home_path(target)) is not None
    run = run_at(target, outputs) if is_run else None
    from recipes.core.export import evaluate as benchmarks

    settings = benchmarks.Settings(
        limit, few_shot, home_path(include_path) if include_path else None, batch_size, device
    )
    path = str(run.path) if run else target
    benchmarks.check_library()
    benchmarks.check_model(path)
    benchmark = benchmarks.evaluate(path, names, settings, benchmarks.check_tasks(names, settings))
    file = _keep(run, names, benchmark) if run else None
    if as_json:
        print_result("evaluate", {"model": target, "file": str(file) if file else None} | asdict(benchmark))
    else:
        _show(benchmark, run, file)


def _keep(run: "RunRecord", tasks: list[str], benchmark: "Benchmark") -> Path:
    """Write the marks into the run's folder, and its page again."""
    from recipes.core.report.run import report_run
    from recipes.core.runs.benchmarks import file_name, write_benchmark
    from recipes.core.statistics.claims import baseline_of, card_of

    used = benchmark.settings
    file = write_benchmark(run.path, file_name(tasks, used["few_shot"], used["limit"]), benchmark)
    card = card_of(run)
    report_run(run, baseline_of(run, card, run.path.absolute().parents[2], warn=False), card)
    return file


def _show(benchmark: "Benchmark", run: "RunRecord | None", file: Path | None) -> None:
    from recipes.core.statistics.texts import number_text

    rows = [
        {
            "task": mark.task,
            "metric": mark.metric,
            "value": number_text(mark.value),
            "+-": "" if mark.error is None else number_text(mark.error),
            "examples": "" if mark.examples is None else f"{mark.examples:,}",
            "shots": "" if mark.few_shot is None else str(mark.few_shot),
        }
        for mark in benchmark.marks
    ]
    table(rows, ["task", "metric", "value", "+-", "examples", "shots"], ["value", "+-", "examples", "shots"])
    if run and file:
        say()
        pairs([("marks", str(file)), ("report", str(run.path / "report.html"))])
