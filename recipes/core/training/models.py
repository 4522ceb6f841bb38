"""Models that are trained in the run before its own model, once for all that need the same one."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from recipes.core.config.settings import TrainerConfig
from recipes.core.messages import note
from recipes.core.runs.folder import INTERRUPTED
from recipes.core.storage.cache import cached
from recipes.core.storage.files import sha256_json
from recipes.core.training.trainer import TrainEvents, Training, train

# Trainer settings that do not decide the weights.
_FREE = ("micro_batch_size", "save_steps", "log_steps", "threads", "device", "nproc", "parallel")


def decisive(trainer: TrainerConfig) -> dict[str, Any]:
    """The settings that decide what is trained, for the key of a cache entry."""
    return {name: value for name, value in dataclasses.asdict(trainer).items() if name not in _FREE}


def train_inside(
    folder: Path, trainer: TrainerConfig, seed: int, training: Callable[[], Training], what: str, name: str
) -> nn.Module:
    """Train something in one process while its cache entry is being built.

    Args:
        folder: The entry's folder; checkpoints come and go in it.
        trainer: How it is trained; a batch larger than the data takes all of them.
        seed: Decides the data order.
        training: Makes model, objective and data.
        what: What it is trained on, for people ("1,400 texts").
        name: What it is called, for people.

    Returns:
        The trained model.

    Raises:
        KeyboardInterrupt: it was stopped; what is half trained must not be published.
    """
    note(f"training {name} on {what} (once, then cached)")
    made = training()
    size = min(trainer.batch_size, len(made.dataset))  # type: ignore[arg-type]
    own = dataclasses.replace(trainer, batch_size=size, micro_batch_size=None, save_steps=trainer.max_steps, nproc=1)
    if train(made, own, seed, folder / "training", TrainEvents()).status == INTERRUPTED:
        raise KeyboardInterrupt
    shutil.rmtree(folder / "training")
    return made.model


def train_reference(
    key: dict[str, Any],
    trainer: TrainerConfig,
    seed: int,
    training: Callable[[], Training],
    what: str,
    name: str = "the reference",
) -> Path:
    """Train a text model in one process, or find the one trained before.

    Args:
        key: What its weights depend on besides `trainer` and `seed`: model, texts, tokenizer.
        trainer: How it is trained; a batch larger than the data takes all of them.
        seed: Decides the data order.
        training: Makes the `TextModel`, its objective and its data; called only to train.
        what: What it is trained on, for people ("1,400 texts").
        name: What it is called, for people.

    Returns:
        Folder with the weights of its language model, for `load_text_model`.
    """

    def build(folder: Path) -> None:
        model: Any = train_inside(folder, trainer, seed, training, what, name)
        model.language_model.save_pretrained(folder / "model")

    return cached("reference-models", sha256_json([key, decisive(trainer), seed])[:32], build) / "model"
