"""One run from its checked config to its finished folder: prepare, build, train, evaluate, report."""

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recipes.core.config import compose, registry
from recipes.core.config.settings import RunConfig, TrainerConfig
from recipes.core.errors import UserError
from recipes.core.evaluation.plots import write_plots
from recipes.core.evaluation.scores import Scores, read_rows
from recipes.core.evaluation.strips import write_strips
from recipes.core.process.launchers import without_launchers
from recipes.core.process.signals import terminated_like_interrupted
from recipes.core.recipe import Evaluation, Recipe
from recipes.core.report.plots import png
from recipes.core.report.run import report_run
from recipes.core.report.strips import run_wall, wall_png
from recipes.core.runs import checkpoints
from recipes.core.runs import folder as runs
from recipes.core.runs.checkpoints import KEEP
from recipes.core.runs.folder import DONE, FAILED, INTERRUPTED, RunFolder, run_folder
from recipes.core.runs.identity import Identity, check_unchanged, identify, read_content
from recipes.core.runs.progress import quiet_libraries, stage
from recipes.core.runs.records import load_run
from recipes.core.runs.tracking import NullTracker, Tracker, open_tracker
from recipes.core.statistics.claims import card_of
from recipes.core.statistics.compare import compare_runs, comparison_table
from recipes.core.storage.disk import nothing_begun
from recipes.core.storage.fence import LockLost
from recipes.core.storage.files import write_bytes, write_json
from recipes.core.storage.locks import owned
from recipes.core.training.parallel import distributed
from recipes.core.training.parallel.launch import run_workers
from recipes.core.training.seeds import seed_everything
from recipes.core.training.trainer import TrainEvents, Training, TrainResult, resolve_device, train


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended. `reused` runs were finished before; `baseline` is the folder it was compared with."""

    folder: Path
    status: str
    metrics: dict[str, float]
    reused: bool
    resumed_from: int
    baseline: Path | None


def run(config: RunConfig, fresh: bool, command: str, wait: bool = False) -> RunOutcome:
    """Do one run, or finish or reuse what its folder holds.

    Args:
        config: The checked config.
        fresh: Throw away what the folder holds and start anew.
        command: What the user typed, for the report.
        wait: Wait for another process that owns the folder, rather than refuse.

    Raises:
        UserError: wrong input or data, or another process owns the folder; nothing half-written stays.
        RunFailed: the run itself failed; `status.json` says how, the last good checkpoint stays.
    """
    device = resolve_device(config.trainer)
    identity = identify(config)
    folder = run_folder(config, identity)
    new = not (folder.path / "status.json").exists()
    with without_launchers(), terminated_like_interrupted(), owned(folder.lock, f"run folder {folder.path}", wait=wait):
        if fresh:
            folder.clear()
        elif damage := folder.damage():
            raise UserError(
                f"this run was finished before, and is damaged: {damage}",
                where=str(folder.path),
                hint="type the same command with --fresh: it does the run again",
            )
        elif folder.status().get("state") == DONE:
            return _reused(config, folder)
        try:
            return _work(config, identity, folder, device, command)
        except UserError:
            if new and not folder.checkpoints.exists():
                folder.clear()
            raise
    raise AssertionError("unreachable")


def dry_run(config: RunConfig) -> list[tuple[str, str]]:
    """What a run would do, as rows of (what, value). Loads no weights and writes nothing."""
    folder = run_folder(config)
    status = folder.status()
    state = status.get("state")
    if damage := folder.damage():
        plan = f"finished before and damaged: {damage} (--fresh starts anew)"
    elif state == DONE:
        plan = "finished before: would be reused (--fresh starts anew)"
    elif state:
        plan = f"{state} at step {status.get('step', 0)}: would resume from its last checkpoint"
    else:
        plan = "new"
    trainer = config.trainer
    rows = [
        ("run folder", str(folder.path)),
        ("state", plan),
        ("device", resolve_device(trainer)),
    ]
    if steps := steps_of(config):
        rows += [("steps", f"{steps} x {trainer.batch_size} sequences"), ("processes", _processes(trainer))]
    recipe: Recipe = registry.recipe_class(config.recipe)()
    return rows + recipe.describe(config) + needs(config)


def steps_of(config: RunConfig) -> int:
    """Optimizer steps of a run; 0 where its recipe trains nothing, whatever `trainer.max_steps` says."""
    recipe: Recipe = registry.recipe_class(config.recipe)()
    return 0 if recipe.parameters(config) == 0 else config.trainer.max_steps


def needs(config: RunConfig, runs: int = 1) -> list[tuple[str, str]]:
    """Rows for `--dry-run`: parameters, memory of a process and disk of all `runs`, as far as they can be estimated."""
    recipe: Recipe = registry.recipe_class(config.recipe)()
    parameters = recipe.parameters(config)
    if parameters is None:
        return [("parameters", "known when the checkpoint is loaded")]
    if not parameters:
        return [("parameters", "0: nothing is trained")]
    trainer = config.trainer
    sharing = trainer.nproc if trainer.parallel == "fsdp" else 1
    # In fp32: weights, gradients and two AdamW moments; a checkpoint has no gradients.
    memory, disk = 16 * parameters / sharing, 12 * parameters * KEEP * runs
    return [
        ("parameters", f"{parameters:,}"),
        ("memory", f"about {memory / 2**20:,.0f} MiB for weights, gradients and optimizer, plus activations"),
        ("disk", f"about {disk / 2**20:,.0f} MiB for the last {KEEP} checkpoints{' of each cell' * (runs > 1)}"),
    ]


def _processes(trainer: TrainerConfig) -> str:
    size, threads = trainer.process_batch_size, trainer.process_threads
    each = f"{size} sequences a step, {trainer.micro_batch_size or size} a forward, {threads} CPU thread"
    each += "s" if threads > 1 else ""
    return f"1: {each}" if trainer.nproc == 1 else f"{trainer.nproc} ({trainer.parallel}), each: {each}"


def _reused(config: RunConfig, folder: RunFolder) -> RunOutcome:
    metrics = folder.read_metrics("final")[-1][1]
    return RunOutcome(folder.path, DONE, metrics, True, 0, _report(config, folder))


def _work(config: RunConfig, identity: Identity, folder: RunFolder, device: str, command: str) -> RunOutcome:
    quiet_libraries()
    environment = seed_everything(config.seed, config.trainer.threads) | {"device": device}
    if device == "cuda":
        environment["gpu"] = torch.cuda.get_device_name()
    recipe: Recipe = registry.recipe_class(config.recipe)()
    with nothing_begun():
        prepared = recipe.prepare(config, device)
    nproc, threads = config.trainer.nproc, config.trainer.process_threads
    environment |= {"threads": threads, "nproc": nproc}
    runs.start(folder, config, identity, command, environment, steps_of(config))
    if nproc == 1:
        return _train_and_evaluate(config, folder, recipe, prepared)
    # The processes find in the cache what was just prepared, and need the memory.
    del prepared
    torch.cuda.empty_cache()
    with _ending_recorded(folder):
        ended = run_workers(folder.path, nproc, "recipes.core.worker")
    baseline = Path(ended["baseline"]) if ended["baseline"] else None
    return RunOutcome(folder.path, ended["status"], ended["metrics"], False, ended["resumed_from"], baseline)


def work_together(config: RunConfig, folder: RunFolder, device: str) -> dict[str, Any] | None:
    """The part of one process in a run that was prepared before; the first writes, the others keep it company.

    Returns:
        For the first process status, metrics, resumed_from and baseline of `RunOutcome`; None for the others.
    """
    recipe: Recipe = registry.recipe_class(config.recipe)()
    prepared = recipe.prepare(config, device)
    if distributed.is_first():
        outcome = _train_and_evaluate(config, folder, recipe, prepared)
        baseline = str(outcome.baseline) if outcome.baseline else None
        return dataclasses.asdict(outcome) | {"folder": str(folder.path), "baseline": baseline}
    training = recipe.build(config, prepared)
    if training is not None:
        train(training, config.trainer, config.seed, folder.path, _Watching(recipe, config, prepared, training))
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


def _train_and_evaluate(config: RunConfig, folder: RunFolder, recipe: Recipe, prepared: Any) -> RunOutcome:
    name = f"{config.recipe}/{config.variant}/{folder.path.name}"
    tracker = open_tracker(config.tracker, folder.path, name, config.recipe, compose.to_tree(config))
    success = False
    try:
        with _ending_recorded(folder):
            training = recipe.build(config, prepared)
            result = TrainResult(DONE, 0, 0)
            if training is not None:
                events = _Writing(folder, tracker, recipe, config, prepared, training)
                result = train(training, config.trainer, config.seed, folder.path, events)
            folder.update_status(step=result.steps, resumed_from=result.resumed_from)
            if result.status == INTERRUPTED:
                folder.update_status(state=INTERRUPTED, finished=runs.now())
                return RunOutcome(folder.path, INTERRUPTED, {}, False, result.resumed_from, None)
            evaluation = _evaluate(config, folder, recipe, prepared, training.model if training else None)
            check_unchanged(config, read_content(folder.path))
            folder.finish()
            baseline = _report(config, folder)
            _track(tracker, folder, evaluation, baseline)
            success = True
            return RunOutcome(folder.path, DONE, evaluation.metrics, False, result.resumed_from, baseline)
    finally:
        tracker.finish(success)


class _Watching(TrainEvents):
    """Measures the model in training. Every process does: if one were ahead, it would wait and might give up."""

    def __init__(self, recipe: Recipe, config: RunConfig, prepared: Any, training: Training) -> None:
        self.recipe, self.config, self.prepared, self.training = recipe, config, prepared, training

    def on_step_end(self, step: int, model: nn.Module) -> None:
        if step not in self.training.watch_steps:
            return
        began = time.perf_counter()
        scores = self.recipe.watch(self.config, self.prepared, model)
        self.on_scores(step, scores, time.perf_counter() - began)

    def on_scores(self, step: int, scores: Scores, seconds: float) -> None:
        """The model was measured after a step, which took `seconds`."""


class _Writing(_Watching):
    """What happens around training: metrics go to the run folder and the tracker, measurements fill the curves."""

    def __init__(
        self, folder: RunFolder, tracker: Tracker, recipe: Recipe, config: RunConfig, prepared: Any, training: Training
    ) -> None:
        super().__init__(recipe, config, prepared, training)
        self.folder, self.tracker = folder, tracker

    def on_start(self, step: int) -> None:
        checkpoints.cut_back(self.folder.path, step)
        self.folder.update_status(step=step, resumed_from=step)

    def on_metrics(self, step: int, metrics: dict[str, float], seconds: float) -> None:
        self.folder.log(step, "train", metrics, seconds)
        self.folder.update_status(step=step)
        self.tracker.log(step, {f"train/{name}": value for name, value in metrics.items()})

    def on_scores(self, step: int, scores: Scores, seconds: float) -> None:
        scores.write_rows(self.folder.curve(step))
        metrics = scores.overall()
        self.folder.log(step, "eval", metrics, seconds)
        self.tracker.log(step, metrics)


def _evaluate(
    config: RunConfig, folder: RunFolder, recipe: Recipe, prepared: Any, model: nn.Module | None
) -> Evaluation:
    began = time.perf_counter()
    curve = {step: read_rows(folder.curve(step)) for step, _ in folder.read_metrics("eval")}
    with stage("evaluating"):
        evaluation = recipe.evaluate(config, prepared, model, curve)
    evaluation.scores.write(folder.path)
    if evaluation.heatmap:
        write_json(folder.path / "heatmap.json", evaluation.heatmap)
    if evaluation.plots:
        write_plots(folder.path, evaluation.plots)
    if evaluation.strips:
        write_strips(folder.path, evaluation.strips)
    for name, write in evaluation.files.items():
        write(folder.path / name)
    folder.log(steps_of(config), "final", evaluation.metrics, time.perf_counter() - began)
    return evaluation


def _report(config: RunConfig, folder: RunFolder) -> Path | None:
    """Write the report, beside the baseline's run if that is finished; returns the baseline's folder."""
    with stage("writing the report"):
        return report_run(folder.path, Path(config.outputs), card_of(load_run(folder.path)))


def _track(tracker: Tracker, folder: RunFolder, evaluation: Evaluation, baseline: Path | None) -> None:
    if isinstance(tracker, NullTracker):
        return
    tracker.summary(evaluation.metrics)
    if (folder.path / "report.png").exists():  # of a run that has anything to draw
        tracker.image("report", folder.path / "report.png")
    for plot in evaluation.plots:
        write_bytes(folder.path / "plots" / f"{plot.name}.png", png(plot))
        tracker.image(plot.title, folder.path / "plots" / f"{plot.name}.png")
    if wall := run_wall(folder.path):
        write_bytes(folder.path / "plots" / "strips.png", wall_png(wall))
        tracker.image("examples", folder.path / "plots" / "strips.png")
    if evaluation.heatmap:
        tracker.heatmap("token weights", evaluation.heatmap)
    if baseline:
        run, other = load_run(folder.path), load_run(baseline)
        card = card_of(run)
        rows = comparison_table(compare_runs(run, other, arm_keys=set(card.pair_keys), main_metric=card.claim.metric))
        tracker.table(f"beside {other.arm}", list(rows[0]), [list(row.values()) for row in rows])
