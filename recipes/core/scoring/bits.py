"""Bits per byte of the same stretches of text, whatever tokenizer cuts them and whatever model reads them.

Losses per token of two vocabularies say nothing beside each other: the tokens are others, and other in number. All bits
of a text over its bytes do.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.core.data.text.pieces import token_rows
from recipes.core.data.text.text_ids import TextIds, start_id
from recipes.core.errors import UserError
from recipes.core.losses.kernels import token_nll
from recipes.core.messages import note
from recipes.core.models.head import last_hidden_state, output_head
from recipes.core.models.padded import batches, pad_rows
from recipes.core.models.text import context
from recipes.core.runs.progress import progress
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import read_json, sha256_json, write_json

VERSION = 2  # of how bits are computed: what the cache holds of another one is computed anew


@dataclass(frozen=True)
class TextBits:
    """What a text costs.

    Attributes:
        ids: Its tokens, without what stands before them.
        bits: float64 [tokens] of each.
        size: Bytes of the text.
        exact: Whether the tokens say the text, to the byte.
    """

    ids: list[int]
    bits: np.ndarray
    size: int
    exact: bool

    @property
    def per_byte(self) -> float:
        """Bits per byte."""
        return float(self.bits.sum()) / self.size

    @property
    def per_token(self) -> float:
        """Bits per token: the logarithm of the perplexity, to the base 2."""
        return float(self.bits.mean()) if len(self.bits) else 0.0


def text_bits(model: Any, tokenizer: Any, texts: Sequence[str], key: str, batch_tokens: int = 2048) -> list[TextBits]:
    """Bits of texts, each read from its first byte behind what begins a text.

    Rows of the model that no token has are no candidates: they get no probability.

    Args:
        model: A `TextModel` on its device, in evaluation mode.
        tokenizer: Its tokenizer.
        texts: The texts, none of them empty.
        key: Config key that says how long they are, for messages.
        batch_tokens: Padded tokens of a forward.

    Raises:
        UserError: a text does not fit the context of the model, or gives no token.
    """
    rows, start = TextIds(tokenizer).batch(texts), start_id(tokenizer)
    _check(rows, texts, context(model), key)
    bits: list[np.ndarray] = [np.zeros(0)] * len(rows)
    done = 0
    with progress("reading texts", len(rows)) as show, torch.no_grad():
        for group in batches([len(row) + 1 for row in rows], batch_tokens):
            nlls = _nlls(model.language_model, [[start, *rows[number]] for number in group], token_rows(tokenizer))
            for number, values in zip(group, nlls, strict=True):
                bits[number] = values[: len(rows[number])] / math.log(2)
            show(done := done + len(group))
    return [
        TextBits(row, values, len(text.encode()), says(tokenizer, row, text))
        for row, values, text in zip(rows, bits, texts, strict=True)
    ]


def bits_once(key: Any, read: Callable[[], list[TextBits]]) -> list[TextBits]:
    """Bits of texts, computed once for a key and kept in the cache, as reading them takes a forward of the model.

    Args:
        key: All that they depend on, as JSON: weights, tokenizer, texts.
        read: Computes them by `text_bits`.
    """

    def build(folder: Path) -> None:
        rows = [[one.ids, one.bits.tolist(), one.size, one.exact] for one in read()]
        write_json(folder / "bits.json", {"texts": rows})

    rows = read_json(build_once("text-bits", sha256_json([VERSION, key])[:32], build) / "bits.json")["texts"]
    return [TextBits(ids, np.array(bits), size, exact) for ids, bits, size, exact in rows]


def says(tokenizer: Any, ids: Sequence[int], text: str) -> bool:
    """Whether tokens are a text, to the byte; a blank that the tokenizer sets in front of every text takes nothing."""
    decoded = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return decoded in (text, f" {text}")


def warn_of_lost(texts: Sequence[TextBits], tokenizer: str) -> None:
    """Warn of texts that their tokens do not say: an unknown token costs less than what it stands for.

    Args:
        texts: As they were read.
        tokenizer: Which one cut them, in words.
    """
    if lost := sum(not one.exact for one in texts):
        note(f"warning: {lost} of {len(texts)} texts do not come back from {tokenizer}: their bits are too few")


def _nlls(language_model: Any, rows: list[list[int]], tokens: int) -> np.ndarray:
    """float64 [rows, longest - 1] nats of each token but the first."""
    ids, mask = (part.to(language_model.device) for part in pad_rows(rows))
    hidden: Tensor = last_hidden_state(language_model, input_ids=ids, attention_mask=mask)[:, :-1]
    head = output_head(language_model)
    head = head.rows(slice(0, min(tokens, head.vocabulary)))
    nll = token_nll(hidden.reshape(-1, hidden.shape[-1]), head, ids[:, 1:].reshape(-1))
    values: np.ndarray = nll.view(len(rows), -1).double().cpu().numpy()
    return values


def _check(rows: Sequence[Sequence[int]], texts: Sequence[str], room: int | None, key: str) -> None:
    empty = next((text for text, row in zip(texts, rows, strict=True) if not row), None)
    if empty is not None:
        what = f"the tokenizer has no token for anything in {empty[:40]!r}"
        raise UserError(what, "tokenizer", "give one that knows all bytes, or the characters of the text")
    longest = max((len(row) + 1 for row in rows), default=0)
    if room is not None and longest > room:
        what = f"a text of {longest:,} tokens does not fit the context of the model, {room:,} tokens"
        raise UserError(what, key, f"type a smaller {key}")
