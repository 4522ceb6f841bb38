"""An old vocabulary and a new one side by side: how the one spells the tokens that it lacks of the other."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.core.data.text.pieces import Speller
from recipes.core.data.text.vocabulary_bytes import VocabularyBytes
from recipes.core.models.rows import RowWeights
from recipes.tokenization.mapping import NO_TOKEN, VocabularyMap


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


def copied_rows(mapped: VocabularyMap) -> RowWeights:
    """Shared tokens and control tokens as they are."""
    targets = np.flatnonzero(mapped.copied != NO_TOKEN)
    sources = torch.from_numpy(mapped.copied[targets].astype(np.int64))
    return RowWeights(len(mapped.copied), torch.from_numpy(targets), sources, torch.ones(len(targets)))
