"""One run: what it would be, and done, finished or reused. Imports no torch before there is work to do."""

from pathlib import Path

from recipes.core.config.flops import flops_text
from recipes.core.config.settings import RunConfig, TrainerConfig
from recipes.core.errors import UserError
from recipes.core.preflight import check_input, check_machine
from recipes.core.process.launchers import without_launchers
from recipes.core.process.signals import sigterm_as_interrupt
from recipes.core.runs.folder import DONE, RunFolder, run_folder
from recipes.core.runs.identity import identify
from recipes.core.runs.records import RunRecord, load_run
from recipes.core.statistics.claims import baseline_of, card_of
from recipes.core.statistics.compare import compare_beside
from recipes.core.statistics.outcome import RunOutcome
from recipes.core.storage.locks import hold
from recipes.core.training.needs import check_memory, needs

__all__ = ["RunOutcome", "check", "dry_run", "needs", "run"]


def run(config: RunConfig, fresh: bool, command: str, wait: bool = False, page: bool = True) -> RunOutcome:
    """Do one run, or finish or reuse what its folder holds.

    Args:
        config: The checked config.
        fresh: Throw away what the folder holds and start anew.
        command: What the user typed, for the report.
        wait: Wait for another process that owns the folder, rather than refuse.
        page: Draw the run's page beside its baseline; cells of trials get theirs when somebody asks.

    Raises:
        UserError: wrong input or data, or another process owns the folder; nothing half-written stays.
        RunFailed: the run itself failed; `status.json` says how, the last good checkpoint stays.
    """
    identity = identify(config)
    folder = run_folder(config, identity)
    new = not (folder.path / "status.json").exists()
    if fresh or folder.status().get("state") != DONE:
        check(config)  # what it lacks is refused before anything is cleared
    with without_launchers(), sigterm_as_interrupt(), hold(folder.lock, f"run folder {folder.path}", wait=wait):
        if fresh:
            folder.clear()
        elif damage := folder.damage():
            raise UserError(
                f"this run was finished before, and is damaged: {damage}",
                where=str(folder.path),
                hint="type the same command with --fresh: it does the run again",
            )
        elif folder.status().get("state") == DONE:
            return _reuse(config, folder, page)
        try:
            from recipes.core import execution

            return execution.work(config, identity, folder, command, page)
        except UserError:
            if new and not folder.checkpoints.exists():
                folder.clear()
            raise
    raise AssertionError("unreachable")


def check(config: RunConfig, here: bool = True) -> None:
    """Refuse a run that cannot be, as far as its config and small files show.

    Args:
        config: The checked config.
        here: Whether it will run on this machine.

    Raises:
        UserError: the machine lacks what it needs, its recipe breaks the contract, its questions cannot be asked.
    """
    if here:
        check_memory(config, check_machine(config))
    check_input(config)


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
        saved = any(folder.checkpoints.glob("checkpoint-*"))
        again = "resume from its last checkpoint" if saved else "begin again, as no checkpoint was saved"
        plan = f"{state} at step {status.get('step', 0)}: would {again}"
    else:
        plan = "new"
    trainer, device = config.trainer, check_machine(config)
    check_input(config)
    rows = [
        ("run folder", str(folder.path)),
        ("state", plan),
        ("device", device),
    ]
    if config.steps:
        rows += [("steps", f"{config.steps} x {trainer.batch_size} sequences"), ("processes", _processes(trainer))]
    if text := flops_text(config):
        rows.append(("FLOPs", text))
    return rows + config.describe() + needs(config, device)


def _processes(trainer: TrainerConfig) -> str:
    size, threads = trainer.process_batch_size, trainer.process_threads
    each = f"{size} sequences a step, {trainer.micro_batch_size or size} a forward, {threads} CPU thread"
    each += "s" if threads > 1 else ""
    return f"1: {each}" if trainer.nproc == 1 else f"{trainer.nproc} ({trainer.parallel}), each: {each}"


def _reuse(config: RunConfig, folder: RunFolder, page: bool) -> RunOutcome:
    """A run that was finished before; its page is drawn where it is older than the run or its baseline's."""
    run = load_run(folder.path)
    card = card_of(run)
    baseline = baseline_of(run, card, Path(config.outputs)) if page else None
    if page and not _is_reported(run, baseline):
        from recipes.core.report.run import report_run  # draws, with all that this needs

        comparison = report_run(run, baseline, card)
    else:
        comparison = compare_beside(run, baseline, card) if baseline else None
    return RunOutcome(folder.path, DONE, run.metrics, True, 0, run, card, baseline, comparison)


def _is_reported(run: RunRecord, baseline: RunRecord | None) -> bool:
    """Whether a run has a report that was written after it and its baseline had finished."""
    page = run.path / "report.html"
    others = [one.path / "status.json" for one in (run, baseline) if one]
    return page.exists() and all(page.stat().st_mtime_ns >= other.stat().st_mtime_ns for other in others)
