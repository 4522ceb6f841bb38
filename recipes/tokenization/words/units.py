"""Words spelt in bytes, characters, pieces of a BPE, or as one number of a closed vocabulary.

Ids below 256 are bytes, but in pieces and closed vocabularies. Two ids are no unit of a word: its end, which is padding
too, and the end of a document. Of bytes they are values that UTF-8 never has.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from recipes.core.data.text.pieces import read_vocabulary
from recipes.core.data.text.text_ids import TextIds
from recipes.core.models.tokenizer import train_bpe
from recipes.tokenization.tokenizers import load_new_tokenizer
from recipes.tokenization.words.config import BYTE_IDS, BYTES, CHARACTERS, CLOSED, FLAT, WordRunConfig

END, STOP = 0xFF, 0xFE
UNKNOWN = 2  # of a closed vocabulary, behind its two ends
SPACE = b" \t\n\r\v\f"
Spell = Callable[[Sequence[bytes]], list[list[int]]]


@dataclass(frozen=True)
class Units:
    """What words are spelt in.

    Attributes:
        table: Bytes of each id; empty for ends and what is unknown.
        end: The id that ends a word.
        stop: The id that ends a document, and begins one.
        spell: Words of a text -> ids of each, in order; a piece that lies in two words is of the second.
        unknown: An id without bytes that stands for words, which are then spelt in bytes, each as likely as any.
        tokenizer: The BPE of pieces, or None.
    """

    table: list[bytes]
    end: int
    stop: int
    spell: Spell
    unknown: int | None = None
    tokenizer: Any = None

    @property
    def size(self) -> int:
        """Ids that there are."""
        return len(self.table)

    @cached_property
    def begins_word(self) -> np.ndarray:
        """bool [size] ids that begin with white space, and the end of a document: before them a word is whole."""
        begins = np.array([bool(data) and data[0] in SPACE for data in self.table])
        begins[self.stop] = True
        return begins

    @cached_property
    def ends_word(self) -> np.ndarray:
        """bool [size] ids that end with white space."""
        return np.array([bool(data) and data[-1] in SPACE for data in self.table])

    def bytes_of(self, ids: Iterable[int]) -> bytes:
        """What ids say."""
        return b"".join(self.table[unit] for unit in ids)

    def extra_bits(self, word: bytes, ids: Sequence[int]) -> float:
        """Bits of the bytes of a word that the vocabulary does not know; 0 of others."""
        return 8.0 * len(word) if self.unknown is not None and self.unknown in ids else 0.0


def make_units(config: WordRunConfig, words: Callable[[], Counter[bytes]], texts: Iterable[str], key: str) -> Units:
    """The units of a run.

    Args:
        config: Which.
        words: Makes the words of the training documents, with how often each comes.
        texts: Those documents, as the model reads them.
        key: Hash of them.

    Raises:
        UserError: the user's tokenizer cannot be loaded, ends no text, or does not say the bytes of its tokens.
    """
    kind, flat = config.model.units, config.model.kind == FLAT
    ends_are_spaces = config.words.ends_are_spaces and not flat
    if kind == BYTES:
        return byte_units(ends_are_spaces)
    if kind == CHARACTERS:
        letters = _frequent_characters(words(), config.words.known)
        known = {letter: BYTE_IDS + number for number, letter in enumerate(letters)}
        return _units_of_bytes(lambda word: _characters(word, known), letters, ends_are_spaces)
    if kind == CLOSED:
        return _closed(words(), config.words.known)
    path = config.tokenizer.path
    tokenizer = load_new_tokenizer(path) if path else train_bpe(texts, key, config.tokenizer.vocabulary)
    return _pieces(tokenizer, f"tokenizer.path={path}", flat, ends_are_spaces)


def byte_units(ends_are_spaces: bool = False) -> Units:
    """Bytes."""
    return _units_of_bytes(list, [], ends_are_spaces)


def _units_of_bytes(spell: Callable[[bytes], list[int]], letters: Sequence[str], ends_are_spaces: bool) -> Units:
    """Bytes, and the characters of some of them."""

    def spell_words(words: Sequence[bytes]) -> list[list[int]]:
        return [spell(word.rstrip(b" ") if ends_are_spaces else word) for word in words]

    table = [b"" if byte in (END, STOP) else bytes([byte]) for byte in range(BYTE_IDS)]
    return Units(table + [letter.encode() for letter in letters], END, STOP, spell_words)


def _frequent_characters(words: Counter[bytes], most: int) -> list[str]:
    """The characters beyond ASCII that come most often; others are bytes."""
    counts: Counter[str] = Counter()
    for word, times in words.items():
        if not word.isascii():
            for letter in word.decode(errors="ignore"):
                counts[letter] += times
    return sorted((letter for letter in counts if not letter.isascii()), key=lambda each: (-counts[each], each))[:most]


def _characters(word: bytes, known: dict[str, int]) -> list[int]:
    ids = list[int]()
    # Bytes of a character that was cut are surrogates.
    for letter in word.decode(errors="surrogateescape"):
        number = known.get(letter)
        ids += letter.encode(errors="surrogateescape") if number is None else [number]
    return ids


def _closed(words: Counter[bytes], most: int) -> Units:
    kept = sorted(words, key=lambda word: (-words[word], word))[:most]
    table = [b"", b"", b"", *kept]
    numbers = {word: number for number, word in enumerate(table) if word}

    def spell(words: Sequence[bytes]) -> list[list[int]]:
        return [[numbers.get(word, UNKNOWN)] for word in words]

    return Units(table, 0, 1, spell, unknown=UNKNOWN)


def _pieces(tokenizer: Any, where: str, flat: bool, ends_are_spaces: bool) -> Units:
    table = read_vocabulary(tokenizer, where).table
    stop, end = tokenizer.eos_token_id, tokenizer.pad_token_id
    if end in (None, stop) and not flat:  # flat models have no ends of words
        table, end = [*table, b""], len(table)
    lengths = np.array([len(data) for data in table])
    ids, known = TextIds(tokenizer), dict[bytes, list[int]]()

    def spell_words(words: Sequence[bytes]) -> list[list[int]]:
        if new := [word for word in dict.fromkeys(words) if word not in known]:
            texts = [(word.rstrip(b" ") if ends_are_spaces else word).decode() for word in new]
            known.update(zip(new, ids.batch(texts), strict=True))
        return [known[word] for word in words]

    def spell_text(words: Sequence[bytes]) -> list[list[int]]:
        data = b"".join(words).rstrip(b" ")
        (row,) = ids.batch([data.decode(errors="replace")])
        return assign(row, lengths[row], [len(word) for word in words], len(data))

    return Units(table, stop if end is None else end, stop, spell_text if flat else spell_words, tokenizer=tokenizer)


def assign(row: Sequence[int], lengths: np.ndarray, words: Sequence[int], size: int) -> list[list[int]]:
    """Tokens of a text by the word in which the last byte of each lies.

    Args:
        row: Tokens.
        lengths: int [tokens] bytes of each; before the text there may be a space that it has not.
        words: Bytes of each word.
        size: Bytes of the text.
    """
    ends = np.cumsum(lengths) - (int(np.sum(lengths)) - size)
    numbers = np.searchsorted(np.cumsum(words), ends, side="left").clip(0, len(words) - 1)
    rows: list[list[int]] = [[] for _ in words]
    for number, token in zip(numbers.tolist(), row, strict=True):
        rows[number].append(token)
    return rows
