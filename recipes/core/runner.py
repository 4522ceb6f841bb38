"""One run: what it would be, and done, finished or reused. Imports no torch before there is work to do."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.core.config.flops import flops_text
from recipes.core.config.settings import RunConfig, TrainerConfig
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.preflight import check_input, check_machine
from recipes.core.process.launchers import without_launchers
from recipes.core.process.members import member_of, starts_again
from recipes.core.process.signals import sigterm_as_interrupt
from recipes.core.process.streams import silence
from recipes.core.runs.folder import DONE, INTERRUPTED, RunFolder, run_folder
from recipes.core.runs.identity import Identity, identify
from recipes.core.runs.records import RunRecord, load_run
from recipes.core.statistics.claims import baseline_of, card_of
from recipes.core.statistics.compare import compare_beside
from recipes.core.statistics.outcome import RunOutcome
from recipes.core.storage.locks import hold
from recipes.core.training.needs import check_memory, needs

if TYPE_CHECKING:
    from recipes.core.training.parallel.group import Group

__all__ = ["RunOutcome", "check", "dry_run", "needs", "run"]


def run(config: RunConfig, fresh: bool, command: str, wait: bool = False, page: bool = True) -> RunOutcome:
    """Do one run, or finish or reuse what its folder holds.

    Args:
        config: The checked config.
        fresh: Throw away what the folder holds and start anew; a job that is started again goes on instead.
        command: What the user typed, for the report.
        wait: Wait for another process that owns the folder, rather than refuse; so does a job that is started again,
            whose earlier start may have been killed on a machine that this one cannot see.
        page: Draw the run's page beside its baseline; cells of trials get theirs when somebody asks.

    Raises:
        UserError: wrong input or data, or another process owns the folder; nothing half-written stays.
        RunFailed: the run itself failed; `status.json` says how, the last good checkpoint stays.
    """
    _check_nodes(config)
    member = member_of(config.trainer.nodes, config.trainer.nproc, os.environ) if config.steps else None
    if starts_again(os.environ):
        if fresh and (member is None or member.rank == 0):
            note("this job was started again: --fresh held for its first start, and the run goes on")
        fresh, wait = False, True
    if member is None:
        return _run(config, identify(config), fresh, command, wait, page, None)
    # torch tells of every lost connection with a page of its own calls; what was lost is said by us.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from recipes.core.training.parallel.group import joined

    if member.rank:
        silence(*((1,) if member.first_on_machine else (1, 2)))
    with without_launchers(), sigterm_as_interrupt(), joined(member) as group:
        identity = identify(config)
        group.meet(identity.hash)
        if member.rank:
            return _run_along(config, group)
        outcome = _run(config, identity, fresh, command, wait, page, group)
        group.tell(group.END, {"status": outcome.status, "folder": str(outcome.folder.absolute())})
        return outcome


def _run(
    config: RunConfig, identity: Identity, fresh: bool, command: str, wait: bool, page: bool, group: "Group | None"
) -> RunOutcome:
    """`run` in a process that is alone, or the first of several that a launcher started."""
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
            if group:
                group.share_folder(folder.path, folder.lock)
            from recipes.core import execution

            return execution.work(config, identity, folder, command, page, group)
        except UserError:
            if new and not folder.checkpoints.exists():
                folder.clear()
            raise
    raise AssertionError("unreachable")


def _run_along(config: RunConfig, group: "Group") -> RunOutcome:
    """`run` in a process that is not the first of those that a launcher started: it writes and says nothing."""
    check(config)
    if place := group.listen(group.PLACE):
        group.look_at_folder(place)
        if group.listen(group.PREPARED):
            from recipes.core import execution

            execution.work_along(config, RunFolder(Path(place["folder"])), group)
    end = group.listen(group.END)
    folder = Path(end["folder"])
    if end["status"] == INTERRUPTED:
        return RunOutcome(folder, INTERRUPTED, {}, False, 0)
    run = load_run(folder)
    return RunOutcome(folder, DONE, run.metrics, False, 0, run, card_of(run))


def check(config: RunConfig, here: bool = True) -> None:
    """Refuse a run that cannot be, as far as its config and small files show.

    Args:
        config: The checked config.
        here: Whether it will run on this machine.

    Raises:
        UserError: the machine lacks what it needs, its recipe breaks the contract, its questions cannot be asked.
    """
    _check_nodes(config)
    if here:
        check_memory(config, check_machine(config))
    check_input(config)


def _check_nodes(config: RunConfig) -> None:
    if config.trainer.nodes > 1 and not config.steps:
        raise UserError("nothing is trained in this run", f"trainer.nodes={config.trainer.nodes}", "leave it out")


def dry_run(config: RunConfig) -> list[tuple[str, str]]:
    """What a run would do, as rows of (what, value). Loads no weights and writes nothing."""
    _check_nodes(config)
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
    if trainer.processes == 1:
        return f"1: {each}"
    where = f" on each of {trainer.nodes} machines" if trainer.nodes > 1 else ""
    return f"{trainer.nproc}{where} ({trainer.parallel}), each: {each}"


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
