"""Which tokens two vocabularies share, by the bytes that they stand for.

Pieces are not compared as strings: "Ġthe" of one kind of tokenizer and "▁the" of another are the same bytes, and the
same token.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from recipes.core.data.text.text_ids import control_ids
from recipes.core.data.text.vocabulary_bytes import (
    VocabularyBytes,
)
from recipes.core.errors import UserError

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
