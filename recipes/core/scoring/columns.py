"""Columns of numbers on disk, one row a token, which need not fit into memory."""

from pathlib import Path

import numpy as np


class ColumnFile:
    """A .npy file that is filled in any order.

    Written, not mapped: on a full disk a write raises an error, where writing to mapped memory ends the process.

    Args:
        path: The file.
        shape: Tokens first.
        dtype: Of the numbers.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type) -> None:
        self._file = path.open("wb")
        self._dtype = np.dtype(dtype)
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)
        self._start, self._width = self._file.tell(), self._dtype.itemsize * int(np.prod(shape[1:]))
        self._file.truncate(self._start + shape[0] * self._width)

    def __setitem__(self, tokens: slice, values: np.ndarray) -> None:
        self._file.seek(self._start + int(tokens.start) * self._width)
        self._file.write(np.ascontiguousarray(values, self._dtype).tobytes())

    def close(self) -> None:
        """Write what is left."""
        self._file.close()


def read_column(path: Path) -> np.ndarray:
    """The numbers, mapped into memory; writing to them changes no file, but PyTorch takes no array that cannot be."""
    return np.asarray(np.load(path, mmap_mode="c"))
