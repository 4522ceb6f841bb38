"""The rows of a new tokenizer's tokens, by a network or as weighted sums of old rows, as an arm says."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from recipes.core.data.text.text_ids import TextIds
from recipes.core.models.rows import RowWeights, mean_of_pieces, normal_rows, padded, weighted_rows
from recipes.tokenization.hypernetwork import Hypernetwork, predict_rows
from recipes.tokenization.mapping import role_id
from recipes.tokenization.neighbours import focus_rows, neighbour_rows
from recipes.tokenization.old_rows import OldRows
from recipes.tokenization.strings import BROKEN, StringVectors, token_strings
from recipes.tokenization.vocabularies import copied_rows
from recipes.tokenization.zett.config import BFVT, FOCUS, FVT, HYPERNETWORK, LEXICAL, OFA, RANDOM, RowsConfig
from recipes.tokenization.zett.method import token_vectors
from recipes.tokenization.zett.targets import Target, control_rows


class RowMaker:
    """Makes the rows of a target.

    Args:
        config: How.
        source: The old model.
        vectors: Makes vectors of strings; called only if an arm asks for likeness.
        texts: Makes the texts whose words are counted; called only by `ofa`.
        seed: Of random rows.
    """

    def __init__(
        self,
        config: RowsConfig,
        source: OldRows,
        vectors: Callable[[], StringVectors],
        texts: Callable[[], Sequence[str]],
        seed: int,
    ) -> None:
        self._config, self._source, self._make_vectors, self._texts = config, source, vectors, texts
        self._seed = seed

    def __call__(
        self, target: Target, network: Hypernetwork | None = None, source: OldRows | None = None
    ) -> tuple[Tensor, int]:
        """[rows, width of a row] of a target, and how many of its tokens got the fallback.

        Args:
            target: The new tokenizer.
            network: Predicts rows; asked for by `hypernetwork` alone.
            source: Whose rows the others are made of; None: the old model's.
        """
        old, name = (source or self._source).rows, self._config.name
        count = len(target.both.new)
        rows = self._fallback(old, padded(count, self._config.pad_to))
        if name == HYPERNETWORK and network is not None:
            tokens = torch.tensor(target.tokens, device=old.device)
            rows[tokens] = predict_rows(network, target.pieces(self._source))
            missing = 0
        else:
            weights = self._weights(target)
            weights.fill(rows, old)
            missing = int(weights.missing[torch.tensor(target.tokens, dtype=torch.long)].sum())
        ids, copied = control_rows(target)
        rows[ids.to(old.device)] = old[copied.to(old.device)]
        return rows, missing

    def _weights(self, target: Target) -> RowWeights:
        makers: dict[str, Callable[[Target], RowWeights]] = {
            FVT: lambda target: self._mean_of_pieces(target, whole=True),
            BFVT: lambda target: self._mean_of_pieces(target, whole=False),
            FOCUS: self._focus,
            OFA: self._ofa,
        }
        count = len(target.both.new)
        nothing = weighted_rows(count, [], [], [])
        if self._config.name == RANDOM:
            return nothing
        copied = copied_rows(target.both.mapped)
        return copied if self._config.name == LEXICAL else copied.with_others(makers[self._config.name](target))

    def _fallback(self, old: Tensor, count: int) -> Tensor:
        unknown = role_id(self._source.tokenizer, "unk_token")
        if RANDOM in (self._config.fallback, self._config.name):
            return normal_rows(old, count, torch.Generator().manual_seed(self._seed))
        return (old.mean(0) if unknown is None else old[unknown]).expand(count, -1).clone()

    def _mean_of_pieces(self, target: Target, whole: bool) -> RowWeights:
        both = target.both
        spelled = [pair for pair in both.spelled if not (whole and pair[0] in both.unspelled)]
        return mean_of_pieces(len(both.new), spelled)

    @cached_property
    def _vectors(self) -> StringVectors:
        return self._make_vectors()

    def _focus(self, target: Target) -> RowWeights:
        """Of tokens that are whole characters; the strings of the others are all alike."""
        both = target.both
        strings = [token_strings(table.table) for table in (both.old, both.new)]
        tokens = [token for token in both.mapped.unique.tolist() if BROKEN not in strings[1][token]]
        shared = [int(both.mapped.copied[token]) for token in both.mapped.shared.tolist()]
        among = [token for token in shared if BROKEN not in strings[0][token]]
        vectors = self._vectors.of([strings[1][token] for token in tokens])
        keys = self._vectors.of([strings[0][token] for token in among])
        return focus_rows(len(both.new), tokens, vectors, torch.tensor(among), keys)

    def _ofa(self, target: Target) -> RowWeights:
        """Of tokens that are in a frequent word; the nearest old tokens that are in one too."""
        both, options = target.both, self._config
        words, counts = self._words
        vectors = self._vectors.of(words)
        sides = zip(both.tokenizers, (both.old, both.new), strict=True)
        (keys, has_key), (queries, known) = (
            token_vectors(vectors, counts, TextIds(tokenizer).batch([f" {word}" for word in words]), len(table))
            for tokenizer, table in sides
        )
        tokens = [token for token in both.mapped.unique.tolist() if known[token]]
        among = has_key.nonzero()[:, 0]
        rest: Any = (options.neighbours, options.tau, -1.0)
        return neighbour_rows(len(both.new), tokens, queries[tokens], among, keys[among], *rest)

    @cached_property
    def _words(self) -> tuple[list[str], Tensor]:
        counter = Counter(word for text in self._texts() for word in text.split())
        kept = counter.most_common(self._config.words)
        return [word for word, _ in kept], torch.tensor([float(count) for _, count in kept])
