"""Tables of records, each read row by row, in any order, and without columns that nobody needs; several as one."""

import json
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.data.files.json_records import Bad
from recipes.core.data.files.sources import pick_column, reason
from recipes.core.errors import UserError
from recipes.core.storage.files import sha256_json

Record = dict[str, Any]
BATCH = 200


class Table(ABC):
    """Records in order.

    Attributes:
        name: What places of rows begin with.
        root: Folder that relative paths in cells start from.
    """

    name: str
    root: Path

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """Names of all columns; of JSON, the keys of all records in order of their first appearance."""

    @abstractmethod
    def rows(self, names: Sequence[str]) -> Iterator[Record | Bad]:
        """All records, in order, with those of the columns `names` that they have, or what is wrong with them.

        Raises:
            UserError: the file cannot be read.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash that changes when the records or their places do; of large files it is kept by size and time."""

    @abstractmethod
    def with_index(self, names: Sequence[str]) -> "IndexedTable":
        """The same records with the columns `names`, in any order."""

    def about(self) -> int:
        """How many records there are, for people who wait; 0 where nobody knows."""
        return len(self)

    def first(self, count: int) -> "Table":
        """The first records."""
        return Chosen(self, range(count)) if count < len(self) else self

    def place(self, index: int) -> str:
        """Where a row stands, for messages and ids."""
        return f"{self.name} row {index}"

    def folder(self, index: int) -> Path:
        """Folder that relative paths in a row start from."""
        return self.root

    def pick(self, asked: str | None, usual: Sequence[str], key: str) -> str:
        """The column that the user named, or else the first of the usual ones that is there.

        Args:
            asked: What the user typed; None: choose.
            usual: Names to try, the most usual first.
            key: Config key of the column's name, for the message.

        Raises:
            UserError: there is none.
        """
        return pick_column(self.columns, asked, usual, key)


class IndexedTable(Table):
    """Records in any order."""

    def with_index(self, names: Sequence[str]) -> "IndexedTable":
        return self

    @abstractmethod
    def row(self, index: int) -> Record:
        """One record; to be asked for good ones only.

        Raises:
            UserError: the file has changed, or cannot be read.
        """


class ListTable(IndexedTable):
    """Records that are at hand.

    Args:
        records: In order.
        locations: Where each stands.
        root: See `Table`.
        columns: What the good ones have.
    """

    def __init__(
        self, records: Sequence[Record | Bad], locations: Sequence[str], root: Path, columns: Sequence[str]
    ) -> None:
        self._records, self._places, self._columns, self.name, self.root = records, locations, columns, "", root

    def __len__(self) -> int:
        return len(self._records)

    @property
    def columns(self) -> list[str]:
        return list(self._columns)

    def rows(self, names: Sequence[str]) -> Iterator[Record | Bad]:
        yield from self._records

    def fingerprint(self) -> str:
        digest = sha256()
        for place, record in zip(self._places, self._records, strict=True):
            digest.update(json.dumps([place, record], default=str).encode())
        return digest.hexdigest()

    def row(self, index: int) -> Record:
        record = self._records[index]
        assert isinstance(record, dict)
        return record

    def place(self, index: int) -> str:
        return self._places[index]


class Chain(Table):
    """Tables behind one another."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self.tables, self.name, self.root = tables, tables[0].name, tables[0].root
        self._starts = np.array([0, *accumulate(len(table) for table in tables)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(name for table in self.tables for name in table.columns))

    def rows(self, names: Sequence[str]) -> Iterator[Record | Bad]:
        for table in self.tables:
            yield from table.rows(names)

    def fingerprint(self) -> str:
        return sha256_json([table.fingerprint() for table in self.tables])

    def with_index(self, names: Sequence[str]) -> IndexedTable:
        return IndexedChain([table.with_index(names) for table in self.tables])

    def place(self, index: int) -> str:
        table, row = self._find(index)
        return table.place(row)

    def folder(self, index: int) -> Path:
        table, row = self._find(index)
        return table.folder(row)

    def pick(self, asked: str | None, usual: Sequence[str], key: str) -> str:
        for table in self.tables:
            with suppress(UserError):  # another file may have it; what cannot be read is met again below
                return table.pick(asked, usual, key)
        return super().pick(asked, usual, key)

    def _find(self, index: int) -> tuple[Table, int]:
        number, row = self._place(index)
        return self.tables[number], row

    def _place(self, index: int) -> tuple[int, int]:
        """The number of a row's table, and the row's place in it."""
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return number, index - int(self._starts[number])


class IndexedChain(Chain, IndexedTable):
    """Such tables in any order."""

    def __init__(self, tables: Sequence[IndexedTable]) -> None:
        super().__init__(tables)
        self._indexed = tables

    def with_index(self, names: Sequence[str]) -> IndexedTable:
        return self

    def row(self, index: int) -> Record:
        number, row = self._place(index)
        return self._indexed[number].row(row)


class Chosen(Table):
    """Some rows of a table, in its order."""

    def __init__(self, table: Table, indices: Sequence[int]) -> None:
        self._table, self._indices, self.name, self.root = table, indices, table.name, table.root

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def columns(self) -> list[str]:
        return self._table.columns

    def rows(self, names: Sequence[str]) -> Iterator[Record | Bad]:
        wanted = iter(self._indices)
        following = next(wanted, None)
        for index, row in enumerate(self._table.rows(names)):
            if following is None:
                return
            if index == following:
                yield row
                following = next(wanted, None)

    def fingerprint(self) -> str:
        return sha256_json([self._table.fingerprint(), sha256(np.array(self._indices, np.int64).tobytes()).hexdigest()])

    def with_index(self, names: Sequence[str]) -> IndexedTable:
        return IndexedChosen(self._table.with_index(names), self._indices)

    def place(self, index: int) -> str:
        return self._table.place(self._indices[index])

    def folder(self, index: int) -> Path:
        return self._table.folder(self._indices[index])


class IndexedChosen(Chosen, IndexedTable):
    """Such rows in any order."""

    def __init__(self, table: IndexedTable, indices: Sequence[int]) -> None:
        super().__init__(table, indices)
        self._indexed = table

    def with_index(self, names: Sequence[str]) -> IndexedTable:
        return self

    def row(self, index: int) -> Record:
        return self._indexed.row(self._indices[index])


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file raises inside the block into one `UserError`.

    Raises:
        UserError: the file is gone, may not be read, is no whole gzip or Parquet file, or no UTF-8.
    """
    try:
        yield
    except Exception as error:
        # pyarrow is recognised by its name: importing it would cost every process that reads JSONL 15 MiB.
        of_files = isinstance(error, OSError | EOFError | UnicodeError | zlib.error)
        if not of_files and type(error).__module__ != "pyarrow.lib":
            raise
        kind = {".parquet": " as Parquet", ".gz": " as gzip"}.get(path.suffix, "")
        raise UserError(f"cannot be read{kind}: {reason(error)}", str(path)) from error
