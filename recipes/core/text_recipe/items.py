"""The training stream of a `TextRecipe`: packed sequences, with planted noise and reference scores where asked for."""

import hashlib
from collections.abc import Collection
from typing import Any, Protocol

import numpy as np
import torch

from recipes.core.text_recipe.config import NoiseConfig
from recipes.core.training.sequences import sequence_collate

# Arrays of an item, and of a batch.
PLANTED, RANDOM, REFERENCE = "planted", "random", "reference"
# What `sequence_collate` reads itself.
_COLLATED = ("id", "tokens", "domain", "duplicate")


class Items(Protocol):
    """Sequences of one length. An item depends on its index only, and items of one id have the same tokens.

    An item has `id`, `tokens` int32 [length], `domain`, `duplicate`, and may have further arrays [length], one value
    for each token.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


class NoisyItems:
    """Sequences in which stretches of tokens are replaced by random ones; `planted` [length] bool says which.

    Args:
        items: The clean sequences.
        config: How much, in stretches of which length.
        vocabulary: Token ids to draw from.
    """

    def __init__(self, items: Items, config: NoiseConfig, vocabulary: Collection[int]) -> None:
        self.items, self.config = items, config
        self.vocabulary = np.array(sorted(vocabulary), np.int32)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.items[index]
        random, clean = np.random.default_rng(seed_of(self.config.seed, item["id"])), item["tokens"]
        stretches = -(-len(clean) // self.config.span)
        planted = np.repeat(random.random(stretches) < self.config.share, self.config.span)[: len(clean)]
        noise = self.vocabulary[random.integers(len(self.vocabulary), size=len(clean))]
        return item | {"tokens": np.where(planted, noise, clean), PLANTED: planted}


class RandomItems:
    """Sequences with a number in [0, 1) for each token, `random` [length] float32: what a random control ranks by.

    Args:
        items: The sequences.
        seed: Decides the numbers, with the index of the item.
    """

    def __init__(self, items: Items, seed: int) -> None:
        self.items, self.seed = items, seed

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.items[index]
        random = np.random.default_rng(seed_of(self.seed, index))
        return item | {RANDOM: random.random(len(item["tokens"]), np.float32)}


def text_collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Items as a batch: what `sequence_collate` makes of them, and their further arrays as [sequences, time].

    Position t of an array stands for the token it predicts, t + 1, as that of the labels does.
    """
    batch = sequence_collate(items)
    for name in sorted(items[0].keys() - {*_COLLATED}):
        values = torch.from_numpy(np.stack([item[name] for item in items]))
        batch[name] = torch.zeros_like(values)
        batch[name][:, :-1] = values[:, 1:]
    return batch


def seed_of(*parts: object) -> int:
    """A seed that follows from its parts."""
    return int.from_bytes(hashlib.sha256(":".join(map(str, parts)).encode()).digest()[:7], "big")
