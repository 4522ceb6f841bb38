"""The work of a run, from its checked config to its finished folder: prepare, build, train, evaluate, report.

Imports torch only for what needs it, so that a run which trains nothing can do without.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from recipes.core.config import compose, registry
from recipes.core.config.settings import Card, RunConfig
from recipes.core.evaluation.cuts import write_cuts
from recipes.core.evaluation.extra_config import questions_path
from recipes.core.evaluation.plots import write_plots
from recipes.core.evaluation.scores import read_rows
from recipes.core.evaluation.strips import write_strips
from recipes.core.recipe import AnswersText, Evaluation, Recipe
from recipes.core.report.plots import png
from recipes.core.report.run import report_run
from recipes.core.report.strips import run_wall, wall_png
from recipes.core.runs import folder as runs
from recipes.core.runs.folder import DONE, FAILED, INTERRUPTED, RunFolder
from recipes.core.runs.identity import Identity, check_unchanged, read_content
from recipes.core.runs.progress import quiet_libraries, stage
from recipes.core.runs.provenance import gpus
from recipes.core.runs.records import RunRecord, load_run
from recipes.core.runs.tracking.opening import open_tracker
from recipes.core.runs.tracking.tracker import NullTracker, Tracked, Tracker
from recipes.core.statistics.claims import baseline_of, card_of
from recipes.core.statistics.compare import Comparison, compare_beside
from recipes.core.statistics.comparison_table import comparison_table
from recipes.core.statistics.outcome import RunOutcome
from recipes.core.storage.disk import nothing_begun
from recipes.core.storage.fence import LockLost
from recipes.core.storage.files import write_bytes, write_json
from recipes.core.training.devices import device_of
from recipes.core.training.seeds import seed_everything

if TYPE_CHECKING:
    from torch import nn

    from recipes.core.evaluation.extra import Question, Questions
    from recipes.core.training.parallel.group import Group

PAGE = "page"  # the word that asks a run's processes for its page


def work(
    config: RunConfig, identity: Identity, folder: RunFolder, command: str, page: bool, group: "Group | None" = None
) -> RunOutcome:
    """Do a run that is not finished, from its last checkpoint; arguments and errors as in `runner.run`.

    `group` are the launching processes of a run that has several, of which this is the first.
    """
    device = device_of(config)
    quiet_libraries(config.needs_torch)
    environment = seed_everything(config.seed, config.trainer.threads, config.needs_torch) | {"device": device}
    if device == "cuda":
        environment |= gpus() | {"deterministic": False}  # as far as there are kernels, see `seed_everything`
    recipe: Recipe = registry.recipe_class(config.recipe)()
    with nothing_begun():
        rows = _load_questions(config)  # those that cannot be used are refused before anything is trained
        prepared = recipe.prepare(config, device)
        questions = _questions(config, recipe, prepared, rows)
    processes = config.trainer.processes if config.needs_torch else 1
    threads = config.trainer.process_threads
    environment |= {"threads": threads, "nproc": config.trainer.nproc if processes > 1 else 1}
    environment |= {"nodes": config.trainer.nodes}
    runs.start(folder, config, identity, command, environment, config.steps)
    # Recorded here alone: a process that lost its partner does not know why, and the launching process may be killed.
    with _ending_recorded(folder):
        if processes == 1:
            return _train_and_evaluate(config, folder, recipe, prepared, page, questions)
        # The processes find in the cache what was just prepared, and need the memory.
        del prepared
        if group:
            group.tell(group.PREPARED, True)
        ended = _run_workers(config, folder, [PAGE] if page else [], group)
    if ended["status"] == INTERRUPTED:
        return RunOutcome(folder.path, INTERRUPTED, {}, False, ended["resumed_from"])
    run = load_run(folder.path)
    card = card_of(run)
    baseline = load_run(Path(ended["baseline"])) if ended["baseline"] else None
    comparison = compare_beside(run, baseline, card) if baseline else None
    return RunOutcome(folder.path, DONE, run.metrics, False, ended["resumed_from"], run, card, baseline, comparison)


def work_along(config: RunConfig, folder: RunFolder, group: "Group") -> None:
    """The part of a launching process that is not the first, in a run which that one has prepared.

    Whatever it needs it finds in the cache, or makes it, where the machines share none.
    """
    device = device_of(config)
    quiet_libraries()
    seed_everything(config.seed, config.trainer.threads)
    registry.recipe_class(config.recipe)().prepare(config, device)
    _run_workers(config, folder, [], group)


def _run_workers(config: RunConfig, folder: RunFolder, words: list[str], group: "Group | None") -> dict[str, Any]:
    import torch

    from recipes.core.training.parallel.launch import run_workers

    torch.cuda.empty_cache()
    return run_workers(folder.path.absolute(), config.trainer.nproc, "recipes.core.worker", *words, group=group)


def work_together(config: RunConfig, folder: RunFolder, device: str, page: bool) -> dict[str, Any] | None:
    """The part of one process in a run that was prepared before; the first writes, the others keep it company.

    Returns:
        For the first process status, resumed_from and the folder of the baseline of `RunOutcome`; None for the others.
    """
    from recipes.core.training.parallel import distributed
    from recipes.core.watching import train_along

    recipe: Recipe = registry.recipe_class(config.recipe)()
    prepared = recipe.prepare(config, device)
    if distributed.is_first():
        questions = _questions(config, recipe, prepared, _load_questions(config))
        outcome = _train_and_evaluate(config, folder, recipe, prepared, page, questions)
        baseline = str(outcome.baseline.path) if outcome.baseline else None
        return {"status": outcome.status, "resumed_from": outcome.resumed_from, "baseline": baseline}
    training = recipe.build(config, prepared)
    if training is not None:
        train_along(config, folder.path, recipe, prepared, training)
    return None


@contextmanager
def _ending_recorded(folder: RunFolder) -> Iterator[None]:
    """Write into `status.json` how the block fails, if it fails."""
    try:
        yield
    except LockLost:
        raise  # the folder is another's now, and so is its status
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            ending = {"state": INTERRUPTED, "error": None}
        else:
            ending = {"state": FAILED, "error": f"{type(error).__name__}: {error}"}
        folder.update_status(**ending, finished=runs.now())
        raise


def _train_and_evaluate(
    config: RunConfig, folder: RunFolder, recipe: Recipe, prepared: Any, page: bool, questions: "Questions | None"
) -> RunOutcome:
    name = f"{config.recipe}/{config.variant}/{folder.path.name}"
    about = compose.to_tree(config)
    tracked = Tracked(config.tracker, folder.path, Path(config.outputs), name, config.recipe, about, config.steps)
    tracker = open_tracker(tracked, config.budget)
    success = False
    try:
        training = recipe.build(config, prepared)
        if questions is not None and training is not None:
            _check_length(questions, recipe, prepared, training.model)
        ended, steps, resumed_from = DONE, 0, 0
        if training is not None:
            from recipes.core.watching import train_and_write

            result = train_and_write(config, folder, recipe, prepared, training, tracker)
            ended, steps, resumed_from = result.status, result.steps, result.resumed_from
        folder.update_status(step=steps, resumed_from=resumed_from)
        if ended == INTERRUPTED:
            folder.update_status(state=INTERRUPTED, finished=runs.now())
            return RunOutcome(folder.path, INTERRUPTED, {}, False, resumed_from)
        model = training.model if training else None
        evaluation = _evaluate(config, folder, recipe, prepared, model, steps, questions)
        check_unchanged(config, read_content(folder.path))
        if evaluation.model is not None:
            _write_evaluated(folder, evaluation.model)
        elif training is not None:
            _write_model(folder, steps)
        folder.finish()
        run = load_run(folder.path)
        card = card_of(run)
        baseline, comparison = _report(config, run, card) if page else (None, None)
        if not isinstance(tracker, NullTracker):
            _track(tracker, evaluation, run, comparison)
        success = True
        read = (run, card, baseline, comparison)
        return RunOutcome(folder.path, DONE, evaluation.metrics, False, resumed_from, *read)
    finally:
        tracker.finish(success)


def _load_questions(config: RunConfig) -> "list[Question] | None":
    """The user's own questions (`evaluation.extra`), None if there are none. Raises UserError of bad rows."""
    path = questions_path(config)
    if path is None:
        return None
    from recipes.core.evaluation.extra import load_questions

    return load_questions(path)


