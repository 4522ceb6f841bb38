"""Columns of numbers on disk, one row a token, which need not fit into memory."""

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.core.errors import UserError
from recipes.core.storage.files import read_json, write_json

Shape = tuple[tuple[int, ...], type]  # of a column, and the type of its numbers
BF16 = np.uint16  # NumPy has no bf16: columns of its bits
PROGRESS = "progress.json"
SAVE_EVERY_SECONDS = 20.0


class ColumnFile:
    """A .npy file that is filled in any order.

    Written, not mapped: on a full disk a write raises an error, where writing to mapped memory ends the process.

    Args:
        path: The file.
        shape: Tokens first.
        dtype: Of the numbers.
        resume: Go on with what it holds, rather than start anew.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type, resume: bool = False) -> None:
        self._file = path.open("r+b") if resume else path.open("wb")
        self._dtype = np.dtype(dtype)
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)
        self._start, self._width = self._file.tell(), self._dtype.itemsize * int(np.prod(shape[1:]))
        self._file.truncate(self._start + shape[0] * self._width)

    def __setitem__(self, tokens: slice, values: np.ndarray) -> None:
        self._file.seek(self._start + int(tokens.start) * self._width)
        self._file.write(np.ascontiguousarray(values, self._dtype).tobytes())

    def save(self) -> None:
        """Wait until the disk has what was written."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write what is left."""
        self._file.close()


@contextmanager
def column_files(folder: Path, shapes: Mapping[str, Shape], resume: bool = False) -> Iterator[dict[str, ColumnFile]]:
    """New columns `<name>.npy` in a folder, closed behind the block.

    Args:
        folder: Where.
        shapes: Name -> shape, tokens first, and type.
        resume: Go on with what they hold.
    """
    with ExitStack() as files:
        yield {
            name: files.enter_context(closing(ColumnFile(folder / f"{name}.npy", shape, dtype, resume)))
            for name, (shape, dtype) in shapes.items()
        }


def write_rows(column: Any, offsets: np.ndarray, numbers: Sequence[int], values: np.ndarray) -> None:
    """Write the tokens of some rows into a column.

    Args:
        column: A `ColumnFile` or an array.
        offsets: int64 [all rows + 1] where each row starts.
        numbers: Which rows.
        values: [tokens, ...] of these, row after row.
    """
    start = 0
    for number in numbers:
        end = start + int(offsets[number + 1] - offsets[number])
        column[offsets[number] : offsets[number + 1]] = values[start:end]
        start = end


def read_columns(folder: Path) -> dict[str, np.ndarray]:
    """All columns in a folder by name, as `read_column` reads them."""
    return {file.stem: read_column(file) for file in sorted(folder.glob("*.npy"))}


class SavedProgress:
    """How many parts of a build are on disk, so that one that was cut off goes on behind them.

    Args:
        folder: Where its column files lie.
        plan: What decides the parts and their order; of another plan, or beside files of other sizes, nothing counts.
    """

    def __init__(self, folder: Path, plan: str) -> None:
        self._folder, self._path, self._plan = folder, folder / PROGRESS, plan
        self._saved_at = time.monotonic()
        self.done = self._read()

    def advance(self, columns: Iterable[ColumnFile]) -> None:
        """One more part is written; now and then, what is written is saved."""
        self.done += 1
        if time.monotonic() - self._saved_at >= SAVE_EVERY_SECONDS:
            for column in columns:
                column.save()
            write_json(self._path, {"plan": self._plan, "done": self.done, "sizes": self._sizes()})
            self._saved_at = time.monotonic()

    def finish(self) -> None:
        """All parts are written."""
        self._path.unlink(missing_ok=True)

    def _read(self) -> int:
        try:
            saved = read_json(self._path)
        except (OSError, UserError):
            return 0
        usable = saved.get("plan") == self._plan and saved.get("sizes") == self._sizes()
        return int(saved["done"]) if usable else 0

    def _sizes(self) -> dict[str, int]:
        return {path.name: path.stat().st_size for path in self._folder.glob("*.npy")}


def read_column(path: Path) -> np.ndarray:
    """The numbers, mapped into memory; writing to them changes no file, but PyTorch takes no array that cannot be."""
    return np.asarray(np.load(path, mmap_mode="c"))


def column_tensor(values: np.ndarray) -> Tensor:
    """The numbers of a part of a column, bf16 where it holds the bits of those."""
    tensor = torch.from_numpy(values)
    return tensor.view(torch.bfloat16) if values.dtype == BF16 else tensor


def column_array(values: Tensor, dtype: type) -> np.ndarray:
    """Numbers as a column of this type holds them."""
    if dtype is BF16:
        return values.to(torch.bfloat16).cpu().view(torch.uint16).numpy()
    return values.to(torch.int32 if dtype is np.int32 else torch.float32).cpu().numpy()
