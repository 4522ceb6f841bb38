"""Texts whose answers stand in them, and the small model that learns in the run to find them there."""

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_letters, digits
from typing import Any

import numpy as np
import torch

from recipes.core.config.settings import TrainerConfig
from recipes.core.data.text.text_ids import TextIds
from recipes.core.losses.objectives import IGNORE
from recipes.core.models.from_config import load_text_model
from recipes.core.models.text import build_text_tokenizer
from recipes.core.models.vision_language import TextModel
from recipes.core.storage.files import sha256_json
from recipes.core.training.toys.language import train_small_lm
from recipes.decoding.recycled_attention.config import RecallConfig, RecallerConfig
from recipes.decoding.recycled_attention.texts import Text

RECALL, COPY = "recall", "copy"
CYRILLIC = "".join(map(chr, range(0x410, 0x450)))
SYMBOLS = ascii_letters + digits + CYRILLIC  # no text has one twice in what is given, so that each has one successor
MARKS = ";?#|"
FEWEST = 2  # pairs, or symbols to copy, of a text that is trained on
VERSION = 1


@dataclass(frozen=True)
class Question:
    """A text with its answers.

    Attributes:
        text: The whole text, one token a character.
        start: Characters that are given.
        task: `RECALL` or `COPY`.
        answers: First and one past the last character of each answer.
    """

    text: str
    start: int
    task: str
    answers: Sequence[tuple[int, int]]


def recall_text(pairs: int, value: int, random: np.random.Generator) -> Question:
    """Keys with their values, then every key again, in another order, and its value: `bxy;akf;?akf?bxy`."""
    symbols = "".join(random.permutation(list(SYMBOLS))[: pairs * (value + 1)])
    entries = [symbols[at : at + value + 1] for at in range(0, len(symbols), value + 1)]
    text, answers = "".join(f"{entry};" for entry in entries), list[tuple[int, int]]()
    for number in random.permutation(pairs):
        first = len(text) + 2
        text += f"?{entries[number]}"
        answers.append((first, len(text)))
    return Question(text, answers[0][0], RECALL, answers)


def copy_text(symbols: int, random: np.random.Generator) -> Question:
    """Symbols, and the same again: `#abcd|abcd`."""
    word = "".join(random.permutation(list(SYMBOLS))[:symbols])
    start = symbols + 2
    return Question(f"#{word}|{word}", start, COPY, [(start, start + symbols)])


def draw(config: RecallConfig, count: int, random: np.random.Generator, whole: bool) -> list[Question]:
    """Texts of both tasks in turn, all as long as the config says, or of any length up to that."""
    questions = []
    for number in range(count):
        most = config.copied if number % 2 else config.pairs
        size = most if whole else int(random.integers(FEWEST, most + 1))
        questions.append(copy_text(size, random) if number % 2 else recall_text(size, config.value, random))
    return questions


def recall_texts(config: RecallConfig, tokenizer: Any, seed: int) -> list[Text]:
    """The texts to measure on."""
    reader, questions = TextIds(tokenizer), draw(config, config.limit, np.random.default_rng([seed, 1]), True)
    rows = reader.batch([each.text for each in questions])
    return [
        Text(f"{each.task} {number}", np.array(ids, np.int64), each.start, each.task, each.answers)
        for number, (each, ids) in enumerate(zip(questions, rows, strict=True))
    ]


def recaller_tokenizer(config: RecallerConfig) -> Any:
    """One token a character."""
    return build_text_tokenizer(config, [SYMBOLS + MARKS], sha256_json(SYMBOLS + MARKS))


def recaller(config: RecallerConfig, data: RecallConfig, trainer: TrainerConfig, run_seed: int) -> TextModel:
    """The model; trained if no run has done so before."""
    seed, tokenizer = run_seed if config.seed is None else config.seed, recaller_tokenizer(config)
    sizes = {"pairs": data.pairs, "value": data.value, "copied": data.copied, "texts": data.train}

    def items() -> Any:
        return RecallItems(draw(data, data.train, np.random.default_rng([seed, 0]), False), tokenizer)

    folder = train_small_lm(
        config,
        trainer,
        seed,
        tokenizer,
        sizes | {"recall": VERSION},
        items,
        recall_collate(tokenizer.eos_token_id),
        f"{data.train:,} texts",
        "a model that recalls",
    )
    return load_text_model(str(folder), "model")


class RecallItems:
    """Texts as token ids, with which of them are answers."""

    def __init__(self, questions: Sequence[Question], tokenizer: Any) -> None:
        self._questions = questions
        self._ids = TextIds(tokenizer).batch([each.text for each in questions])

    def __len__(self) -> int:
        return len(self._questions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"id": f"text {index}", "ids": self._ids[index], "answers": self._questions[index].answers}


def recall_collate(pad_id: int) -> Any:
    """Makes batches of such items, in which the tokens of answers carry loss and the others do not."""

    def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
        rows, longest = len(items), max(len(item["ids"]) for item in items) - 1
        ids, labels = torch.full((rows, longest), pad_id), torch.full((rows, longest), IGNORE)
        attention = torch.zeros(rows, longest, dtype=torch.int64)
        for row, item in enumerate(items):
            text = torch.tensor(item["ids"])
            ids[row, : len(text) - 1], attention[row, : len(text) - 1] = text[:-1], 1
            for first, end in item["answers"]:
                labels[row, first - 1 : end - 1] = text[first:end]
        predicted = labels != IGNORE
        batch = {"input_ids": ids, "attention_mask": attention, "labels": labels, "weights": predicted.float()}
        return batch | {"normalizer": predicted.sum().float(), "ids": [item["id"] for item in items]}

    return collate
