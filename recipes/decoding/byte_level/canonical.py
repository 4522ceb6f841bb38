"""Which token lists a tokenizer gives itself, and where its choice no longer depends on what follows.

A list of tokens is *valid* if some text begins with it: if the tokenizer gives exactly it for its bytes, or for its
bytes and something behind them. The second counts where bytes end inside a character, and behind spaces, which the
pattern that cuts texts into words shares out differently at the end of a text.
"""

import json
from codecs import getincrementaldecoder
from functools import lru_cache
from itertools import product
from typing import Any
from unicodedata import category

from tokenizers import Tokenizer

from recipes.core.data.text.text_ids import TextIds
from recipes.core.data.text.vocabulary_bytes import VocabularyBytes, flat, tokenizer_kind
from recipes.core.errors import UserError

PROBE = "\ufdd0"  # a character that no text has: what follows spaces at the end of what was read
SCANNED = 4096  # completions of a character that are looked at


class Canonical:
    """What a tokenizer makes of bytes.

    Args:
        tokenizer: A `transformers` tokenizer.
        vocabulary: Its bytes.
        where: Key and value that named it, for messages.
    """

    def __init__(self, tokenizer: Any, vocabulary: VocabularyBytes, where: str = "") -> None:
        self.vocabulary, self.where = vocabulary, where
        self._byte_level = tokenizer_kind(tokenizer, where) == "byte-level"
        self._reader = TextIds(tokenizer)
        backend = self._reader.literal
        if backend is None:
            raise UserError("the tokenizer has no tokenizer.json", where, "give one")
        self._plain = _without_space(backend)
        self._known: dict[tuple[int, ...], bool] = {}
        self.checks = 0

    def bytes_of(self, text: str) -> bytes:
        """The bytes that the tokens of a text stand for: its own, perhaps with a space before them.

        Raises:
            UserError: they are others.
        """
        tokens, data = self._reader.ids(text), text.encode()
        read = self.vocabulary.join(tokens)
        if read not in (data, b" " + data):
            what = f"the tokenizer makes {read[:40]!r} of {data[:40]!r}, and other bytes have no probability"
            raise UserError(what, self.where, "take a text that it leaves as it is")
        return read

    def encode(self, data: bytes) -> list[int]:
        """The tokens of bytes, which may end inside a character; of no more than what stands there."""
        text, rest = split(data)
        if not rest:
            return self._ids(text)
        return next(iter(self._partial(text, rest)))

    def valid(self, tokens: tuple[int, ...]) -> bool:
        """Whether some text has tokens that begin with these; the first begins a word."""
        if tokens not in self._known:
            self._known[tokens] = self._is_valid(tokens)
            self.checks += 1
        return self._known[tokens]

    def stable(self, data: bytes) -> list[int]:
        """The longest part of the tokens of a text that ends before its last word and that nothing behind it changes.

        Args:
            data: Bytes of a text that begins with a word; it may end inside a character.
        """
        text, _ = split(data)
        for start in reversed(self._words(text)):
            head = self._ids(text[:start])
            if all(self._ids(text[:end])[: len(head)] == head for end in range(start, len(text) + 1)):
                return head
        return []

    def _is_valid(self, tokens: tuple[int, ...]) -> bool:
        given, data = list(tokens), self.vocabulary.join(tokens)
        try:
            text, rest = split(data)
        except UnicodeDecodeError:
            return False
        if rest:
            return any(each == given for each in self._partial(text, rest))
        if self._ids(text) == given:
            return True
        return text[-1:].isspace() and self._ids(text + PROBE)[: len(given)] == given

    def _ids(self, text: str) -> list[int]:
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    def _partial(self, text: str, rest: bytes) -> list[list[int]]:
        """Tokens of a text that ends inside a character, for each kind of character that it may become."""
        if not self._byte_level:  # a character that is no piece is written in tokens of one byte
            singles = [next(t for t in self.vocabulary.spelling(bytes([b])) if self._is_byte(t)) for b in rest]
            return [[*self._ids(text), *singles]]
        return [self._cut(text, rest, character) for character in completions(rest)]

    def _is_byte(self, token: int) -> bool:
        return str(self._plain.id_to_token(token)).startswith("<0x")

    def _cut(self, text: str, rest: bytes, character: str) -> list[int]:
        missing, ids = len(character.encode()) - len(rest), list[int]()
        pieces = [piece for piece, _ in self._plain.pre_tokenizer.pre_tokenize_str(text + character)]
        pieces[-1] = pieces[-1][:-missing]
        for piece in pieces:
            ids += [token.id for token in self._plain.model.tokenize(piece)]
        return ids

    def _words(self, text: str) -> list[int]:
        """Where words begin, the first one left out."""
        if self._byte_level:
            words = self._plain.pre_tokenizer.pre_tokenize_str(text)
            return [start for _, (start, _) in words if start]
        return [at for at in range(1, len(text)) if text[at] == " " and text[at - 1] != " "]


def split(data: bytes) -> tuple[str, bytes]:
    """The characters of bytes, and the bytes of one that is not complete. Raises UnicodeDecodeError: no text."""
    decoder = getincrementaldecoder("utf-8")()
    text = decoder.decode(data)
    return text, decoder.getstate()[0]


@lru_cache(maxsize=4096)
def completions(rest: bytes) -> tuple[str, ...]:
    """Of each kind (letter, mark, number, ...) the first character whose UTF-8 begins with these bytes."""
    missing = (2 if rest[0] < 0xE0 else 3 if rest[0] < 0xF0 else 4) - len(rest)
    step = max(64**missing // SCANNED, 1)
    kinds: dict[str, str] = {}
    for number, behind in enumerate(product(range(0x80, 0xC0), repeat=missing)):
        if number % step:
            continue
        try:
            character = (rest + bytes(behind)).decode()
        except UnicodeDecodeError:
            continue
        kinds.setdefault(category(character)[0], character)
    return tuple(kinds[kind] for kind in sorted(kinds, key="LMNPSZC".index))


def _without_space(backend: Tokenizer) -> Tokenizer:
    """The tokenizer without the space that it puts before texts."""
    pipeline = json.loads(backend.to_str())
    for part in flat(pipeline["pre_tokenizer"]):
        if part["type"] == "ByteLevel":
            part["add_prefix_space"] = False
        if part["type"] == "Metaspace":
            part["prepend_scheme"] = "never"
    normalizer = pipeline["normalizer"]
    if normalizer and normalizer["type"] == "Sequence":
        normalizer["normalizers"] = [each for each in normalizer["normalizers"] if each["type"] != "Prepend"]
    elif normalizer and normalizer["type"] == "Prepend":
        pipeline["normalizer"] = None
    return Tokenizer.from_str(json.dumps(pipeline))
