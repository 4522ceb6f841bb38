"""Sizes of KL3M's vocabularies, and how counts of tokens are compared. Pure functions."""

from collections.abc import Iterator


def padded_size(size: int) -> int:
    """The power of two that a vocabulary is filled up to: the next one, or its own size if that is one.

    Source: arXiv 2503.17247; the released code takes 2^(floor(log2 size) + 1), which doubles a power of two.
    """
    return 1 << max(size - 1, 0).bit_length()


def fillers() -> Iterator[str]:
    """Tokens that fill a vocabulary: spaces and line breaks, two and more of them, longer and longer."""
    count = 2
    while True:
        yield from (" " * count, "\n" * count)
        count += 1


def longest_token(max_chars: int | None) -> int | None:
    """What the trainer of the library is given so that no token is longer: its limit is exclusive.

    It merges any two bytes, whatever the limit: tokens of one byte come from a vocabulary without room for merges.
    """
    return None if max_chars is None else max_chars + 1


def reduction(fewer: float, more: float) -> tuple[float, float]:
    """By which share a count is less than another, and the other over it: what the paper calls "% fewer"."""
    return 1 - fewer / more, more / fewer
