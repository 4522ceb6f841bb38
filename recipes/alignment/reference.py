"""The frozen reference: fine-tuned in the run if asked for."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from recipes.alignment.config import ReferenceConfig, TuningConfig
from recipes.core.config.settings import TrainerConfig
from recipes.core.data.files.records import BadRow
from recipes.core.data.text.chats import Chat
from recipes.core.data.text.text_ids import TextIds, tokenizer_fingerprint
from recipes.core.errors import UserError
from recipes.core.losses.objectives import WeightedCrossEntropy
from recipes.core.models.from_config import load_text_model
from recipes.core.models.text import TextModelConfig, build_language_model
from recipes.core.runs.identity import content_tree
from recipes.core.training.caption_batches import caption_collate, token_mean
from recipes.core.training.models import train_reference
from recipes.core.training.task import Training

VERSION = 2


class _Texts:
    """Texts as items of `caption_collate`."""

    def __init__(self, texts: Sequence[np.ndarray]) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"index": index, "id": f"text {index}", "tokens": self.texts[index]}


def prepare_reference(
    model: TextModelConfig,
    config: ReferenceConfig,
    trainer: TrainerConfig,
    tokenizer: Any,
    texts: Callable[[], Sequence[np.ndarray]],
    fingerprint: str,
) -> Callable[[], Any]:
    """Fine-tune the reference on texts, or find the one fine-tuned before.

    Args:
        model: Which model.
        config: How it is fine-tuned.
        trainer: Device, precision and threads are taken from it.
        tokenizer: Its tokenizer.
        texts: Token ids of each text, with its begin-of-text token if it has one, and its end; called only to train.
        fingerprint: Hash of the texts.

    Returns:
        Makes a new `TextModel` with the reference's weights: the reference itself, or a policy at its start.
    """
    if not config.steps:
        return lambda: build_language_model(model, tokenizer, config.seed)
    key = {
        "model": content_tree(model, "model"),
        "texts": fingerprint,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "version": VERSION,
    }

    def training() -> Training:
        items: Any = _Texts(texts())
        collate = caption_collate([], pad_id(tokenizer), token_mean)
        return Training(build_language_model(model, tokenizer, config.seed), WeightedCrossEntropy(), items, collate)

    folder = train_reference(key, tuning_settings(config, trainer), config.seed, training, "the data's texts")
    return lambda: load_text_model(str(folder))


def tuning_settings(config: TuningConfig, trainer: TrainerConfig) -> TrainerConfig:
    """The run's trainer settings with the reference's own steps, batch, optimizer and schedule."""
    return dataclasses.replace(
        trainer,
        max_steps=config.steps,
        batch_size=config.batch_size,
        optimizer="adamw",
        learning_rate=config.learning_rate,
        weight_decay=0.01,
        max_grad_norm=1.0,
        warmup_ratio=0.05,
        schedule="cosine",
    )


def prompt_ids(text: str, reader: TextIds, begin: str = "") -> np.ndarray:
    """int32 ids of a question, up to where its answer begins: one turn of a chat if the tokenizer has a template.

    Args:
        text: The question.
        reader: Of the tokenizer, whose chat template, if it has one, sets the marks.
        begin: What stands between question and answer where there is no template.

    Raises:
        UserError: the chat template refuses it.
    """
    if reader.tokenizer.chat_template:
        try:
            return np.array(Chat(reader).ids([{"role": "user", "content": text}], ask=True), np.int32)
        except BadRow as error:
            raise UserError(str(error), f"prompt={text[:60]!r}", "choose a model with another chat template") from error
    return np.array([*reader.start, *reader.ids(text + begin)], np.int32)


def pad_id(tokenizer: Any) -> int:
    """What pads; it is masked everywhere, so that any token would do."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)
