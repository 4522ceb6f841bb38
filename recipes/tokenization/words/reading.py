"""Bits of each word of held-out text under a hierarchy or a flat model, behind as much text as its context holds.

A hierarchy predicts that a word ends. A token that begins with the space behind a word says so too, and what the next
word is: its bits are parted, -log p(space) for the word that it ends, -log p(token | space) for the word it begins.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recipes.core.models.dropout import evaluation
from recipes.core.models.padded import batches
from recipes.core.models.precision import exact
from recipes.tokenization.words.config import FLAT, IN_BYTES, IN_WORDS, WordRunConfig
from recipes.tokenization.words.corpus import as_read, flat_batch, hierarchy_batch, words_of
from recipes.tokenization.words.method import windows
from recipes.tokenization.words.units import SPACE, Units

Part = tuple[str, str]  # a text, and what stands before it
Row = tuple[Sequence[bytes], Sequence[Sequence[int]]]  # words, and the units of each


@dataclass(frozen=True)
class WordBits:
    """What the words of a text cost.

    Attributes:
        words: They themselves; joined they are the text.
        first: The first that counts: that ends in the text, not in what stands before it.
        bits: float64 [words], with the bits of their ends.
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


class Places(NamedTuple):
    """What a flat model predicts at each place of a window, the one behind its last token too.

    Attributes:
        bits: float64 [tokens] of each token.
        hits: bool [tokens] whether it is the likeliest.
        hits_behind: bool [tokens] whether it is the likeliest of those that begin a word.
        space: float64 [tokens + 1] bits of any token that begins a word.
        ends: bool [tokens + 1] whether that is likelier than each other token.
    """

    bits: np.ndarray
    hits: np.ndarray
    hits_behind: np.ndarray
    space: np.ndarray
    ends: np.ndarray


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
            words = words_of(before + text, config)
            ends = np.cumsum([len(word) for word in words])
            rows.append((words, int(np.searchsorted(ends, len(as_read(before, config).encode()), side="right"))))
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
            # A text breaks off in its last word, or before the space that the word ends with.
            cut = [stop == len(spelt[at]) and not config.ends_are_spaces for at, _, stop, _ in taken]
            windowed = [(rows[at][0][start:stop], spelt[at][start:stop]) for at, start, stop, _ in taken]
            with evaluation(self.model):
                values = self._flat(windowed) if self.flat else self._hierarchy(windowed, cut)
            for (number, start, stop, first), columns in zip(taken, values, strict=True):
                results[number][:, first:stop] = columns[:, first - start :]
        return [_word_bits(*row, values) for row, values in zip(rows, results, strict=True)]

    def _lengths(self, words: Sequence[bytes], spelt: Sequence[Sequence[int]]) -> list[int]:
        """Of each word in what a context is counted in."""
        kind = self.config.words.context
        if kind == IN_BYTES:
            return [len(word) for word in words]
        return [1] * len(words) if kind == IN_WORDS or not self.flat else [len(row) for row in spelt]

    def _hierarchy(self, rows: Sequence[Row], cut: Sequence[bool]) -> list[np.ndarray]:
        """Of each window float64 [4, words]: bits, whether right, units, right units."""
        batch = hierarchy_batch([spelt for _, spelt in rows], self.units)
        batch["cut"] = torch.zeros_like(batch["sequence"], dtype=torch.bool)
        for number, (words, _) in enumerate(rows):
            batch["cut"][number, len(words) - 1] = cut[number]
        names = ("words", "lengths", "sequence", "cut")
        spelled = self.model(**{name: batch[name].to(self.device) for name in names})
        nll, counts, right, hits = (part.double().cpu().numpy() for part in spelled)
        values = np.stack([nll / math.log(2), right, counts, hits])
        return np.split(values, np.cumsum([len(words) for words, _ in rows])[:-1], axis=1)

    def _flat(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """As `_hierarchy`."""
        batch = flat_batch([spelt for _, spelt in rows], self.units)
        ids, mask = batch["input_ids"].to(self.device), batch["attention_mask"].to(self.device)
        logits: Tensor = exact(self.model.language_model(input_ids=ids, attention_mask=mask).logits)
        log_p = logits.log_softmax(-1)
        begins = torch.from_numpy(self.units.begins_word).to(self.device)
        behind = log_p.masked_fill(~begins, -torch.inf)
        space, following = behind.logsumexp(-1), ids[:, 1:]
        columns = (
            -log_p[:, :-1].gather(-1, following[..., None])[..., 0].double() / math.log(2),
            log_p[:, :-1].argmax(-1) == following,
            behind[:, :-1].argmax(-1) == following,
            -space.double() / math.log(2),
            space > log_p.masked_fill(begins, -torch.inf).amax(-1),
        )
        arrays = [column.cpu().numpy() for column in columns]
        return [self._by_word(row, Places(*(column[number] for column in arrays))) for number, row in enumerate(rows)]

    def _by_word(self, row: Row, read: Places) -> np.ndarray:
        """float64 [4, words] of a window: tokens summed by the word that they belong to.

        Source:
            Pimentel, Meister, arXiv 2406.14561; Oh, Schuler, arXiv 2406.10851: the space belongs to the word it ends.
        """
        values, at, behind = np.zeros((4, len(row[0]))), 0, False
        for number, (word, tokens) in enumerate(zip(*row, strict=True)):
            end = at + len(tokens)
            bits, hits = read.bits[at:end].sum(), read.hits[at:end].copy()
            if behind and len(tokens):
                bits, hits[0] = bits - read.space[at], read.hits_behind[at]
            # Whether the space behind the word is part of the next token.
            behind = self.units.tokenizer is not None and word[-1:] in SPACE and self._is_open(row[1], number)
            right = hits.all() and (not behind or read.ends[end])
            if not len(tokens):  # it is part of a token that ends in a later word
                right = bool(read.hits[at : at + 1].all())
            extra = self.units.extra_bits(word, tokens)
            bits += extra + (read.space[end] if behind else 0.0)
            values[:, number] = bits, right and not extra, len(tokens), read.hits[at:end].sum()
            at = end
        return values

    def _is_open(self, spelt: Sequence[Sequence[int]], number: int) -> bool:
        """Whether the tokens of a word say it without the space at its end, with which the next token begins."""
        units, tokens, after = self.units, spelt[number], spelt[number + 1 : number + 2]
        if not len(tokens) or units.ends_word[tokens[-1]]:
            return False
        return all(len(row) and units.begins_word[row[0]] for row in after)


def _word_bits(words: list[bytes], first: int, values: np.ndarray) -> WordBits:
    bits, right, units, hits = values
    return WordBits(words, first, bits, right.astype(bool), units.astype(int), hits.astype(int))
