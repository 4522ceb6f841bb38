"""The tokens of a model as the bytes they stand for, and longer ones that merges make of them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tokenizers import pre_tokenizers

from recipes.core.data.text.pieces import Speller, read_vocabulary
from recipes.core.data.text.text_ids import control_ids
from recipes.core.data.text.vocabulary_bytes import parts
from recipes.tokenization.dynamic_tokenization.method import PRETOKENS, longest_prefixes, may_merge


@dataclass(frozen=True)
class BaseVocabulary:
    """The tokens of a model.

    Attributes:
        tokenizer: Its tokenizer.
        table: Bytes of each id, a word's first token with a space before it; empty: a control token, or no token.
        spell: Ids that spell some bytes; they may spell others where these cannot be spelled.
        count_words: Pre-tokens of a text.
    """

    tokenizer: Any
    table: Sequence[bytes]
    spell: Callable[[bytes], list[int]]
    count_words: Callable[[str], int]

    @cached_property
    def ids(self) -> Mapping[bytes, int]:
        """The first token of each string of bytes."""
        numbers: dict[bytes, int] = {}
        for token, data in enumerate(self.table):
            if data:
                numbers.setdefault(data, token)
        return numbers

    @cached_property
    def longest(self) -> int:
        """Bytes of the longest token."""
        return max(map(len, self.table), default=0)

    @cached_property
    def respelled(self) -> dict[int, list[int]]:
        """Tokens as others spell them: of a BPE the two of a token's last merge, else longest prefixes but itself."""
        model = json.loads(self.tokenizer.backend_tokenizer.to_str())["model"]
        if model["type"] != "BPE":
            spelled = {
                token: longest_prefixes(data, self.ids, self.longest, data) for token, data in enumerate(self.table)
            }
            return {token: ids for token, ids in spelled.items() if ids}
        vocabulary, pairs = model["vocab"], dict[int, list[int]]()
        for merge in model["merges"]:
            left, right = merge.split(" ") if isinstance(merge, str) else merge
            ids = [vocabulary.get(piece, len(self.table)) for piece in (left + right, left, right)]
            if all(token < len(self.table) and self.table[token] for token in ids):
                pairs.setdefault(ids[0], ids[1:])
        return pairs


def read_base(tokenizer: Any, rows: int, where: str) -> BaseVocabulary:
    """The tokens of a tokenizer that a model has rows for.

    Args:
        tokenizer: WordPiece; or BPE or Unigram, byte-level or with word marks.
        rows: Of the model.
        where: Key and value that named it, for the message.

    Raises:
        UserError: the bytes of its tokens are not known.
    """
    backend = tokenizer.backend_tokenizer if tokenizer.is_fast else None
    pipeline = json.loads(backend.to_str()) if backend is not None else {"model": {"type": ""}}
    if backend is not None and pipeline["model"]["type"] == "WordPiece":
        return _word_pieces(tokenizer, backend, pipeline["model"]["continuing_subword_prefix"], rows)
    vocabulary = read_vocabulary(tokenizer, where, rows)
    is_byte_level = any(part["type"] == "ByteLevel" for part in parts(pipeline))
    cut = (tokenizer.backend_tokenizer.pre_tokenizer if is_byte_level else None) or pre_tokenizers.ByteLevel(
        add_prefix_space=False
    )
    return BaseVocabulary(
        tokenizer,
        vocabulary.table,
        Speller(tokenizer, vocabulary, where),
        lambda text: len(cut.pre_tokenize_str(text)),
    )


def _word_pieces(tokenizer: Any, backend: Any, prefix: str, rows: int) -> BaseVocabulary:
    """Pieces with the prefix continue a word; all others begin one, and get the space that byte-level tokens have."""
    control, table = control_ids(tokenizer), [b""] * rows
    for piece, token in tokenizer.get_vocab().items():
        if token < rows and token not in control:
            table[token] = (piece[len(prefix) :] if piece.startswith(prefix) else f" {piece}").encode()
    cut = backend.pre_tokenizer or pre_tokenizers.BertPreTokenizer()

    def spell(data: bytes) -> list[int]:
        return longest_prefixes(data, base.ids, base.longest)

    base = BaseVocabulary(tokenizer, table, spell, lambda text: len(cut.pre_tokenize_str(text.removeprefix(" "))))
    return base


class Tokens:
    """Tokens of the base vocabulary under their ids, and longer ones under the numbers behind them.

    Args:
        base: The vocabulary.
        boundary: What merges never cross, as in `may_merge`.
        allow_spaces: As in `may_merge`.
    """

    def __init__(self, base: BaseVocabulary, boundary: str = PRETOKENS, allow_spaces: bool = False) -> None:
        self.base, self._boundary, self._allow_spaces = base, boundary, allow_spaces
        self._bytes, self._numbers = list(base.table), dict(base.ids)
        self._parts: dict[int, list[int]] = {}

    def join(self, left: int, right: int) -> int | None:
        """The token that two adjacent ones become; None if they may not be merged."""
        one, other = self._bytes[left], self._bytes[right]
        if not one or not other or not may_merge(
            one, other, self._boundary, self.base.count_words, self._allow_spaces
        ):  # fmt: skip
            return None
        return self.number(one + other, [*self._parts.get(left, [left]), *self._parts.get(right, [right])])

    def number(self, data: bytes, pieces: Sequence[int] = ()) -> int:
        """The token of some bytes; `pieces` are base tokens that spell it if the vocabulary does not."""
        if data not in self._numbers:
            self._numbers[data] = len(self._bytes)
            self._parts[len(self._bytes)] = list(pieces)
            self._bytes.append(data)
        return self._numbers[data]

    def data(self, token: int) -> bytes:
        """Its bytes; none of a control token."""
        return self._bytes[token]

    def is_base(self, token: int) -> bool:
        """Whether the base vocabulary has it."""
        return token < len(self.base.table)

    def pieces(self, token: int) -> list[int]:
        """Base tokens that spell it: itself if it is one, else those that the merges alone make of its bytes."""
        if self.is_base(token):
            return [token]
        data = self._bytes[token]
        spelled = self.base.spell(data)
        exact = b"".join(self.base.table[piece] for piece in spelled) == data
        return spelled if exact else self._parts[token]

    def text(self, token: int) -> str:
        """What it says, for people."""
        name = self._bytes[token].decode(errors="replace")
        return name or str(self.base.tokenizer.convert_ids_to_tokens(token))
