"""Tables that Arrow reads: Parquet files, and data sets of the library `datasets`."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.data.files.data_files import walk
from recipes.core.data.files.json_records import Bad, Number
from recipes.core.data.files.sources import is_saved, load_split, reason
from recipes.core.data.files.tables import BATCH, IndexedTable, Record, Table, reading
from recipes.core.errors import UserError
from recipes.core.storage import hub
from recipes.core.storage.cache import build_once, home
from recipes.core.storage.files import sha256_json
from recipes.core.storage.fingerprints import fingerprint

VERSION = 1
ROWS = "rows.arrow"


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
        folder = build_once(
            "tables", sha256_json([VERSION, stamp, sorted(names)]), lambda to: _copy(self._batches(names), to)
        )
        return ArrowTable(folder / ROWS, self)

    def _batches(self, names: Sequence[str]) -> Iterator[Any]:
        import pyarrow.parquet as pq

        with reading(self.path), pq.ParquetFile(self.path, buffer_size=1 << 20) as file:
            yield from file.iter_batches(batch_size=BATCH, columns=[name for name in self._columns if name in names])


class ArrowTable(IndexedTable):
    """A file in Arrow's own layout, mapped into memory by each process that reads it."""

    def __init__(self, file: Path, source: Table) -> None:
        self._file, self._source, self.name, self.root = file, source, source.name, source.root

    def __len__(self) -> int:
        return int(self._table.num_rows)

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
        """Of a folder, of what its files hold; of a hub data set, whose files are those of a commit, as it says."""
        if not is_saved(self.root):
            return sha256_json([self.name, self._rows._fingerprint])
        files = {str(path.relative_to(self.root)): path for path in walk(self.root)}
        return sha256_json([self.name, fingerprint(files, home())])

    def with_index(self, names: Sequence[str]) -> IndexedTable:
        return DatasetTable(self._only(names), self.name, self.root)

    def row(self, index: int) -> Record:
        return _only(self._rows[index], self.place(index))

    def _only(self, names: Sequence[str]) -> Any:
        return self._rows.select_columns([name for name in self._rows.column_names if name in names])


class StreamTable(Table):
    """Records of a split of a hub data set, fetched row by row whenever they are read.

    Args:
        path: Its name.
        split: Name of the split.
        key: Config key of the name.
        split_key: Config key of the split.
        most: Only the first rows; None: all.

    Raises:
        UserError: it cannot be had.
    """

    def __init__(self, path: str, split: str, key: str, split_key: str, most: int | None = None) -> None:
        rows = load_split(path, split, key, split_key=split_key, streaming=True)
        self._arguments, self._most = (path, split, key, split_key), most
        self.name, self.root, self._rows = split, Path(), rows if most is None else rows.take(most)
        self._path, self._key = path, key

    def __len__(self) -> int:
        raise TypeError("the length of a stream is not known")

    def about(self) -> int:
        known = (self._rows.info.splits or {}).get(self.name)
        counts = [count for count in (self._most, known.num_examples if known else None) if count]
        return min(counts, default=0)

    @cached_property
    def columns(self) -> list[str]:
        return list(self._rows.column_names or next(iter(self._rows), {}))

    def first(self, count: int) -> Table:
        return StreamTable(*self._arguments, count)

    def rows(self, names: Sequence[str]) -> Iterator[Record | Bad]:
        for batch in self._batches(names):
            yield from records(batch)

    def fingerprint(self) -> str:
        return sha256_json([hub.commit(self._path, self._key, hub.DATA).id, *self._arguments, self._most])

    def with_index(self, names: Sequence[str]) -> IndexedTable:
        key = sha256_json([VERSION, self.fingerprint(), sorted(names)])
        file = build_once("tables", key, lambda to: _copy(self._batches(names), to)) / ROWS
        return ArrowTable(file, self)

    def _batches(self, names: Sequence[str]) -> Iterator[Any]:
        import datasets

        rows = self._rows.select_columns([name for name in self.columns if name in names])
        for name, kind in (rows.features or {}).items():
            if isinstance(kind, datasets.Image):
                rows = rows.cast_column(name, datasets.Image(decode=False))
        try:
            yield from rows.with_format("arrow").iter(BATCH)
        except Exception as error:  # network or format: the library's reason is what helps
            raise UserError(f"`datasets` stopped: {reason(error)}", f"{self._key}={self._path}") from error


def _copy(batches: Iterator[Any], folder: Path) -> None:
    """Batches of one schema as a file in Arrow's own layout."""
    import pyarrow as pa

    first = next(batches, None)
    with pa.ipc.new_stream(str(folder / ROWS), pa.schema([]) if first is None else first.schema) as file:
        for batch in chain([] if first is None else [first], batches):
            file.write(batch)


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
