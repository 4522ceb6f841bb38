"""The rows of new tokens, composed as an arm says: pieces, neighbours, shared tokens, or places in text."""

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from recipes.core.models.rows import RowWeights, mean_of_pieces, weighted_rows
from recipes.tokenization.neighbours import focus_rows, neighbour_rows
from recipes.tokenization.strings import BROKEN, StringVectors, token_strings
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
from recipes.tokenization.tokenadapt.method import local_weights, mix
from recipes.tokenization.vocabularies import Vocabularies, copied_rows


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

    def _retok(self, config: InitConfig) -> RowWeights:
        return mean_of_pieces(self._count, self._both.spelled)

    def _local(self, config: InitConfig) -> RowWeights:
        spelled = self._both.spelled
        if not spelled:
            return weighted_rows(self._count, [], [], [])
        pieces = [ids for _, ids in spelled]
        sizes = torch.tensor([len(ids) for ids in pieces])
        owners = torch.repeat_interleave(torch.arange(len(pieces)), sizes)
        texts = [self._new_strings[token] for token, _ in spelled]
        lengths = torch.tensor([len(self._old_strings[source]) for ids in pieces for source in ids.tolist()])
        shares = lengths / torch.tensor([max(1, len(text)) for text in texts])[owners]
        vectors = torch.stack([self._new_vectors[token] for token, _ in spelled])
        alike = (vectors[owners] * self._old_vectors[torch.cat(pieces)]).sum(-1)
        weights = local_weights(alike, shares, owners, len(pieces), config.tau, config.factors)
        return weighted_rows(self._count, [token for token, _ in spelled], pieces, weights.split(sizes.tolist()))

    def _whole(self) -> tuple[list[int], Tensor]:
        """Unique tokens that are whole characters, and their vectors; the others are all alike."""
        tokens = [token for token, text in self._new_strings.items() if BROKEN not in text]
        return tokens, torch.stack([self._new_vectors[token] for token in tokens]) if tokens else torch.zeros(0, 1)

    def _global(self, config: InitConfig) -> RowWeights:
        tokens, vectors = self._whole()
        among = torch.tensor([at for at, text in enumerate(self._old_strings) if text and BROKEN not in text])
        options = (config.k, config.tau, config.threshold)
        return neighbour_rows(self._count, tokens, vectors, among, self._old_vectors[among], *options)

    def _focus(self, config: InitConfig) -> RowWeights:
        tokens, vectors = self._whole()
        mapped = self._both.mapped
        ids = [int(mapped.copied[token]) for token in mapped.shared.tolist()]
        among = torch.tensor([source for source in ids if BROKEN not in self._old_strings[source]])
        return focus_rows(self._count, tokens, vectors, among, self._old_vectors[among])

    def _aligned(self, config: InitConfig) -> RowWeights:
        both = self._both
        sides = [(tokenizer, table) for tokenizer, table in zip(both.tokenizers, (both.old, both.new), strict=True)]
        return aligned_rows(sides[0], sides[1], self._texts(), config.aligned)