def _questions(config: RunConfig, recipe: Recipe, prepared: Any, rows: "list[Question] | None") -> "Questions | None":
    """Questions as the run's tokenizer reads them; None if there are none.

    Raises:
        UserError: they hold what it does not know, or do not fit the context of a model that is not trained.
    """
    if rows is None:
        return None
    from recipes.core.evaluation.extra import read_questions

    tokenizer = cast(AnswersText, recipe).answering(prepared, None)[1]
    questions = read_questions(str(questions_path(config)), rows, tokenizer)
    _check_length(questions, recipe, prepared, None)
    return questions


def _check_length(questions: "Questions", recipe: Recipe, prepared: Any, model: "nn.Module | None") -> None:
    from recipes.core.evaluation.extra import check_length
    from recipes.core.models.text import context

    reading = cast(AnswersText, recipe).answering(prepared, model)[0]
    room = None if reading is None else context(reading)
    if room is not None:
        check_length(questions, room)


def _evaluate(
    config: RunConfig,
    folder: RunFolder,
    recipe: Recipe,
    prepared: Any,
    model: "nn.Module | None",
    steps: int,
    questions: "Questions | None",
) -> Evaluation:
    began = time.perf_counter()
    curve = {step: read_rows(folder.curve(step)) for step, _ in folder.read_metrics("eval")}
    with stage("evaluating"):
        evaluation = recipe.evaluate(config, prepared, model, curve)
        if questions is not None:
            from recipes.core.evaluation.extra import ask

            answers = ask(questions, cast(AnswersText, recipe).answering(prepared, model)[0], device_of(config))
            evaluation.scores.metrics.update(answers.metrics)
            evaluation.scores.rows.extend(answers.rows)
            evaluation.metrics.update(answers.overall())
    evaluation.scores.write(folder.path)
    if evaluation.heatmap:
        write_json(folder.path / "heatmap.json", evaluation.heatmap)
    if evaluation.plots:
        write_plots(folder.path, evaluation.plots)
    if evaluation.strips:
        write_strips(folder.path, evaluation.strips)
    if evaluation.cuts:
        write_cuts(folder.path, evaluation.cuts)
    for name, write in evaluation.files.items():
        write(folder.path / name)
    folder.log(steps, "final", evaluation.metrics, time.perf_counter() - began)
    return evaluation


