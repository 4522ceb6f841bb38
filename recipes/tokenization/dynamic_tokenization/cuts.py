"""The texts of a run cut anew: batch by batch, at each reduction."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recipes.core.runs.progress import progress
from recipes.tokenization.dynamic_tokenization.config import DROPPED, NONE, RANDOM, MergesConfig
from recipes.tokenization.dynamic_tokenization.merging import Merger, merged_lengths
from recipes.tokenization.dynamic_tokenization.method import longest_prefixes, merges_for
from recipes.tokenization.dynamic_tokenization.vocabulary import Tokens

Rows = list[list[int]]  # tokens of each text


@dataclass(frozen=True)
class Cuts:
    """Texts at several reductions.

    Attributes:
        plain: Tokens of each text as the base tokenizer cuts it.
        levels: The same at each reduction.
        words: How many tokens each text has where no merge is left.
        counted: Merges -> tokens of each text after so many.
        merges: Of each reduction, merges of each batch.
    """

    plain: Rows
    levels: dict[float, Rows]
    words: list[int]
    counted: dict[int, list[int]]
    merges: dict[float, list[int]]


def cut_texts(
    plain: Rows,
    tokens: Tokens,
    config: MergesConfig,
    reductions: Sequence[float],
    seed: int,
    learnt: "StaticVocabulary | None" = None,
) -> Cuts:
    """Cut texts in batches, in the order they come: what is merged depends on what stands beside it.

    Args:
        plain: Tokens of each text.
        tokens: What they become.
        config: How they are merged.
        reductions: Percent of the way to words.
        seed: Of pairs that are drawn.
        learnt: The larger vocabulary, where it is static.
    """
    cuts = Cuts(plain, {each: [] for each in reductions}, [], {count: [] for count in config.counts}, {})
    cuts.merges.update({each: [] for each in reductions})
    draw = np.random.default_rng([seed, 1])
    with progress("merging tokens", len(plain)) as show:
        for start in range(0, len(plain), config.batch):
            batch = plain[start : start + config.batch]
            _cut_batch(cuts, batch, tokens, config, draw, learnt)
            show(start + len(batch))
    return cuts


def _cut_batch(
    cuts: Cuts,
    batch: Rows,
    tokens: Tokens,
    config: MergesConfig,
    draw: np.random.Generator,
    learnt: "StaticVocabulary | None",
) -> None:
    lengths = merged_lengths(batch, tokens.join)
    wanted = {each: merges_for(lengths, each) for each in cuts.levels}
    merger, merges = Merger(batch, tokens.join), 0
    stops = {*wanted.values(), *cuts.counted, len(lengths) - 1}
    states = {0: batch}
    while merger.step() is not None:
        merges += 1
        if merges in stops:
            states[merges] = merger.texts()
    cuts.words.extend(map(len, states[merges]))
    for count, reached in cuts.counted.items():
        reached.extend(map(len, states[min(count, merges)]))
    drawn = Merger(batch, tokens.join, draw) if config.name == RANDOM else None
    for reduction in sorted(wanted):
        at = wanted[reduction]
        if config.name == NONE:
            rows, at = batch, 0
        elif config.name == DROPPED:
            rows, at = [_dropped(text, len(short)) for text, short in zip(batch, states[at], strict=True)], 0
        elif drawn is not None:
            while drawn.length > lengths[at] and drawn.step() is not None:
                pass
            rows = drawn.texts()
        elif learnt is not None:
            rows, at = learnt.cut(states[merges], batch, reduction), 0
        else:
            rows = states[at]
        cuts.levels[reduction].extend(rows)
        cuts.merges[reduction].append(at)


def _dropped(text: list[int], length: int) -> list[int]:
    """A text without tokens behind its first, which begins it."""
    return [*text[:1], *text[len(text) - length + 1 :]]


class StaticVocabulary:
    """A larger vocabulary: the merges of training texts, all of them one batch; texts are cut by longest prefixes.

    Args:
        texts: Tokens of each training text.
        tokens: What they become.
        most: Merges at most.
    """

    def __init__(self, texts: Rows, tokens: Tokens, most: int) -> None:
        self._tokens = tokens
        merger = Merger(texts, tokens.join)
        self._lengths, self.learnt = [merger.length], list[bytes]()
        while len(self.learnt) < most and (pair := merger.step()) is not None:
            joined = tokens.join(*pair)
            assert joined is not None
            self._lengths.append(merger.length)
            self.learnt.append(tokens.data(joined))

    def ids(self, merges: int) -> dict[bytes, int]:
        """Tokens by their bytes: those of the base vocabulary, and of the first merges."""
        return dict(self._tokens.base.ids) | {data: self._tokens.number(data) for data in self.learnt[:merges]}

    def cut(self, words: Rows, plain: Rows, reduction: float) -> Rows:
        """Words cut by the vocabulary whose merges reduce the training texts so far.

        Args:
            words: Tokens of each text where no merge is left.
            plain: Base tokens of each text, which stay where nothing is to be reduced.
            reduction: Percent of the way that all merges go.
        """
        if reduction <= 0:
            return plain
        return self.spell(words, merges_for(self._lengths, reduction))

    def spell(self, words: Rows, merges: int) -> Rows:
        """Words by the tokens of the base vocabulary and of the first merges."""
        ids = self.ids(merges)
        longest = max(map(len, ids))
        return [[token for word in row for token in self._spell(word, ids, longest)] for row in words]

    def _spell(self, word: int, ids: dict[bytes, int], longest: int) -> list[int]:
        data = self._tokens.data(word)
        return (longest_prefixes(data, ids, longest) if data else []) or self._tokens.pieces(word)
