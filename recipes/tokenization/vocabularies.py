"""An old vocabulary and a new one side by side: how the one spells the tokens that it lacks of the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from recipes.core.data.text.vocabulary_bytes import VocabularyBytes
from recipes.tokenization.mapping import Speller, VocabularyMap
from recipes.tokenization.rows import RowWeights, weighted_rows


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

    @cached_property
    def unspelled(self) -> frozenset[int]:
        """Unique tokens of which the old tokens do not spell every byte."""
        return frozenset(token for token, ids in self.pieces.items() if self.old.join(ids) != self.new.table[token])

    @cached_property
    def spelled(self) -> list[tuple[int, Tensor]]:
        """Unique tokens that have pieces, and these."""
        return [(token, torch.tensor(ids)) for token, ids in self.pieces.items() if ids]


def mean_of_pieces(count: int, spelled: Sequence[tuple[int, Tensor]]) -> RowWeights:
    """The mean of the pieces of each token.

    Args:
        count: New rows.
        spelled: Tokens and the old tokens that spell them, at least one each.
    """
    tokens, pieces = [token for token, _ in spelled], [ids for _, ids in spelled]
    return weighted_rows(count, tokens, pieces, [torch.full((len(ids),), 1 / len(ids)) for ids in pieces])
