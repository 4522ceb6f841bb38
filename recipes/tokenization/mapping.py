"""Which tokens two vocabularies share, by the bytes that they stand for, and how the old one spells the others.

Pieces are not compared as strings: "Ġthe" of one kind of tokenizer and "▁the" of another are the same bytes, and the
same token.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from recipes.core.data.text.text_ids import control_ids
from recipes.core.data.text.vocabulary_bytes import (
    WORD_MARK,
    VocabularyBytes,
    tokenizer_kind,
    unicode_bytes,
    vocabulary_bytes,
)
from recipes.core.errors import UserError

TYPES = ("BPE", "Unigram")
NO_TOKEN = -1
ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")
# Who stands in for a role that a tokenizer has not filled.
INSTEAD = {"bos_token": ("eos_token",), "eos_token": ("bos_token",), "pad_token": ("eos_token", "bos_token")}


@dataclass(frozen=True)
class VocabularyMap:
    """What becomes of the tokens of an old vocabulary in a new one.

    Attributes:
        copied: int64 [new tokens]: the old token that a new one is; `NO_TOKEN` where there is none.
        control: bool [new tokens]: control tokens, whether the old vocabulary has them or not.
        unique: int64 ids of new tokens of text that the old vocabulary lacks.
        dropped: int64 ids of old tokens of text that the new vocabulary lacks.
    """

    copied: np.ndarray
    control: np.ndarray
    unique: np.ndarray
    dropped: np.ndarray

    @property
    def shared(self) -> np.ndarray:
        """int64 ids of new tokens of text that the old vocabulary has."""
        return np.flatnonzero((self.copied != NO_TOKEN) & ~self.control)


def read_vocabulary(tokenizer: Any, where: str, rows: int | None = None) -> VocabularyBytes:
    """The bytes of a tokenizer's tokens, of those that a model has rows for.

    Args:
        tokenizer: Byte-level, or with word marks; BPE or Unigram.
        where: Key and value that named it, for the message.
        rows: Of the model; None: of no model.

    Raises:
        UserError: the bytes of its tokens are not known.
    """
    size = token_rows(tokenizer)
    ends = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return vocabulary_bytes(tokenizer, size if rows is None else rows, ends, where, TYPES)


def token_rows(tokenizer: Any) -> int:
    """Rows that a model needs for a tokenizer: one more than its largest id."""
    return 1 + max(tokenizer.get_vocab().values(), default=-1)


def map_vocabularies(
    old: VocabularyBytes, old_tokenizer: Any, new: VocabularyBytes, new_tokenizer: Any
) -> VocabularyMap:
    """Tokens of the new vocabulary that the old one has.

    Of several old tokens with the same bytes the one with the same piece is taken, else the first. Control tokens are
    the same by name, else by role (begin and end of a text, padding, unknown).

    Args:
        old: From `read_vocabulary`.
        old_tokenizer: Its tokenizer.
        new: From `read_vocabulary`.
        new_tokenizer: Its tokenizer.
    """
    copied = np.full(len(new), NO_TOKEN)
    first: dict[bytes, int] = {}
    for token, data in enumerate(old.table):
        if data:
            first.setdefault(data, token)
    known = old_tokenizer.get_vocab()
    for piece, token in new_tokenizer.get_vocab().items():
        data = new.table[token]
        if data and data in first:
            same = known.get(piece, NO_TOKEN)
            is_same = 0 <= same < len(old) and old.table[same] == data
            copied[token] = same if is_same else first[data]
    control = np.zeros(len(new), bool)
    for token, source in _control_tokens(old_tokenizer, len(old), new_tokenizer).items():
        control[token], copied[token] = True, source
    is_text = np.array([bool(data) for data in new.table])
    spelled = {data for data in new.table if data}
    dropped = [token for token, data in enumerate(old.table) if data and data not in spelled]
    return VocabularyMap(copied, control, np.flatnonzero(is_text & (copied == NO_TOKEN)), np.array(dropped, np.int64))


def _control_tokens(old: Any, rows: int, new: Any) -> dict[int, int]:
    """The old control token of each new one, `NO_TOKEN` where there is none."""
    named = {token: old.convert_ids_to_tokens(token) for token in control_ids(old) if token < rows}
    ids = {name: token for token, name in named.items()}
    sources = {token: ids.get(new.convert_ids_to_tokens(token), NO_TOKEN) for token in control_ids(new)}
    for role in ROLES:
        token, source = getattr(new, f"{role}_id"), role_id(old, role)
        if sources.get(token) == NO_TOKEN and source is not None and source < rows:
            sources[token] = source
    return sources


def role_id(tokenizer: Any, role: str) -> int | None:
    """Id of the token with a role, or of the one that stands in for it; None if there is neither."""
    ids = (getattr(tokenizer, f"{name}_id") for name in (role, *INSTEAD.get(role, ())))
    return next((int(token) for token in ids if token is not None), None)


def check_ends(tokenizer: Any, where: str) -> None:
    """Refuse a tokenizer whose texts never end.

    Raises:
        UserError: it has no token for the end or the beginning of a text.
    """
    if role_id(tokenizer, "eos_token") is None:
        hint = "save it with a tokenizer_config.json that names an eos_token"
        raise UserError("the new tokenizer has no token that ends a text", where, hint)


class Speller:
    """The tokens of a vocabulary that spell some bytes.

    The merges alone are asked, without normalizer and pre-tokenizer: bytes are no text, and a space more or less
    would be another token.

    Args:
        tokenizer: The tokenizer.
        vocabulary: Its bytes.
        where: Key and value that named it, for the message.
    """

    def __init__(self, tokenizer: Any, vocabulary: VocabularyBytes, where: str) -> None:
        self._vocabulary = vocabulary
        self._is_byte_level = tokenizer_kind(tokenizer, where, TYPES) == "byte-level"
        self._model = tokenizer.backend_tokenizer.model
        self._characters = {byte: character for character, byte in unicode_bytes().items()}
        self._ids = tokenizer.get_vocab()

    def __call__(self, data: bytes) -> list[int]:
        """Ids of the tokens, without those of bytes that the vocabulary cannot spell."""
        if self._is_byte_level:
            pieces = self._model.tokenize("".join(self._characters[byte] for byte in data))
            ids = [piece.id for piece in pieces]
        else:
            ids = self._marked(data)
        table = self._vocabulary.table
        return [token for token in ids if token < len(table) and table[token]]

    def spells(self, data: bytes, ids: list[int]) -> bool:
        """Whether tokens stand for exactly these bytes."""
        return self._vocabulary.join(ids) == data

    def _marked(self, data: bytes) -> list[int]:
        try:
            pieces = self._model.tokenize(data.decode().replace(" ", WORD_MARK))
        except UnicodeDecodeError:  # a part of a character: byte by byte
            names = [f"<0x{byte:02X}>" for byte in data]
            return [self._ids[name] for name in names if name in self._ids]
        return [piece.id for piece in pieces]
