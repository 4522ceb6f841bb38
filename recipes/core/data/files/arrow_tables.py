"""Tables that Arrow reads: Parquet files, and data sets of the library `datasets`."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.data.files.json_records import Bad, Number
from recipes.core.data.files.tables import BATCH, IndexedTable, Record, Table, reading
from recipes.core.errors import UserError
from recipes.core.storage.cache import build_once, home
from recipes.core.storage.files import sha256_json
from recipes.core.storage.fingerprints import fingerprint

VERSION = 1


class ParquetTable(Table):
    """Records of a Parquet file.

    Raises:
        UserError: it cannot be read.
    """

    def __init__(self, path: Path, name: str, root: Path) -> None:
        import pyarrow.parquet as pq

        self.path, self.name, self.root = path, name, root
        with reading(path):
            metadata = pq.read_metadata(path)
            self._columns = metadata.schema.to_arrow_schema().names
        self._length = int(metadata.num_rows)
        if twice := next((name for name in self._columns if self._columns.count(name) > 1), None):
            raise UserError(f"has two columns {twice!r}", str(path))

    def __len__(self) -> int:
        return self._length

    @property
    def columns(self) -> list[str]:
        return list(self._columns)

    def rows(self, names: Sequence[str]) -> Iterator[Record | Bad]:
        for batch in self._batches(names):
            yield from records(batch)

    def fingerprint(self) -> str:
        return fingerprint({self.name: self.path}, home())

    def with_index(self, names: Sequence[str]) -> IndexedTable:
        """A copy of the columns in the cache, as Arrow lays them out: a Parquet file has no single rows."""
        state = self.path.stat()
        stamp = [str(self.path.resolve()), state.st_size, state.st_mtime_ns]
        folder = build_once("tables", sha256_json([VERSION, stamp, sorted(names)]), lambda to: self._copy(to, names))
        return ArrowTable(folder / "rows.arrow", self)

    def _batches(self, names: Sequence[str]) -> Iterator[Any]:
        import pyarrow.parquet as pq

        with reading(self.path), pq.ParquetFile(self.path, buffer_size=1 << 20) as file:
            yield from file.iter_batches(batch_size=BATCH, columns=[name for name in self._columns if name in names])

    def _copy(self, folder: Path, names: Sequence[str]) -> None:
        import pyarrow as pa

        batches = self._batches(names)
        first = next(batches, None)
        schema = pa.schema([]) if first is None else first.schema
        with pa.ipc.new_stream(str(folder / "rows.arrow"), schema) as file:
            if first is not None:
                file.write_batch(first)
            for batch in batches:
                file.write_batch(batch)


class ArrowTable(IndexedTable):
    """A file in Arrow's own layout, mapped into memory by each process that reads it."""

    def __init__(self, file: Path, source: Table) -> None:
        self._file, self._source, self.name, self.root = file, source, source.name, source.root

    def __len__(self) -> int:
        return len(self._source)

    @property
    def columns(self) -> list[str]:
        return list(self._table.column_names)

    def rows(self, names: Sequence[str]) -> Iterator[Record | Bad]:
        wanted = [name for name in self._table.column_names if name in names]
        for batch in self._table.select(wanted).to_batches():
            yield from records(batch)

    def row(self, index: int) -> Record:
        return _only(self._table.slice(index, 1), self.place(index))

    def place(self, index: int) -> str:
        return self._source.place(index)

    def fingerprint(self) -> str:
        return self._source.fingerprint()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_table"}

    @cached_property
    def _table(self) -> Any:
        import pyarrow as pa

        return pa.ipc.open_stream(pa.memory_map(str(self._file))).read_all()


class DatasetTable(IndexedTable):
    """Records of a split of `datasets`, as they are stored: images are not decoded."""

    def __init__(self, rows: Any, name: str, root: Path) -> None:
        self._rows, self.name, self.root = rows.with_format("arrow"), name, root

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def columns(self) -> list[str]:
        return list(self._rows.column_names)

    def rows(self, names: Sequence[str]) -> Iterator[Record | Bad]:
        for batch in self._only(names).iter(BATCH):
            yield from records(batch)

    def fingerprint(self) -> str:
        return sha256_json([self.name, self._rows._fingerprint])

    def with_index(self, names: Sequence[str]) -> IndexedTable:
        return DatasetTable(self._only(names), self.name, self.root)

    def row(self, index: int) -> Record:
        return _only(self._rows[index], self.place(index))

    def _only(self, names: Sequence[str]) -> Any:
        return self._rows.select_columns([name for name in self._rows.column_names if name in names])


def records(batch: Any) -> Iterator[Record | Bad]:
    """The rows of an Arrow table or batch, or what is wrong with them."""
    names = batch.schema.names
    if not names:
        yield from ({} for _ in range(batch.num_rows))
        return
    for values in zip(*(_cells(batch.column(name)) for name in names), strict=True):
        bad = next((value for value in values if isinstance(value, Bad)), None)
        yield dict(zip(names, values, strict=True)) if bad is None else bad


def _only(batch: Any, where: str) -> Record:
    [row] = records(batch)
    if isinstance(row, Bad):
        raise UserError(str(row), where)
    return row


def _cells(column: Any) -> list[Any]:
    try:
        values = column.to_pylist()
    except (ValueError, OverflowError, UnicodeDecodeError):
        return [_cell(value) for value in column]
    kind = str(column.type)
    if kind in ("float", "halffloat"):  # as double they would show digits that nobody wrote
        short = np.float32 if kind == "float" else np.float16
        return [None if value is None else _digits(short(value)) for value in values]
    if kind.startswith("decimal"):
        return [None if value is None else Number(f"{value:f}") for value in values]
    return list(values)


def _digits(value: Any) -> Number:
    """The shortest digits that name a number of few bits, without an exponent where Python writes none."""
    plain = np.isfinite(value) and (value == 0 or 1e-4 <= abs(value) < 1e16)
    return Number(np.format_float_positional(value, trim="0") if plain else str(value))


def _cell(value: Any) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError as error:
        raw = error.object
        return Bad("is not UTF-8", f"0x{raw[error.start]:02x} at byte {error.start} of its text")
    except (ValueError, OverflowError) as error:
        return Bad("holds a value that cannot be read", str(error)[:60])
