"""The rows of new tokens, composed as an arm says: pieces, neighbours, shared tokens, or places in text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from recipes.core.data.text.vocabulary_bytes import VocabularyBytes
from recipes.core.models.nearest import nearest
from recipes.tokenization.mapping import Speller, VocabularyMap
from recipes.tokenization.rows import RowWeights, copied_rows, weighted_rows
from recipes.tokenization.tokenadapt.alignment import aligned_rows
from recipes.tokenization.tokenadapt.config import (
    FOCUS,
    GLOBAL,
    HYBRID,
    LOCAL,
    RETOK,
    TRANSTOKENIZER,
    InitConfig,
)
from recipes.tokenization.tokenadapt.method import local_weights, mix, neighbour_weights, sparsemax
from recipes.tokenization.tokenadapt.strings import BROKEN, StringVectors, token_strings

CHUNK = 256  # tokens whose likeness to all others is in memory at a time


@dataclass(frozen=True)
class Vocabularies:
    """An old and a new vocabulary.

    Attributes:
        old: Bytes of the old tokens.
        new: Bytes of the new ones.
        tokenizers: The old tokenizer and the new one.
        mapped: What becomes of the old tokens.
        where: Key and value that named the model, for messages.
    """

    old: VocabularyBytes
    new: VocabularyBytes
    tokenizers: tuple[Any, Any]
    mapped: VocabularyMap
    where: str

    @cached_property
    def pieces(self) -> dict[int, list[int]]:
        """Old tokens that spell each unique token; none where the old vocabulary cannot spell any of its bytes."""
        spell = Speller(self.tokenizers[0], self.old, self.where)
        return {token: spell(self.new.table[token]) for token in self.mapped.unique.tolist()}

    @property
    def unspelled(self) -> int:
        """Unique tokens of which the old tokens do not spell every byte."""
        return sum(self.old.join(ids) != self.new.table[token] for token, ids in self.pieces.items())


class Composer:
    """Composes rows.

    Args:
        vocabularies: Both.
        vectors: Makes vectors of strings; called only if an arm asks for likeness.
        texts: Makes the texts that are cut by both tokenizers; called only if an arm asks for them.
    """

    def __init__(
        self, vocabularies: Vocabularies, vectors: Callable[[], StringVectors], texts: Callable[[], Sequence[str]]
    ) -> None:
        self._both, self._make_vectors, self._texts = vocabularies, vectors, texts
        self._count = len(vocabularies.new)

    def rows(self, config: InitConfig) -> RowWeights:
        """Weights of all new tokens; of "mean" and "random" those of shared tokens alone."""
        makers: dict[str, Callable[[InitConfig], RowWeights]] = {
            RETOK: self._retok,
            LOCAL: self._local,
            GLOBAL: self._global,
            HYBRID: lambda config: mix(self._local(config), self._global(config), config.w_glob),
            FOCUS: self._focus,
            TRANSTOKENIZER: self._aligned,
        }
        copied = copied_rows(self._both.mapped)
        return copied.with_others(makers[config.name](config)) if config.name in makers else copied

    @cached_property
    def _vectors(self) -> StringVectors:
        return self._make_vectors()

    @cached_property
    def _old_strings(self) -> list[str]:
        return token_strings(self._both.old.table)

    @cached_property
    def _old_vectors(self) -> Tensor:
        """[old tokens, d]"""
        return self._vectors.of(self._old_strings)

    @cached_property
    def _new_strings(self) -> dict[int, str]:
        table = self._both.new.table
        return {token: table[token].decode(errors="replace") for token in self._both.mapped.unique.tolist()}

    @cached_property
    def _new_vectors(self) -> dict[int, Tensor]:
        tokens, strings = list(self._new_strings), list(self._new_strings.values())
        return dict(zip(tokens, self._vectors.of(strings), strict=True))

    @cached_property
    def _spelled(self) -> list[tuple[int, Tensor]]:
        """Unique tokens that have pieces, and these."""
        return [(token, torch.tensor(ids)) for token, ids in self._both.pieces.items() if ids]

    def _retok(self, config: InitConfig) -> RowWeights:
        tokens, pieces = [token for token, _ in self._spelled], [ids for _, ids in self._spelled]
        return weighted_rows(self._count, tokens, pieces, [torch.full((len(ids),), 1 / len(ids)) for ids in pieces])

    def _local(self, config: InitConfig) -> RowWeights:
        if not self._spelled:
            return weighted_rows(self._count, [], [], [])
        pieces = [ids for _, ids in self._spelled]
        sizes = torch.tensor([len(ids) for ids in pieces])
        owners = torch.repeat_interleave(torch.arange(len(pieces)), sizes)
        texts = [self._new_strings[token] for token, _ in self._spelled]
        lengths = torch.tensor([len(self._old_strings[source]) for ids in pieces for source in ids.tolist()])
        shares = lengths / torch.tensor([max(1, len(text)) for text in texts])[owners]
        vectors = torch.stack([self._new_vectors[token] for token, _ in self._spelled])
        alike = (vectors[owners] * self._old_vectors[torch.cat(pieces)]).sum(-1)
        weights = local_weights(alike, shares, owners, len(pieces), config.tau, config.factors)
        return weighted_rows(self._count, [token for token, _ in self._spelled], pieces, weights.split(sizes.tolist()))

    def _whole(self) -> tuple[list[int], Tensor]:
        """Unique tokens that are whole characters, and their vectors; the others are all alike."""
        tokens = [token for token, text in self._new_strings.items() if BROKEN not in text]
        return tokens, torch.stack([self._new_vectors[token] for token in tokens]) if tokens else torch.zeros(0, 1)

    def _global(self, config: InitConfig) -> RowWeights:
        tokens, vectors = self._whole()
        among = torch.tensor([at for at, text in enumerate(self._old_strings) if text and BROKEN not in text])
        if not tokens or not len(among):
            return weighted_rows(self._count, [], [], [])
        alike, places = nearest(vectors, self._old_vectors[among], min(config.k, len(among)))
        weights = neighbour_weights(alike, config.tau, config.threshold)
        return self._positive_rows(tokens, [among[row] for row in places], list(weights))

    def _focus(self, config: InitConfig) -> RowWeights:
        tokens, vectors = self._whole()
        mapped = self._both.mapped
        ids = [int(mapped.copied[token]) for token in mapped.shared.tolist()]
        among = torch.tensor([source for source in ids if BROKEN not in self._old_strings[source]])
        if not tokens or not len(among):
            return weighted_rows(self._count, [], [], [])
        sources, values, keys = list[Tensor](), list[Tensor](), self._old_vectors[among]
        for part in vectors.split(CHUNK):
            for row in sparsemax(part @ keys.T):
                sources.append(among[row > 0])
                values.append(row[row > 0])
        return weighted_rows(self._count, tokens, sources, values)

    def _positive_rows(self, tokens: list[int], sources: list[Tensor], values: list[Tensor]) -> RowWeights:
        """Rows of their weights above 0, of the tokens that have any."""
        rows = [(token, one[row > 0], row[row > 0]) for token, one, row in zip(tokens, sources, values, strict=True)]
        rows = [row for row in rows if len(row[1])]
        return weighted_rows(self._count, [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])

    def _aligned(self, config: InitConfig) -> RowWeights:
        both = self._both
        sides = [(tokenizer, table) for tokenizer, table in zip(both.tokenizers, (both.old, both.new), strict=True)]
        return aligned_rows(sides[0], sides[1], self._texts(), config.aligned)
