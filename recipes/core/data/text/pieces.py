"""Which bytes the tokens of a tokenizer stand for, how many rows they need, and which of them spell some bytes."""

from typing import Any

from recipes.core.data.text.vocabulary_bytes import (
    WORD_MARK,
    VocabularyBytes,
    tokenizer_kind,
    unicode_bytes,
    vocabulary_bytes,
)

TYPES = ("BPE", "Unigram")


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
