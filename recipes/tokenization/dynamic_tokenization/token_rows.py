"""Input rows of merged tokens: the mean of their pieces, or predicted from them; the last used are kept."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from recipes.core.errors import UserError
from recipes.tokenization.dynamic_tokenization.config import FVT, HYPERNETWORK, ORIGINAL, RowsConfig
from recipes.tokenization.dynamic_tokenization.method import Lookup, fit_ridge, mean_rows, piece_features
from recipes.tokenization.dynamic_tokenization.vocabulary import BaseVocabulary, Tokens

Predict = Callable[[Sequence[Sequence[int]]], Tensor]  # rows [n, d] of tokens by their pieces
HELD_OUT = 10  # each so-manieth respelled token is not fitted


def lookup_of(model: Any) -> Lookup:
    """What reads rows off a model's embedding, as it reads them itself."""
    embedding = model.get_input_embeddings()

    @torch.no_grad()
    def rows(ids: Tensor) -> Tensor:
        read: Tensor = embedding(ids.to(embedding.weight.device))
        return read

    return rows


@dataclass(frozen=True)
class Predictor:
    """Rows by pieces.

    Attributes:
        rows: Predicts them.
        cosine: Of predicted and true rows, a value for each token of the vocabulary that was not fitted.
    """

    rows: Predict
    cosine: list[float]


@torch.no_grad()
def make_predictor(
    config: RowsConfig, base: BaseVocabulary, lookup: Lookup, network: Predict | None = None
) -> Predictor:
    """How rows are predicted.

    Ridge regression is fitted on tokens of the vocabulary, spelled by others of it, of which every tenth is held out.

    Args:
        config: How.
        base: The vocabulary.
        lookup: Its rows.
        network: What predicts them if a hypernetwork does.

    Raises:
        UserError: the vocabulary has too few tokens that others spell.
    """
    tokens = np.random.default_rng(0).permutation(sorted(base.respelled)).tolist()
    held_out, fitted = tokens[::HELD_OUT], [token for at, token in enumerate(tokens) if at % HELD_OUT]
    fitted = fitted[: config.fitted]

    def pieces(some: Sequence[int]) -> list[list[int]]:
        return [base.respelled[token] for token in some]

    mean = _mean(lookup) if config.name == FVT else None
    predict = network or mean or _ridge(config, pieces(fitted), fitted, lookup)
    held_out = held_out[: config.checked]
    true = lookup(torch.tensor(held_out, dtype=torch.long)).float()
    cosine = cosine_similarity(predict(pieces(held_out)), true).tolist() if held_out else []
    return Predictor(predict, cosine)


def _mean(lookup: Lookup) -> Predict:
    return lambda pieces: mean_rows(pieces, lookup)


def _ridge(config: RowsConfig, pieces: Sequence[Sequence[int]], tokens: Sequence[int], lookup: Lookup) -> Predict:
    if len(tokens) < 2:
        what = "no token of the vocabulary is spelled by others, so that no prediction can be fitted"
        raise UserError(what, "rows.name=ridge", "type rows.name=fvt")
    weights, intercept = fit_ridge(piece_features(pieces, lookup), lookup(torch.tensor(tokens)), config.penalty)
    return lambda spelled: piece_features(spelled, lookup) @ weights + intercept


class TokenRows:
    """The rows of tokens; what was used last is kept.

    Control tokens have their own rows, and so have tokens of the base vocabulary with `known="original"`, or where no
    others spell them.

    Args:
        config: Whose rows are predicted, and how many are kept.
        tokens: The tokens.
        lookup: Rows of the base vocabulary.
        predict: Rows of others, by their pieces.
    """

    def __init__(self, config: RowsConfig, tokens: Tokens, lookup: Lookup, predict: Predict) -> None:
        self._config, self._tokens, self._lookup, self._predict = config, tokens, lookup, predict
        self._kept: OrderedDict[int, Tensor] = OrderedDict()
        self.asked = self.missed = 0

    def __call__(self, numbers: Sequence[int]) -> Tensor:
        """[n, d] rows of different tokens; those of one call are never dropped for each other."""
        missing = [number for number in numbers if number not in self._kept]
        self.asked, self.missed = self.asked + len(numbers), self.missed + len(missing)
        self._kept.update(zip(missing, self._rows(missing), strict=True))
        for number in numbers:
            self._kept.move_to_end(number)
        rows = torch.stack([self._kept[number] for number in numbers])
        while len(self._kept) > max(self._config.cache, len(numbers)):
            self._kept.popitem(last=False)
        return rows

    def of_texts(self, texts: Sequence[Sequence[int]]) -> list[Tensor]:
        """[tokens, d] of each text; all that are missing are predicted at once."""
        distinct = sorted({token for text in texts for token in text})
        places = {token: place for place, token in enumerate(distinct)}
        rows = self(distinct)
        return [rows[[places[token] for token in text]] for text in texts]

    def _is_fixed(self, number: int) -> bool:
        if not self._tokens.is_base(number):
            return False
        is_alone = self._config.name != HYPERNETWORK and number not in self._tokens.base.respelled
        return self._config.known == ORIGINAL or is_alone or not self._tokens.data(number)

    def _pieces(self, number: int) -> list[int]:
        """What a row is predicted from; a hypernetwork has learnt the rows of known tokens from themselves."""
        is_respelled = self._tokens.is_base(number) and self._config.name != HYPERNETWORK
        return self._tokens.base.respelled[number] if is_respelled else self._tokens.pieces(number)

    @torch.no_grad()
    def _rows(self, numbers: Sequence[int]) -> list[Tensor]:
        """Rows of tokens, all predicted ones in one call."""
        rows: dict[int, Tensor] = {}
        fixed = [number for number in numbers if self._is_fixed(number)]
        others = [number for number in numbers if not self._is_fixed(number)]
        if fixed:
            rows |= zip(fixed, self._lookup(torch.tensor(fixed)), strict=True)
        if others:
            rows |= zip(others, self._predict([self._pieces(number) for number in others]), strict=True)
        return [rows[number] for number in numbers]
