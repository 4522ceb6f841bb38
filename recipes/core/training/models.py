"""Models that are trained in the run before its own model, once for all that need the same one."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recipes.core.config.identity_keys import LATER_KEYS
from recipes.core.config.settings import BESIDE, EarlyStoppingConfig, TrainerConfig
from recipes.core.messages import note
from recipes.core.runs.folder import INTERRUPTED
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json
from recipes.core.training.divergence import Diverged
from recipes.core.training.model_options import can_checkpoint
from recipes.core.training.task import TrainEvents, Training
from recipes.core.training.trainer import train

ABSENT = object()
CHECKPOINTS = "training"  # where they come and go while a model is trained
# Trainer settings that do not decide the weights, or that are for the run's own training only.
_FREE = (
    *("micro_batch_size", "save_steps", "log_steps", "threads", "device", "nproc", "nodes", "parallel"),
    *("gradient_checkpointing", "attention", "compile", "dtype", "workers", "group_by_length", "early_stopping"),
    *("check_memory", "max_flops"),
)


def train_once(
    kind: str,
    key: Any,
    trainer: TrainerConfig,
    seed: int,
    training: Callable[[], Training],
    save: Callable[[Any, Path], None],
    *,
    name: str,
    what: str,
    events: Callable[[Path, frozenset[int]], TrainEvents] | None = None,
    resumable: bool = False,
) -> Path:
    """Train a model in one process, or find the one trained before.

    Args:
        kind: What the cache calls such models ("reference-models").
        key: What the weights depend on besides `trainer` and `seed`, as JSON: model, data, tokenizer.
        trainer: How it is trained. A batch larger than the data takes all of them, and says so; a forward takes at most
            `micro_batch_size`.
        seed: Decides the data order.
        training: Makes model, objective and data; called only to train.
        save: Writes the trained model into an empty folder.
        name: What it is called, for people.
        what: What it is trained on, for people ("1,400 texts").
        events: Makes, of the folder that `save` fills and of the steps that the training watches, what is told of each
            step, and may leave files there; None: nothing is.
        resumable: A training that was stopped goes on from its last checkpoint, one every `trainer.save_steps`.

    Returns:
        Folder that `save` has filled.

    Raises:
        KeyboardInterrupt: it was stopped; what is half trained is not published.
        Diverged: a loss, a gradient or weights are not finite.
    """

    def build(folder: Path) -> None:
        """Train, and save into the folder of the cache."""
        note(f"training {name} on {what} (once, then cached)")
        work = training()
        settings = _settings_alone(trainer, work, resumable)
        if settings.batch_size < trainer.batch_size:
            note(f"all {settings.batch_size:,} of them are a batch, in place of {trainer.batch_size:,}")
        listener = events(folder, work.watch_steps) if events else TrainEvents()
        try:
            result = train(work, settings, seed, folder / CHECKPOINTS, listener)
        except Diverged as error:
            hint = "lower the rate that it is trained at, or look at these examples; nothing of it is kept"
            raise Diverged(f"training {name}: {error.what}", error.where, hint) from error
        if result.status == INTERRUPTED:
            raise KeyboardInterrupt
        shutil.rmtree(folder / CHECKPOINTS)
        save(work.model, folder)

    return build_once(kind, sha256_json([key, _decisive(trainer), seed])[:32], build, resumable)


def settings_beside(
    trainer: TrainerConfig, steps: int, batch_size: int, learning_rate: float, **others: Any
) -> TrainerConfig:
    """How a model beside that of the run is trained: by its own settings, where and as exactly as the run is.

    Args:
        trainer: Of the run.
        steps: Optimizer steps.
        batch_size: Examples of a step.
        learning_rate: Peak.
        others: Further settings; what is not named is as a `TrainerConfig` has it.
    """
    return TrainerConfig(
        max_steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        **{name: getattr(trainer, name) for name in BESIDE},
        **others,
    )


def train_reference(
    key: dict[str, Any],
    trainer: TrainerConfig,
    seed: int,
    training: Callable[[], Training],
    what: str,
    name: str = "the reference",
) -> Path:
    """`train_once` of a `TextModel`.

    Returns:
        Folder with the weights of its language model, for `load_text_model`.
    """

    def save(model: Any, folder: Path) -> None:
        model.language_model.save_pretrained(folder / "model")

    return train_once("reference-models", key, trainer, seed, training, save, name=name, what=what) / "model"


def _settings_alone(trainer: TrainerConfig, work: Training, resumable: bool) -> TrainerConfig:
    """How `train_once` trains: in one process, weights in float32, to the last step, in batches that the data fill."""
    size = min(trainer.batch_size, len(work.dataset))  # type: ignore[arg-type]
    return dataclasses.replace(
        trainer,
        batch_size=size,
        micro_batch_size=_micro_batch(size, trainer.micro_batch_size),
        save_steps=trainer.save_steps if resumable else trainer.max_steps,
        nproc=1,
        nodes=1,
        gradient_checkpointing=trainer.gradient_checkpointing and can_checkpoint(work.model),
        attention="auto",
        compile=False,
        dtype="float32",
        group_by_length=False,
        early_stopping=EarlyStoppingConfig(),
    )


def _micro_batch(size: int, most: int | None) -> int | None:
    """The largest part of a batch that divides it and is no larger than `most`; None: no limit."""
    return most and next(part for part in range(min(most, size), 0, -1) if size % part == 0)


def _decisive(trainer: TrainerConfig) -> dict[str, Any]:
    """The settings that decide what is trained; later ones only where they are not as they were before they came."""
    values = dataclasses.asdict(trainer)
    decisive = {name: value for name, value in values.items() if name not in _FREE}
    later = {name for name in decisive if LATER_KEYS.get(f"trainer.{name}", ABSENT) == decisive[name]}
    return {name: value for name, value in decisive.items() if name not in later}
