"""Digests met before."""

from hashlib import sha256

import numpy as np

from recipes.alignment.digests import SIZE, Digests


def _digests(numbers: range) -> list[bytes]:
    return [sha256(bytes([number % 256, number // 256])).digest()[:SIZE] for number in numbers]


def test_each_is_new_once() -> None:
    digests, draws = Digests(recent=8), np.random.default_rng(0).integers(0, 300, 1000)
    known, values = set[bytes](), _digests(range(300))
    for draw in draws:
        digest = values[draw]
        assert digests.add(digest) == (digest not in known)
        known.add(digest)


def test_zeros_at_either_end_and_all_bits_count() -> None:
    zeros = [bytes(SIZE), bytes(SIZE - 1) + b"\1", b"\1" + bytes(SIZE - 1), b"\xff" * SIZE, b"\xff" + bytes(SIZE - 1)]
    digests = Digests(recent=2)
    assert [digests.add(digest) for digest in zeros * 2] == [True] * 5 + [False] * 5


def test_arrays_are_merged_so_that_few_are_searched() -> None:
    digests = Digests(recent=4)
    for digest in _digests(range(4 * 21)):  # 21 = 0b10101
        digests.add(digest)
    assert [len(array) for array in digests._sorted] == [64, 16, 4]
    assert all((array[:-1] < array[1:]).all() for array in digests._sorted)
