"""Which characters of a script a tokenizer has a token for, which it puts together, and which it cannot spell."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recipes.core.data.text.text_ids import TextIds
from recipes.core.data.text.vocabulary_bytes import WORD_MARK

# Blocks of Unicode, first and last code point.
BLOCKS = {
    "Latin": (0x41, 0x24F),
    "Greek": (0x370, 0x3FF),
    "Cyrillic": (0x400, 0x52F),
    "Hebrew": (0x590, 0x5FF),
    "Arabic": (0x600, 0x6FF),
    "Devanagari": (0x900, 0x97F),
    "Thai": (0xE00, 0xE7F),
    "Kana": (0x3040, 0x30FF),
    "Hangul": (0xAC00, 0xD7A3),
    "Han": (0x4E00, 0x9FFF),
}
MOST = 2_000  # characters of a script that are looked at


@dataclass(frozen=True)
class Coverage:
    """Shares of some characters, which sum to 1: those that are one token, need several, and do not come back."""

    one: float
    pieces: float
    lost: float


def characters_of(script: str) -> list[str]:
    """The letters and marks of a script's block that are their own compatibility form; of many every so manyth."""
    first, last = BLOCKS[script]
    every = map(chr, range(first, last + 1))
    kept = [each for each in every if unicodedata.category(each)[0] in "LM" and unicodedata.is_normalized("NFKC", each)]
    return kept[:: -(-len(kept) // MOST)]


def coverage(tokenizer: Any, characters: Sequence[str]) -> Coverage:
    """How a tokenizer spells each of some characters, standing alone.

    What it writes differently (in small letters, without accents) does not come back, and is lost. A mark for the
    begin of a word is no piece of a character.

    Args:
        tokenizer: Of `transformers`.
        characters: At least one.
    """
    rows = TextIds(tokenizer).batch(characters)
    texts = tokenizer.batch_decode(rows, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    kinds = {"one": 0, "pieces": 0, "lost": 0}
    for character, row, text in zip(characters, rows, texts, strict=True):
        pieces = sum(piece != WORD_MARK for piece in tokenizer.convert_ids_to_tokens(row))
        kinds["lost" if text.strip() != character else "one" if pieces == 1 else "pieces"] += 1
    return Coverage(**{kind: count / len(characters) for kind, count in kinds.items()})
