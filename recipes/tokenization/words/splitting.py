"""Text into words, by rules that are causal: the words of a beginning are those of the text, the last one cut short.

    split("Hello, world!\n", WordsConfig())                  # [b"Hello, ", b"world!\n"]
    split("Hello, world!\n", WordsConfig(rule="unicode"))    # [b"Hello,", b" world!", b"\n"]

Joined, words are the text, to the byte.
"""

from collections.abc import Iterator

import regex

from recipes.tokenization.words.config import FIXED, WHITESPACE, WordsConfig

_WHITESPACE = regex.compile(r"\S*\s+|\S+")
# A space that stands alone goes before a word, punctuation behind it; words end at word boundaries of UAX #29 (flag w)
# and before a capital that follows a small letter. Line breaks, tabs and runs of spaces are words of their own.
_UNICODE = regex.compile(
    r"(?V1w)(?:(?<! ) (?=\S))?(?:[^\s\p{P}]+?(?:(?=[\s\p{P}])|\Z|\b|(?<=\p{Ll})(?=\p{Lu}))\p{P}*|\p{P}+)| +|[^\S ]"
)
_PARTED = regex.compile(r"([^\w\s])")
_CONTINUES = 0b10  # the two highest bits of a byte inside a character of UTF-8


def split(text: str, config: WordsConfig) -> list[bytes]:
    """The words of a text.

    Args:
        text: Any text.
        config: Which rule; longer words than `longest` are cut, between characters.
    """
    data = text.encode()
    if config.rule == FIXED:
        return [data[start : start + config.group] for start in range(0, len(data), config.group)]
    pattern = _WHITESPACE if config.rule == WHITESPACE else _UNICODE
    return [part for word in pattern.findall(text) for part in _cut(word.encode(), config.longest)]


def normalise(text: str, longest: int) -> str:
    """Words with one space behind each; punctuation marks are words, longer words than `longest` bytes are parted.

    Source:
        arXiv 2310.11628, released `dataset.py`: punctuation is split off, white space collapsed.
    """
    words = _PARTED.sub(r" \1 ", text).split()
    # With its space a word has `longest` bytes at most.
    parts = (part.decode() for word in words for part in _cut(word.encode(), longest - 1))
    return "".join(f"{part} " for part in parts)


def _cut(word: bytes, longest: int) -> Iterator[bytes]:
    """A word in parts of at most so many bytes, at least 4, no character of it cut."""
    while len(word) > longest:
        end = longest
        while word[end] >> 6 == _CONTINUES:
            end -= 1
        yield word[:end]
        word = word[end:]
    yield word
