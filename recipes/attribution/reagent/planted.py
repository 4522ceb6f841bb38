"""Texts whose evidence is known, and the small model that learns in the run to read it.

A text is pairs of a key (a capital letter) and its value (a small one), then one of the keys: `CqAfTb..A`. Its value is
predicted, and the evidence is that pair and the last key. Keys and values are surface classes of their own, so that a
token replaced within its class leaves a text of the same kind.

The model learns from texts that go on with all pairs again, in the same order from the key that is asked for, round and
round: from the single answer alone it had learned nothing after 1,000 steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase
from typing import Any

import numpy as np
import torch

from recipes.attribution.reagent.config import SYMBOLS, PairReaderConfig, PlantedConfig
from recipes.core.config.settings import TrainerConfig
from recipes.core.data.text.text_ids import TextIds
from recipes.core.losses.objectives import IGNORE
from recipes.core.models.from_config import load_text_model
from recipes.core.models.text import build_text_tokenizer
from recipes.core.models.vision_language import TextModel
from recipes.core.storage.files import sha256_json
from recipes.core.training.toys.language import train_small_lm

KEYS, VALUES = ascii_uppercase[:SYMBOLS], ascii_lowercase[:SYMBOLS]
TEST, TRAIN = range(2)
VERSION = 1


@dataclass(frozen=True)
class PlantedText:
    """A text with its answer and its evidence.

    Attributes:
        text: Up to the key that is asked for.
        rest: What follows: its value, then the pairs behind it and those before it.
        evidence: Positions of the key, its value and the key that is asked for.
    """

    text: str
    rest: str
    evidence: tuple[int, int, int]

    @property
    def answer(self) -> str:
        """The value that is predicted."""
        return self.rest[0]


def planted_text(pairs: int, random: np.random.Generator) -> PlantedText:
    """Pairs of different keys and any values, then one of the keys."""
    keys = random.permutation(list(KEYS))[:pairs]
    values = random.choice(list(VALUES), pairs)
    asked = int(random.integers(pairs))
    text = "".join(f"{key}{value}" for key, value in zip(keys, values, strict=True))
    again = text[2 * asked :] + text[: 2 * asked]
    return PlantedText(text + again[0], again[1:], (2 * asked, 2 * asked + 1, 2 * pairs))


def planted_texts(config: PlantedConfig, seed: int) -> list[PlantedText]:
    """The texts to measure on, drawn apart from those that are learned."""
    random = np.random.default_rng([seed, TEST])
    return [planted_text(config.pairs, random) for _ in range(config.limit)]


def reader_tokenizer(config: PairReaderConfig) -> Any:
    """One token a character."""
    return build_text_tokenizer(config, [KEYS + VALUES], sha256_json(KEYS + VALUES))


def pair_reader(config: PairReaderConfig, data: PlantedConfig, trainer: TrainerConfig, run_seed: int) -> TextModel:
    """The model; trained if no run has done so before."""
    seed, tokenizer = run_seed if config.seed is None else config.seed, reader_tokenizer(config)

    def items() -> Any:
        random = np.random.default_rng([seed, TRAIN])
        return PlantedItems([planted_text(data.pairs, random) for _ in range(data.train)], tokenizer)

    key = {"pairs": data.pairs, "texts": data.train, "planted": VERSION}
    what, name = f"{data.train:,} texts", "a model that reads pairs"
    folder = train_small_lm(config, trainer, seed, tokenizer, key, items, planted_collate, what, name)
    return load_text_model(str(folder), "model")


class PlantedItems:
    """Whole texts as token ids."""

    def __init__(self, texts: Sequence[PlantedText], tokenizer: Any) -> None:
        self._ids = TextIds(tokenizer).batch([each.text + each.rest for each in texts])

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"id": f"text {index}", "ids": self._ids[index]}


def planted_collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Texts of one length as a batch, in which what follows the key that is asked for carries loss."""
    whole = torch.tensor([item["ids"] for item in items])
    ids, labels = whole[:, :-1], torch.full_like(whole[:, 1:], IGNORE)
    given = whole.shape[1] // 2  # the pairs; the first key behind them is anyone's guess
    labels[:, given:] = whole[:, given + 1 :]
    predicted = labels != IGNORE
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels, "weights": predicted.float()}
    return batch | {"normalizer": predicted.sum().float(), "ids": [item["id"] for item in items]}
