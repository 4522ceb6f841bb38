"""A language model that writes the clean line behind its noisy copy: begin, noisy line, mark, clean line, end."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from recipes.core.data.text.text_ids import TextIds, start_id
from recipes.core.data.text.windows import random_of
from recipes.core.losses.objectives import IGNORE
from recipes.core.models.padded import pad_rows
from recipes.core.scoring.sampling import sample
from recipes.core.scoring.score import score
from recipes.tokenization.config import NoiseConfig
from recipes.tokenization.noise import edited

LOOKED_AT, ROOM = 1000, 4  # lines, and tokens that noise may add


class Format:
    """How lines become rows of tokens.

    Args:
        tokenizer: Has a token that ends a text; what marks the end of the noisy line is its `sep_token`, else that.
        lines: Noisy lines are filled up to the tokens of the longest of the first of these, with some room: so a token
            of the clean line stands as far from its copy in every row, which a small model learns soon.
    """

    def __init__(self, tokenizer: Any, lines: Sequence[str] = ()) -> None:
        self._reader, self.end = TextIds(tokenizer), int(tokenizer.eos_token_id)
        self._start = start_id(tokenizer)
        self._mark = self.end if tokenizer.sep_token_id is None else int(tokenizer.sep_token_id)
        self._fill = self.end if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        self._room = ROOM + max(map(len, self._reader.batch(lines[:LOOKED_AT])), default=-ROOM)
        self._tokenizer = tokenizer

    def prompt(self, noisy: str) -> list[int]:
        """What stands before the clean line."""
        ids = self._reader.ids(noisy)
        return [self._start, *ids, *[self._fill] * (self._room - len(ids)), self._mark]

    def target(self, clean: str) -> list[int]:
        """The clean line and its end."""
        return [*self._reader.ids(clean), self.end]

    def text(self, ids: Sequence[int]) -> str:
        """What the model wrote, without its end."""
        kept = [token for token in ids if token != self.end]
        return str(self._tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class NoisyLines:
    """Lines with noise, drawn anew for each item; an item depends on its index only.

    Args:
        lines: The clean ones, at least one.
        layout: Makes rows of them.
        noise: What happens to a line.
        size: Items.
        seed: Decides order and noise.
    """

    def __init__(self, lines: Sequence[str], layout: Format, noise: NoiseConfig, size: int, seed: int) -> None:
        self._lines, self._layout, self._noise, self._seed = lines, layout, noise, seed
        draw, rounds = random_of(seed, "order of lines"), -(-size // len(lines))
        self._order = np.concatenate([draw.permutation(len(lines)) for _ in range(rounds)])[:size]

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> dict[str, Any]:
        clean = self._lines[int(self._order[index])]
        noisy = noisy_copy(clean, self._noise, self._seed, f"item {index}")
        return {
            "id": f"line {self._order[index]}",
            "prompt": self._layout.prompt(noisy),
            "target": self._layout.target(clean),
        }


def noisy_copy(line: str, noise: NoiseConfig, seed: int, name: str) -> str:
    """A line with what the noise does to it, drawn by a name."""
    return edited(line, noise.rate, noise.kinds, random_of(seed, name))


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch as `WeightedCrossEntropy` reads it: tokens of clean lines, and their ends, weigh 1, others nothing."""
    ids, mask = pad_rows([[*item["prompt"], *item["target"]] for item in items])
    labels = torch.full_like(ids, IGNORE)
    for row, item in enumerate(items):
        start, end = len(item["prompt"]) - 1, len(item["prompt"]) + len(item["target"]) - 1
        labels[row, start:end] = torch.tensor(item["target"])
    predicted = labels != IGNORE
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels,
        "weights": predicted.float(),
        "normalizer": predicted.sum().float(),
        "ids": [item["id"] for item in items],
    }


def bits_behind(model: Any, layout: Format, pairs: Sequence[tuple[str, str]], device: str) -> np.ndarray:
    """float64 [pairs] bits of each clean line and its end, behind its noisy copy."""
    rows = [(layout.prompt(noisy), layout.target(clean)) for noisy, clean in pairs]
    scores = score(model, rows, device=device)
    sums: np.ndarray = np.add.reduceat(np.asarray(scores["logprob"], np.float64), scores.offsets[:-1])
    return -sums / math.log(2)


def correct(model: Any, layout: Format, pairs: Sequence[tuple[str, str]], device: str) -> list[str]:
    """What the model writes behind each noisy line, the most likely token at each step."""
    prompts = [np.array(layout.prompt(noisy)) for noisy, _ in pairs]
    most = 2 * max(len(layout.target(clean)) for _, clean in pairs)
    written = sample(model, prompts, layout.end, most, 0.0, 0, device)
    return [layout.text(ids.tolist()) for ids in written]
