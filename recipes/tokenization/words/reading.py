"""Bits of each word of held-out text under a hierarchy or a flat model, behind as much text as its context holds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recipes.core.models.padded import batches
from recipes.core.models.precision import exact
from recipes.tokenization.words.config import FLAT, IN_BYTES, IN_WORDS, WordRunConfig
from recipes.tokenization.words.corpus import flat_batch, hierarchy_batch, words_of
from recipes.tokenization.words.method import windows
from recipes.tokenization.words.units import SPACE, Units

Part = tuple[str, str]  # a text, and what stands before it


@dataclass(frozen=True)
class WordBits:
    """What the words of a text cost.

    Attributes:
        words: They themselves; joined they are the text.
        first: The first that counts; those before it are context.
        bits: float64 [words], of a hierarchy with the bits of their ends.
        right: bool [words], whether all of a word is likeliest: its units, and that it ends there.
        units: int64 [words] that are predicted.
        right_units: int64 [words] that are likeliest.
    """

    words: list[bytes]
    first: int
    bits: np.ndarray
    right: np.ndarray
    units: np.ndarray
    right_units: np.ndarray

    @property
    def size(self) -> int:
        """Bytes of what counts."""
        return sum(map(len, self.words[self.first :]))

    @property
    def per_byte(self) -> float:
        """Bits of a byte of what counts."""
        return float(self.bits[self.first :].sum()) / self.size


class Reader:
    """Reads texts with a model.

    Args:
        config: The run's.
        units: What words are spelt in.
        model: A `WordModel`, or a `TextModel`.
        device: Where it is.
    """

    def __init__(self, config: WordRunConfig, units: Units, model: Any, device: str) -> None:
        self.config, self.units, self.model, self.device = config, units, model, device
        self.flat = config.model.kind == FLAT

    @torch.no_grad()
    def read(self, parts: Sequence[Part]) -> list[WordBits]:
        """Bits of texts, each behind what stands before it."""
        config, rows = self.config.words, list[tuple[list[bytes], int]]()
        for text, before in parts:
            context = words_of(before, config)
            rows.append((context + words_of(text, config), len(context)))
        spelt = [self.units.spell(words) for words, _ in rows]
        results = [np.zeros((4, len(words))) for words, _ in rows]
        spans = [
            (number, *span)
            for number, (words, _) in enumerate(rows)
            for span in windows(self._lengths(words, spelt[number]), config.size)
        ]
        costs = [sum(len(row) + 1 for row in spelt[number][start:stop]) for number, start, stop, _ in spans]
        for group in batches(costs, self.config.evaluation.batch_tokens):
            taken = [spans[place] for place in group]
            values = self._batch([(rows[at][0][start:stop], spelt[at][start:stop]) for at, start, stop, _ in taken])
            for (number, start, stop, first), columns in zip(taken, values, strict=True):
                results[number][:, first:stop] = columns[:, first - start :]
        return [_word_bits(*row, values) for row, values in zip(rows, results, strict=True)]

    def _lengths(self, words: Sequence[bytes], spelt: Sequence[Sequence[int]]) -> list[int]:
        """Of each word in what a context is counted in."""
        kind = self.config.words.context
        if kind == IN_BYTES:
            return [len(word) for word in words]
        return [1] * len(words) if kind == IN_WORDS or not self.flat else [len(row) for row in spelt]

    def _batch(self, rows: Sequence[tuple[Sequence[bytes], Sequence[Sequence[int]]]]) -> list[np.ndarray]:
        """Of each window float64 [4, words]: bits, whether right, units, right units."""
        if self.flat:
            return self._flat(rows)
        batch = hierarchy_batch([spelt for _, spelt in rows], self.units)
        names = ("words", "lengths", "sequence")
        spelled = self.model(**{name: batch[name].to(self.device) for name in names})
        nll, counts, right, hits = (part.double().cpu().numpy() for part in spelled)
        values = np.stack([nll / math.log(2), right, counts, hits])
        return np.split(values, np.cumsum([len(words) for words, _ in rows])[:-1], axis=1)

    def _flat(self, rows: Sequence[tuple[Sequence[bytes], Sequence[Sequence[int]]]]) -> list[np.ndarray]:
        batch = flat_batch([spelt for _, spelt in rows], self.units)
        ids, mask = batch["input_ids"].to(self.device), batch["attention_mask"].to(self.device)
        logits: Tensor = exact(self.model.language_model(input_ids=ids, attention_mask=mask).logits)
        nll = functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        bits = (nll.view(len(ids), -1).double() / math.log(2)).cpu().numpy()
        best, given = logits.argmax(-1).cpu().numpy(), ids.cpu().numpy()
        return [self._by_word(row, bits[n], best[n], given[n]) for n, row in enumerate(rows)]

    def _by_word(
        self, row: tuple[Sequence[bytes], Sequence[Sequence[int]]], bits: np.ndarray, best: np.ndarray, ids: np.ndarray
    ) -> np.ndarray:
        """float64 [4, words] of a window: tokens summed by the word that they belong to.

        Args:
            row: Words and their tokens.
            bits: [tokens] of each.
            best: [tokens + 1] the likeliest token at each place, and behind the last.
            ids: [tokens + 1] the tokens, behind one that begins the text.
        """
        values, at = np.zeros((4, len(row[0]))), 0
        for number, (word, tokens) in enumerate(zip(*row, strict=True)):
            end = at + len(tokens)
            hits = best[at:end] == ids[at + 1 : end + 1]
            # A word whose space is part of the next token ends where the likeliest token has one.
            ends = word[-1:] not in SPACE or bool(self.units.ends_word[ids[end]] or self.units.begins_word[best[end]])
            extra = self.units.extra_bits(word, tokens)
            values[:, number] = bits[at:end].sum() + extra, hits.all() and ends and not extra, len(tokens), hits.sum()
            at = end
        return values


def _word_bits(words: list[bytes], first: int, values: np.ndarray) -> WordBits:
    bits, right, units, hits = values
    return WordBits(words, first, bits, right.astype(bool), units.astype(int), hits.astype(int))
