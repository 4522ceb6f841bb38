"""Tables of records in files of text: JSON and CSV."""

import csv
import gzip
import os
from array import array
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.data.files.json_records import BOM, Bad, list_spans, parse_record, refuse_foreign
from recipes.core.data.files.tables import IndexedTable, ListTable, Record, Table, reading
from recipes.core.errors import UserError
from recipes.core.storage.cache import home
from recipes.core.storage.fingerprints import fingerprint

DIALECTS = {".csv": ",", ".tsv": "\t"}


class JsonTable(IndexedTable):
    """JSON records: one a line, or the elements of one list, whichever the file holds; gzipped if its name ends in .gz.

    Of a plain file only the places of records are kept in memory; a gzipped one is unpacked into it.

    Raises:
        UserError: the file cannot be read, is in another encoding, or holds a damaged list.
    """

    def __init__(self, path: Path, name: str, root: Path) -> None:
        self.path, self.name, self.root = path, name, root
        self._columns: list[str] | None = None
        with reading(path):
            self._content = gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else None
            with open_lines(path) as file:
                head = file.read(4096)
            refuse_foreign(head, str(path))
            self._list = begins_list(head)
            spans, blank = self._list_index() if self._list else self._line_index()
        # First byte of each record and one past its last, and how many records stand before each blank line.
        self._spans, self._blank = _as_array(spans).reshape(-1, 2), _as_array(blank)

    def __len__(self) -> int:
        return len(self._spans)

    @property
    def columns(self) -> list[str]:
        if self._columns is None:
            names: dict[str, None] = {}
            for row in self.rows(()):
                names.update(dict.fromkeys(row if isinstance(row, dict) else ()))
            self._columns = list(names)
        return self._columns

    def pick(self, asked: str | None, usual: Sequence[str], key: str) -> str:
        wanted = usual if asked is None else [asked]
        bad = []
        for index, row in enumerate(self.rows(())):
            if isinstance(row, Bad):
                bad.append(f"{self.place(index)} {row}")
            elif name := next((name for name in wanted if name in row), None):
                return name
        if len(bad) == len(self):
            raise UserError(f"none of its {len(self):,} records can be used: {bad[0]}", str(self.path))
        return super().pick(asked, usual, key)

    def rows(self, names: Sequence[str]) -> Iterator[Record | Bad]:
        with reading(self.path), self.path.open("rb") as file:
            for index in range(len(self)):
                yield self._parse(index, file.fileno(), names)

    def row(self, index: int) -> Record:
        with reading(self.path), self.path.open("rb") as file:
            row = self._parse(index, file.fileno(), ())
        if isinstance(row, Bad):
            raise UserError(f"{row}; it was whole when the run began", self.place(index))
        return row

    def place(self, index: int) -> str:
        if self._list:
            return super().place(index)
        blank = int(np.searchsorted(self._blank, index, side="right"))
        return f"{self.name}:{index + blank + 1}"

    def fingerprint(self) -> str:
        return fingerprint({self.name: self.path}, home())

    def _parse(self, index: int, handle: int, names: Collection[str]) -> Record | Bad:
        start, stop = (int(offset) for offset in self._spans[index])
        raw = os.pread(handle, stop - start, start) if self._content is None else self._content[start:stop]
        if len(raw) < stop - start:
            raise UserError("the file has become shorter while it was read", str(self.path))
        cut = not self._list and not raw.endswith(b"\n")
        return parse_record(raw, names, start, cut)

    def _list_index(self) -> "tuple[array[int], array[int]]":
        """First byte of each element and one past its last, behind one another; no blank lines."""
        content = self.path.read_bytes() if self._content is None else self._content
        return list_spans(content, str(self.path)), array("q")

    def _line_index(self) -> "tuple[array[int], array[int]]":
        """First byte of each record and one past its last, behind one another; records before each blank line."""
        spans, blank, offset = array("q"), array("q"), 0
        with open_lines(self.path) as file:
            for line in file:
                text = line if offset else line.removeprefix(BOM)
                offset += len(line)
                if text and not text.isspace():
                    spans.extend((offset - len(text), offset))
                else:
                    blank.append(len(spans) // 2)
        return spans, blank


class CsvTable(Table):
    """Records of a CSV file with a header; every cell is text.

    Raises:
        UserError: the file cannot be read, is in another encoding or no CSV.
    """

    def __init__(self, path: Path, name: str, root: Path) -> None:
        self.path, self.name, self.root = path, name, root
        with reading(path), path.open("rb") as file:
            refuse_foreign(file.read(4096), str(path), json=False)
        self._header = self._clean_header(next(self._cells(), (0, []))[1])
        self._lines = np.fromiter((line for line, _ in self._cells()), np.int64)[1:]

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def columns(self) -> list[str]:
        return self._header

    def rows(self, names: Sequence[str]) -> Iterator[Record | Bad]:
        cells = self._cells()
        next(cells, None)
        for _, row in cells:
            if isinstance(row, Bad):
                yield row
                continue
            if len(row) != len(self._header):
                yield Bad("has another number of cells than the header", f"{len(row)}, not {len(self._header)}")
                continue
            record = {name: cell for name, cell in zip(self._header, row, strict=True) if name in names}
            wrong = next((byte for cell in record.values() for byte in cell if "\udc80" <= byte <= "\udcff"), None)
            yield record if wrong is None else Bad("is not UTF-8", f"0x{ord(wrong) - 0xDC00:02x}")

    def fingerprint(self) -> str:
        return fingerprint({self.name: self.path}, home())

    def with_index(self, names: Sequence[str]) -> IndexedTable:
        locations = [self.place(index) for index in range(len(self))]
        return ListTable(list(self.rows(names)), locations, self.root, [name for name in self.columns if name in names])

    def place(self, index: int) -> str:
        return f"{self.name}:{self._lines[index]}"

    def _cells(self) -> Iterator[tuple[int, list[str] | Bad]]:
        """Line of the end, and cells, of every row; bytes that are not UTF-8 are marked, to be judged by row."""
        csv.field_size_limit(1 << 30)
        with reading(self.path), self.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, delimiter=DIALECTS.get(self.path.suffix.lower(), ","), strict=True)
            while True:
                begin = reader.line_num + 1
                try:
                    row = next(reader, None)
                except csv.Error as error:
                    if "end of data" in str(error):  # a quote that nothing closes has taken all rows that follow
                        hint = "close the quote that opens there"
                        raise UserError(f"line {begin} is no CSV: {error}", str(self.path), hint) from error
                    yield reader.line_num, Bad("is no CSV", str(error))
                    continue
                if row is None:
                    return
                if row:
                    yield reader.line_num, row

    def _clean_header(self, header: list[str] | Bad) -> list[str]:
        if isinstance(header, Bad):
            raise UserError(f"line 1 {header}", str(self.path))
        if any("\udc80" <= letter <= "\udcff" for name in header for letter in name):
            raise UserError("line 1 is not UTF-8", str(self.path), "convert the file: iconv -f LATIN1 -t UTF-8")
        if twice := next((name for name in header if header.count(name) > 1), None):
            raise UserError(f"its header has {twice!r} twice", str(self.path))
        return header


def _as_array(numbers: "array[int]") -> np.ndarray:
    """The same numbers, without a copy."""
    return np.frombuffer(numbers, np.int64) if numbers else np.zeros(0, np.int64)


def open_lines(path: Path) -> Any:
    """A file as bytes, gunzipped if its name ends in .gz."""
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def begins_list(head: bytes) -> bool:
    """Whether a JSON file that begins with `head` holds a list."""
    return head.removeprefix(BOM).lstrip()[:1] == b"["
