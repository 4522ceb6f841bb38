"""Levenshtein's distance of two sequences, and which places of one are those of the other."""

from collections.abc import Iterator, Sequence

import numpy as np

Codes = np.ndarray


def codes(items: str | Sequence[int]) -> Codes:
    """int64 numbers of a text's characters, or of tokens."""
    return np.array([ord(item) for item in items] if isinstance(items, str) else items, np.int64)


def edit_distance(one: str | Sequence[int], other: str | Sequence[int]) -> int:
    """Fewest items to put in, leave out or replace that make one sequence of the other."""
    last = np.zeros(0, np.int64)
    for row in _rows(codes(one), codes(other)):
        last = row
    return int(last[-1])


def edit_share(one: str | Sequence[int], other: str | Sequence[int]) -> float:
    """The distance over the length of the longer sequence, from 0 to 1; 0 if both are empty."""
    return edit_distance(one, other) / max(len(one), len(other), 1)


def aligned_places(one: str | Sequence[int], other: str | Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """How many aligned pairs of items lie before each place of two sequences.

    Items are aligned that are equal or replaced by each other in one of the shortest ways from one sequence to the
    other. Two places are the same if as many pairs lie before them: what is put in or left out moves none behind it.

    Returns:
        int64 [len(one) + 1] and [len(other) + 1]; the last place of each is its end.
    """
    left, right = codes(one), codes(other)
    table = np.stack(list(_rows(left, right)))
    at, to, pairs = len(left), len(right), list[tuple[int, int]]()
    while at and to:
        if table[at, to] == table[at - 1, to - 1] + (left[at - 1] != right[to - 1]):
            at, to = at - 1, to - 1
            pairs.append((at, to))
        elif table[at, to] == table[at - 1, to] + 1:
            at -= 1
        else:
            to -= 1
    firsts, seconds = np.array(pairs[::-1], np.int64).reshape(-1, 2).T
    return np.searchsorted(firsts, np.arange(len(left) + 1)), np.searchsorted(seconds, np.arange(len(right) + 1))


def _rows(one: Codes, other: Codes) -> Iterator[np.ndarray]:
    """Of each prefix of one sequence the distances to all prefixes of the other.

    D[i, j] = min(D[i-1, j] + 1, D[i-1, j-1] + (a_i != b_j), D[i, j-1] + 1); the last is a running minimum of D - j.
    """
    places = np.arange(len(other) + 1)
    row = places
    yield row
    for item in one:
        above = np.minimum(row[1:] + 1, row[:-1] + (other != item))
        row = np.minimum.accumulate(np.concatenate([row[:1] + 1, above]) - places) + places
        yield row
