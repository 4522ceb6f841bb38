"""A language model in tasks of lm-evaluation-harness, read by the same loader as everywhere."""

import io
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from recipes.core.errors import RunFailed, UserError
from recipes.core.runs.task_scores import TaskEvaluation, TaskScore
from recipes.core.spelling import did_you_mean, nearest
from recipes.core.storage.model_files import first_line

EXTRA = "type pip install -e '.[eval]'"
KEY = "model"  # under which the loader speaks of a model
LISTED = 20  # tasks that a message names
CPU_IS_FULL = "DefaultCPUAllocator"  # in the error of torch where the machine has no memory left


@dataclass(frozen=True)
class Settings:
    """How a model is asked.

    Attributes:
        limit: Only so many examples of each task; None: all.
        few_shot: Examples with answers before each; None: as the task says.
        include_path: A folder of more tasks, as YAML; None: those of the library.
        batch_size: Requests of a forward.
        device: "cpu" or "cuda"; empty: the GPU if there is one.
    """

    limit: int | None = None
    few_shot: int | None = None
    include_path: Path | None = None
    batch_size: int = 8
    device: str = ""


def check_library() -> None:
    """Refuse to begin without lm-eval. Raises UserError that names the extra."""
    try:
        import lm_eval.tasks  # noqa: F401
    except ImportError as error:
        raise UserError("the tasks need the package lm-eval", "evaluate", EXTRA) from error


def check_model(path: str) -> None:
    """Refuse what is no language model, before tasks are read or weights loaded.

    Args:
        path: Folder of a model or run, or a hub name.

    Raises:
        UserError: as said.
    """
    from transformers import AutoModelForCausalLM

    from recipes.core.models.sources import check_kind, load_config

    with _about(path):
        check_kind(AutoModelForCausalLM, load_config(path, KEY), path)


def check_tasks(tasks: Sequence[str], settings: Settings) -> Any:
    """The library's list of tasks, which has all that are asked for. Loads no model.

    Raises:
        UserError: there is no such task or folder.
    """
    from lm_eval.tasks import TaskManager

    include = settings.include_path
    if include is not None and not include.is_dir():
        raise UserError("there is no such folder", f"--include-path {include}", "give the folder of the tasks' YAML")
    with _quiet():
        manager = TaskManager(include_path=str(include) if include else None)
    for task in tasks:
        if task not in manager.all_tasks:
            raise UserError("there is no such task", f"--tasks {task}", _nearest(task, manager, include))
    return manager


def evaluate(path: str, tasks: Sequence[str], settings: Settings, manager: Any) -> TaskEvaluation:
    """Ask a model.

    Args:
        path: Folder of a model or run, or a hub name.
        tasks: Names of tasks.
        settings: How.
        manager: From `check_tasks`.

    Raises:
        UserError: it is no language model, or the data of a task cannot be had.
        RunFailed: the evaluation fails, or the device has not enough memory.
    """
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM

    evaluator.get_git_commit_hash = str  # of the working folder; git's complaint that it is no repository would show
    device = _device(settings.device)
    with _quiet():
        items = _load_tasks(tasks, manager)
    model, tokenizer = _load(path)
    with _quiet(), _failing(tasks, settings):
        asked = HFLM(pretrained=model.to(device), tokenizer=tokenizer, batch_size=settings.batch_size, device=device)
        results = evaluator.simple_evaluate(
            model=asked,
            tasks=items,
            num_fewshot=settings.few_shot,
            limit=settings.limit,
            task_manager=manager,
            log_samples=False,
        )
    include = settings.include_path
    used: dict[str, Any] = {"tasks": list(tasks), "limit": settings.limit, "few_shot": settings.few_shot}
    used |= {"include_path": str(include.resolve()) if include else None}
    used |= {"batch_size": settings.batch_size, "device": device, "lm_eval": version("lm_eval")}
    return TaskEvaluation(used, tuple(read_scores(results or {})))


def _load_tasks(tasks: Sequence[str], manager: Any) -> list[Any]:
    """The library's tasks and groups of tasks with their data. Raises UserError where one cannot be had."""
    items: list[Any] = []
    for task in tasks:
        try:
            loaded = manager.load([task])
        except Exception as error:  # of the library, the hub, and the tasks that people bring
            hint = "its data come from the hub unless its YAML names files: without network it must be in the cache"
            raise UserError(f"cannot be loaded: {first_line(error)}", f"--tasks {task}", hint) from error
        group = loaded["groups"].get(task)
        items += loaded["tasks"].values() if group is None else [group]
    return items


@contextmanager
def _failing(tasks: Sequence[str], settings: Settings) -> Iterator[None]:
    """What fails while a model is asked is no fault of what was typed: it becomes a RunFailed that names the error."""
    import torch

    try:
        yield
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or CPU_IS_FULL in str(error):
            where = f"--batch-size {settings.batch_size}"
            raise RunFailed("the device has not enough memory", where, "type a smaller one") from error
        what = f"the evaluation failed: {type(error).__name__}: {first_line(error)}"
        raise RunFailed(what, f"--tasks {','.join(tasks)}", "--debug shows where") from error


def read_scores(results: dict[str, Any]) -> Iterator[TaskScore]:
    """The numbers among the library's results, task by task."""
    for task, entries in results.get("results", {}).items():
        directions = results.get("higher_is_better", {}).get(task, {})
        counts = results.get("n-samples", {}).get(task, {})
        for name, value in entries.items():
            metric, _, kind = name.partition(",")
            if not isinstance(value, int | float) or isinstance(value, bool) or not kind or metric.endswith("_stderr"):
                continue
            error = entries.get(f"{metric}_stderr,{kind}")
            shown = metric if kind == "none" else name
            shots = results.get("n-shot", {}).get(task)
            error = float(error) if isinstance(error, int | float) else None
            yield TaskScore(task, shown, float(value), error, counts.get("effective"), shots, directions.get(metric))


def _load(path: str) -> tuple[Any, Any]:
    from recipes.core.models.causal import load_causal_lm
    from recipes.core.models.sources import load_tokenizer

    with _about(path):
        tokenizer = load_tokenizer(path, KEY)
        return load_causal_lm(path, KEY, tokenizer), tokenizer


@contextmanager
def _about(path: str) -> Iterator[None]:
    """Errors of the loader name the model as it was typed here, where there is no key."""
    try:
        yield
    except UserError as error:
        hint = "give the folder of a run that trained a language model, of any such model, or a hub name"
        raise UserError(error.what, path, hint if f"{KEY}=" in error.hint else error.hint) from error


def _device(typed: str) -> str:
    import torch

    there = torch.cuda.is_available()
    if typed == "cuda" and not there:
        raise UserError("no CUDA device is available", "--device cuda", "type --device cpu")
    return typed or ("cuda" if there else "cpu")


def _nearest(task: str, manager: Any, include: Path | None) -> str:
    near = nearest(task, manager.all_tasks)
    if near is None and include is not None:
        names = [name for name in manager.all_tasks if _is_below(manager.task_index[name], include)]
        return f"{include} has {', '.join(names[:LISTED]) or 'no task'}"
    return did_you_mean(task, manager.all_tasks) if near else "lm_eval ls tasks lists them; --include-path adds yours"


def _is_below(entry: Any, folder: Path) -> bool:
    return entry.yaml_path is not None and Path(entry.yaml_path).resolve().is_relative_to(folder.resolve())


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's advice off the terminal, and off a file its bars; what goes wrong in it is raised."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)
