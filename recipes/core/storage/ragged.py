"""Rows of different lengths on disk: written as they come, mapped into memory by every process that reads them."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np


class RaggedFile:
    """Rows of numbers that are written one behind another; only the one in hand is in memory.

    Args:
        path: Name of the files without their endings.
        dtype: Of the numbers.
    """

    def __init__(self, path: Path, dtype: type) -> None:
        self._dtype, self._end = np.dtype(dtype), 0
        self._values, self._ends = (_file(path, ending).open("wb") for ending in ENDINGS)

    def __enter__(self) -> "RaggedFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._values.close()
        self._ends.close()

    def extend(self, rows: Iterable[Any]) -> None:
        """Write rows: arrays or lists of numbers."""
        arrays = [np.asarray(row, self._dtype) for row in rows]
        ends = self._end + np.cumsum([len(array) for array in arrays], dtype=np.int64)
        self._values.write(b"".join(array.tobytes() for array in arrays))
        self._ends.write(ends.tobytes())
        self._end = int(ends[-1]) if len(ends) else self._end


class Ragged:
    """Rows that `RaggedFile` wrote. Nothing is read before it is asked for; a copy in another process maps them anew.

    Args:
        path: As `RaggedFile` was given it.
        dtype: Of the numbers.
    """

    def __init__(self, path: Path, dtype: type) -> None:
        self.path, self.dtype = path, dtype

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, number: int) -> np.ndarray:
        number = range(len(self))[number]
        return self.values[self.ends[number - 1] if number else 0 : self.ends[number]]

    @cached_property
    def values(self) -> np.ndarray:
        """The numbers of all rows, one row behind another."""
        return map_numbers(_file(self.path, ENDINGS[0]), self.dtype)

    @cached_property
    def ends(self) -> np.ndarray:
        """int64 [rows]: where each row ends among `values`."""
        return map_numbers(_file(self.path, ENDINGS[1]), np.int64)

    def lengths(self) -> np.ndarray:
        """int64 [rows]"""
        return np.diff(self.ends, prepend=0)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "dtype": self.dtype}


ENDINGS = ("values", "ends")


def _file(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.name}.{ending}")


def map_numbers(path: Path, dtype: type | str) -> np.ndarray:
    """A plain array over a file, not to be written; slices of numpy's own mapped arrays take ten times as long."""
    return np.asarray(np.memmap(path, dtype, mode="r")).view(np.ndarray) if path.stat().st_size else np.zeros(0, dtype)
