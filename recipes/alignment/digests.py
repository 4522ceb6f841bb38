"""Digests met before, at 16 bytes each: a set of Python's would take over a hundred."""

import numpy as np

SIZE = 16  # bytes of a digest
KIND = f"S{SIZE}"
RECENT = 1 << 16


class Digests:
    """A set of digests of `SIZE` bytes.

    The last ones are in a set. Once it is full it becomes a sorted array, merged with all arrays that are no longer, so
    that there are never more of them than the number of digests has binary digits.

    Args:
        recent: How many digests fill the set.
    """

    def __init__(self, recent: int = RECENT) -> None:
        self._size, self._recent, self._sorted = recent, set[bytes](), list[np.ndarray]()

    def add(self, digest: bytes) -> bool:
        """Put one more in; whether it is new."""
        if digest in self._recent or any(_holds(array, digest) for array in self._sorted):
            return False
        self._recent.add(digest)
        if len(self._recent) >= self._size:
            self._merge()
        return True

    def _merge(self) -> None:
        array = np.array(list(self._recent), KIND)
        self._recent.clear()
        while self._sorted and len(self._sorted[-1]) <= len(array):
            array = np.concatenate([self._sorted.pop(), array])
        array.sort()
        self._sorted.append(array)


def _holds(array: np.ndarray, digest: bytes) -> bool:
    at = int(np.searchsorted(array, np.bytes_(digest)))
    # numpy leaves out zeros at the end of what it returns.
    return at < len(array) and array[at] == digest.rstrip(b"\0")
