"""The folder of a run's model, `hf/` in the run and copies of it elsewhere: weights, tokenizer, card and manifest.

It is whole or absent. The manifest says which run it is of, and holds size and SHA-256 of every file but the card,
which is written again when more is known.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from recipes.core.errors import RunFailed, SteelyardError, UserError
from recipes.core.export.card import CARD, Answer, base_of, write_card
from recipes.core.messages import note
from recipes.core.models.hf_folder import holds_model, write_model
from recipes.core.models.run_models import check_done, final_checkpoint, folder_problem
from recipes.core.runs.folder import AGAIN, RunFolder
from recipes.core.runs.records import RunRecord, load_run
from recipes.core.storage import fence
from recipes.core.storage.checksums import checksums, files_below
from recipes.core.storage.disk import is_full, make_folder, raising_disk_full
from recipes.core.storage.files import publish_folder, read_json, write_json, write_text
from recipes.core.storage.locks import hold
from recipes.core.storage.model_files import first_line
from recipes.core.storage.places import ADAPTER, HF, is_run
from recipes.core.storage.seals import MANIFESTS

MANIFEST, VERSION = MANIFESTS[HF], 1


class NotWritten(RunFailed):
    """The libraries cannot write a model, though it was trained and measured."""


def write_in_run(run: RunFolder, steps: int) -> None:
    """Write `hf/` of a run that has just been measured; nothing if what it trained is no model of a library.

    What the libraries cannot write is reported, and takes nothing from what the run has measured.

    Args:
        run: Its folder, which this process holds.
        steps: That it trained.

    Raises:
        RunFailed: the disk is full.
    """
    checkpoint = run.checkpoints / f"checkpoint-{steps}"
    if not holds_model(checkpoint):
        return
    try:
        _publish(load_run(run.path), run.path / HF, lambda staging: write_model(checkpoint, staging), None)
    except NotWritten as error:
        note(f"warning: {error}")


def write_evaluated(run: RunFolder, write: Callable[[Path], None]) -> None:
    """Write `hf/` of a run that has just been measured, and that leaves another model than it trained, if any.

    Errors are those of `write_in_run`.

    Args:
        run: Its folder, which this process holds.
        write: Writes the model into an empty folder.
    """
    try:
        _publish(load_run(run.path), run.path / HF, write, None)
    except NotWritten as error:
        note(f"warning: {error}")


def export_in_run(run: RunRecord, answer: Answer | None) -> Path:
    """The `hf/` of a finished run with a card as of now, made from the final checkpoint if the run has none.

    Args:
        run: The run.
        answer: That of the trial it is part of.

    Raises:
        UserError: it is not finished, damaged, or has trained no model of a library; another process works on it.
    """
    source = _source(run)
    with hold(RunFolder(run.path).lock, f"run folder {run.path}", wait=False):
        if source == run.path / HF:
            write_card(run, source, answer)
        else:
            _publish(run, run.path / HF, lambda staging: write_model(source, staging), answer)
    return run.path / HF


def export_to(run: RunRecord, target: Path, answer: Answer | None) -> Path:
    """A copy of a finished run's model in another folder, whole or not at all.

    Args:
        run: The run.
        target: A folder that is empty, absent, or holds an export of the same run as it was written, and nothing else.
        answer: That of the trial the run is part of.

    Raises:
        UserError: as for `export_in_run`; or the folder is another.
        RunFailed: the disk is full.
    """
    target = Path(os.path.realpath(target))
    _check_target(run, target)
    source = _source(run)

    def fill(staging: Path) -> None:
        if source == run.path / HF:
            shutil.copytree(source, staging, dirs_exist_ok=True)
        else:
            write_model(source, staging)

    make_folder(target.parent)
    _publish(run, target, fill, answer)
    return target


def check_trains(run: RunRecord) -> None:
    """Refuse a run that has no model of its own: it trains none, and leaves none. Raises UserError."""
    if RunFolder(run.path).status().get("max_steps") == 0 and not (run.path / HF).exists():
        if run.config.get("save_model") is False:
            hint = "type its command with save_model=true; an arm that keeps the old model leaves none"
            raise UserError("the run left no model, as save_model is false", str(run.path), hint)
        raise UserError(f"a run of {run.recipe} like this one trains no model: it has none", str(run.path))


def _source(run: RunRecord) -> Path:
    """The intact `hf/` of a finished run, or its final checkpoint if the run has none.

    Raises:
        UserError: it is not finished, damaged, or has trained no model of a library.
    """
    where = str(run.path)
    check_trains(run)
    if (run.path / HF).exists():
        check_done(run.path, where, AGAIN)
        if problem := folder_problem(run.path / HF):
            raise UserError(f"the run is damaged: {HF}/{problem}", where, AGAIN)
        return run.path / HF
    checkpoint = final_checkpoint(run.path, where, AGAIN)
    if not holds_model(checkpoint):
        chosen = [f"{group}={run.config[group]['name']}" for group in ("data", "model") if _has_name(run, group)]
        what = f"this run of {run.recipe} with {' and '.join(chosen)} left no model that from_pretrained loads"
        hint = f"its weights, as the recipe's code names them, lie in {checkpoint}"
        raise UserError(what, where, f"{hint};\nif an older version finished it, type its command with --fresh")
    return checkpoint


def _has_name(run: RunRecord, group: str) -> bool:
    return isinstance(run.config.get(group), dict) and "name" in run.config[group]


def _check_target(run: RunRecord, target: Path) -> None:
    """Refuse a folder in which anything would be lost."""
    where = f"--to {target}"
    if target.is_relative_to(run.path.resolve()):
        raise UserError(
            "lies in the run's folder, which is sealed", where, "give a folder elsewhere, or leave out --to"
        )
    if other := next((parent for parent in (target, *target.parents) if is_run(parent)), None):
        raise UserError(f"lies in another run's folder, {other}, which is sealed", where, "give a folder elsewhere")
    if other := next((parent for parent in target.parents if (parent / MANIFEST).exists()), None):
        raise UserError(f"lies in another export, {other}", where, "give a folder beside it")
    if not target.exists():
        return
    if not target.is_dir():
        raise UserError("is a file", where, "give a folder that is empty, or a new one")
    names = {path.relative_to(target).as_posix() for path in files_below(target)}
    try:
        manifest = read_json(target / MANIFEST)
    except (OSError, UserError):
        manifest = {}
    if manifest.get("run") != name_of(run):
        names |= {path.name for path in target.iterdir()}
        what = f"holds the export of {manifest['run']}" if manifest.get("run") else "is not empty"
    else:
        names -= {*manifest.get("files", ()), MANIFEST, CARD}
        what = f"holds {min(names, default='')}, which no export wrote"
        if not names and (problem := folder_problem(target)):
            names, what = {problem}, f"was changed since it was exported: {problem}"
    if names:
        raise UserError(what, where, "give a folder that is empty, or a new one")


def name_of(run: RunRecord) -> str:
    """What a run is called wherever it lies: RECIPE/ARM/HASH-sSEED."""
    return f"{run.recipe}/{run.arm}/{Path(os.path.abspath(run.path)).name}"


def _publish(run: RunRecord, target: Path, fill: Callable[[Path], None], answer: Answer | None) -> None:
    """Fill a folder beside the target, add manifest and card, and put it in the target's place."""
    fence.check(target)
    staging = target.with_name(f".staging-{target.name}")
    shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed
    with raising_disk_full(target):
        try:
            staging.mkdir()
            _fill(staging, fill, run)
            files = [path for path in files_below(staging) if path.name not in (MANIFEST, CARD)]
            tree = {"version": VERSION, "run": name_of(run), "files": checksums(staging, files)}
            write_json(staging / MANIFEST, tree)
            write_card(run, staging, answer)
            publish_folder(staging, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _fill(staging: Path, fill: Callable[[Path], None], run: RunRecord) -> None:
    try:
        fill(staging)
    except (SteelyardError, OSError):
        raise
    except Exception as error:  # of libraries, about a model of any kind
        if is_full(error, staging):
            raise
        what = f"the model cannot be written as transformers takes it: {first_line(error)}"
        hint = f"its weights, as the recipe's code names them, lie in {run.path / 'checkpoints'}"
        raise NotWritten(what, str(run.path), hint) from error
    name, config = base_of(run).hub_name, staging / ADAPTER / "adapter_config.json"
    if name and config.exists():
        write_text(config, json.dumps(read_json(config) | {"base_model_name_or_path": name}, indent=2, sort_keys=True))