def _write_model(folder: RunFolder, steps: int) -> None:
    from recipes.core.export.folder import write_in_run

    with stage("writing the model"):
        write_in_run(folder, steps)


def _write_evaluated(folder: RunFolder, write: Callable[[Path], None]) -> None:
    from recipes.core.export.folder import write_evaluated

    with stage("writing the model"):
        write_evaluated(folder, write)


def _report(config: RunConfig, run: RunRecord, card: Card) -> tuple[RunRecord | None, Comparison | None]:
    """Write the report, beside the baseline's run if that is finished; returns that run and the comparison."""
    with stage("writing the report"):
        baseline = baseline_of(run, card, Path(config.outputs))
        return baseline, report_run(run, baseline, card)


def _track(tracker: Tracker, evaluation: Evaluation, run: RunRecord, comparison: Comparison | None) -> None:
    tracker.summary(evaluation.metrics)
    if (run.path / "report.png").exists():  # of a run that has anything to draw
        tracker.image("report", run.path / "report.png")
    for plot in evaluation.plots:
        write_bytes(run.path / "plots" / f"{plot.name}.png", png(plot))
        tracker.image(plot.title, run.path / "plots" / f"{plot.name}.png")
    if wall := run_wall(run.path):
        write_bytes(run.path / "plots" / "strips.png", wall_png(wall))
        tracker.image("examples", run.path / "plots" / "strips.png")
    if evaluation.heatmap:
        tracker.heatmap("token weights", evaluation.heatmap)
    if comparison:
        rows = comparison_table(comparison)
        tracker.table(f"beside {comparison.baseline}", list(rows[0]), [list(row.values()) for row in rows])
