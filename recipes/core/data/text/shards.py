"""Shards of a text corpus: stretches of files, each read alone, in order and in bounded memory.

A document's id says where it stands in its file (the byte of a JSONL line, the row of a Parquet file), so that neither
ids nor order depend on where the file was cut.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, Any

from recipes.core.data.files.arrow_tables import records
from recipes.core.data.files.json_records import BOM, Bad, excerpt, is_unicode, parse_record, text_of
from recipes.core.data.files.sources import load_split, reason
from recipes.core.data.files.tables import BATCH, Record, Table, reading
from recipes.core.data.files.text_tables import CsvTable, JsonTable, open_lines
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.storage import hub
from recipes.core.storage.files import sha256_json

MESSAGES_KEPT, NAMED = 20, 3  # of the documents left out: what is kept, and what a warning names
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Document:
    """One text.

    Attributes:
        id: Unique in its source, and the same however the source is cut into shards ("news/a.jsonl@4096").
        text: The text; never blank.
        domain: Which domain it is of; empty if unknown.
    """

    id: str
    text: str
    domain: str


@dataclass
class Skipped:
    """Documents left out by `on_error=skip`.

    Attributes:
        count: How many.
        messages: What was wrong with the first `MESSAGES_KEPT` of them, and where.
    """

    count: int = 0
    messages: list[str] = field(default_factory=list)

    def add(self, message: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.messages) < MESSAGES_KEPT:
            self.messages.append(message)

    def warn(self, where: str) -> None:
        """Warn of what was left out, if anything was."""
        if self.count:
            shown = "; ".join([*self.messages[:NAMED], *([f"and {self.count - NAMED:,} more"] * (self.count > NAMED))])
            count = "1 document was" if self.count == 1 else f"{self.count:,} documents were"
            note(f"warning: {where}: {count} left out: {shown}")

    def extend(self, other: "Skipped") -> None:
        """Count those of another shard, too."""
        self.count += other.count
        self.messages += other.messages[: MESSAGES_KEPT - len(self.messages)]


@dataclass(frozen=True)
class Columns:
    """Names of the column (or JSON key) of the texts, and of the domains if there is one."""

    text: str
    domain: str | None = None

    @property
    def names(self) -> list[str]:
        """Those there are."""
        return [self.text] if self.domain is None else [self.text, self.domain]


@dataclass(frozen=True)
class _Bad:
    """What is wrong with one document, and the file it stands in."""

    what: str
    where: str


@dataclass(frozen=True)
class Shard(ABC):
    """A stretch of a corpus; can be pickled and read in another process.

    Attributes:
        name: Unique in its corpus.
        section: Config section of the corpus ("data"), for messages; empty if it has no key but the path.
        on_error: "fail" or "skip": what a document that cannot be used does.
    """

    name: str
    section: str
    on_error: str

    def read(self, skipped: Skipped | None = None) -> Iterator[Document]:
        """The documents, in order.

        Args:
            skipped: Told what was left out, if `on_error` is "skip".

        Raises:
            UserError: the file cannot be read; or a document cannot be used and `on_error` is "fail".
        """
        for item in self._items():
            if isinstance(item, Document):
                yield item
            elif self.on_error == "fail":
                skip = f"type {self.section}.on_error=skip to leave such documents out"
                hint = f"mend it, or {skip if self.section else 'take it out of the file'}"
                raise UserError(item.what, item.where, hint)
            elif skipped is not None:
                skipped.add(f"{item.where}: {item.what}")

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash that changes when the documents or their ids do, or what becomes of bad ones."""

    @abstractmethod
    def _items(self) -> Iterator[Document | _Bad]: ...


@dataclass(frozen=True)
class JsonlShard(Shard):
    """The lines of a JSONL file that start in the bytes [start, stop); a gzipped file is one shard of unknown length.

    Attributes:
        path: The file.
        id: Its name in document ids.
        columns: Keys of text and domain.
        start: First byte; a line starts there.
        stop: One past the last byte; None: up to the end.
    """

    path: Path
    id: str
    columns: Columns
    start: int = 0
    stop: int | None = None

    def fingerprint(self) -> str:
        """Hash of name, place, columns and bytes."""
        with reading(self.path), self.path.open("rb") as file:
            file.seek(self.start)
            digest = _hash(file, None if self.stop is None else self.stop - self.start)
        return sha256_json([self.id, self.start, self.columns.text, self.columns.domain, self.on_error, digest])

    def _items(self) -> Iterator[Document | _Bad]:
        offset, before, number = self.start, None, 0
        with reading(self.path), open_lines(self.path) as file:
            file.seek(offset)
            for number, line in enumerate(file, 1):
                if self.stop is not None and offset >= self.stop:
                    break
                item = self._item(line, offset)
                if isinstance(item, str):
                    before = self._lines_before() if before is None else before
                    yield _Bad(f"line {before + number} (byte {offset}) {item}", str(self.path))
                elif item is not None:
                    yield item
                offset += len(line)
        if self.stop is not None and offset < self.stop:
            lost = f"it ends at byte {offset}; byte {self.stop} was there when it was opened"
            raise UserError(f"the file has become shorter while it was read: {lost}", str(self.path))

    def _item(self, line: bytes, offset: int) -> Document | str | None:
        """A line's document, what is wrong with it, or None if the line is blank."""
        if line.isspace():
            return None
        start, cut = offset, not line.endswith(b"\n")
        if not offset and line.startswith(BOM):
            line, start = line[len(BOM) :], len(BOM)
            if not line.strip():
                return None
        row = parse_record(line, self.columns.names, start, cut)
        return _of_record(row, self.columns, f"{self.id}@{offset}")

    def _lines_before(self) -> int:
        with open_lines(self.path) as file:
            left, count = self.start, 0
            while left and (block := file.read(min(left, _BLOCK))):
                left, count = left - len(block), count + block.count(b"\n")
        return count


@dataclass(frozen=True)
class RecordShard(Shard):
    """The records of a JSON list or of a CSV file: one shard, since only reading it all tells where they stand.

    Attributes:
        path: The file.
        id: Its name in document ids.
        kind: Its format: "jsonl" or "csv".
        columns: Columns of text and domain.
    """

    path: Path
    id: str
    kind: str
    columns: Columns

    def fingerprint(self) -> str:
        """Hash of name, columns and bytes."""
        with reading(self.path), self.path.open("rb") as file:
            content = _hash(file, None)
        return sha256_json([self.id, self.columns.text, self.columns.domain, self.on_error, content])

    def _items(self) -> Iterator[Document | _Bad]:
        table: Table = (CsvTable if self.kind == "csv" else JsonTable)(self.path, self.id, self.path.parent)
        for number, row in enumerate(table.rows(self.columns.names)):
            item = _of_record(row, self.columns, f"{self.id}#{number}")
            yield item if isinstance(item, Document) else _Bad(f"row {number} {item}", str(self.path))


@dataclass(frozen=True)
class ParquetShard(Shard):
    """Consecutive row groups of a Parquet file.

    Attributes:
        path: The file.
        id: Its name in document ids.
        columns: Columns of text and domain.
        groups: Indices of the row groups.
        row: Index of the first row in the file.
        span: First byte of the row groups and one past their last.
    """

    path: Path
    id: str
    columns: Columns
    groups: tuple[int, ...]
    row: int
    span: tuple[int, int]

    def fingerprint(self) -> str:
        """Hash of name, place, columns and bytes."""
        with reading(self.path), self.path.open("rb") as file:
            file.seek(self.span[0])
            digest = _hash(file, self.span[1] - self.span[0])
        return sha256_json([self.id, self.row, self.columns.text, self.columns.domain, self.on_error, digest])

    def _items(self) -> Iterator[Document | _Bad]:
        import pyarrow.parquet as pq

        groups, names = list(self.groups), self.columns.names
        with reading(self.path), pq.ParquetFile(self.path, buffer_size=_BLOCK) as file:
            batches = file.iter_batches(batch_size=BATCH, row_groups=groups, columns=names)
            for number, row in enumerate(chain.from_iterable(map(records, batches)), self.row):
                item = _of_record(row, self.columns, f"{self.id}#{number}")
                yield item if isinstance(item, Document) else _Bad(f"row {number} {item}", str(self.path))


@dataclass(frozen=True)
class TextShard(Shard):
    """Text files, each one document.

    Attributes:
        files: Each file with its name in document ids.
    """

    files: tuple[tuple[Path, str], ...]

    def fingerprint(self) -> str:
        """Hash of names and bytes."""
        digests = []
        for path, name in self.files:
            with reading(path), path.open("rb") as file:
                digests.append([name, _hash(file, None)])
        return sha256_json([self.on_error, digests])

    def _items(self) -> Iterator[Document | _Bad]:
        for path, name in self.files:
            with reading(path):
                raw = path.read_bytes()
            text = text_of(raw)
            item = str(text) if isinstance(text, Bad) else document(name, text, "")
            yield item if isinstance(item, Document) else _Bad(item, str(path))


@dataclass(frozen=True)
class DatasetShard(Shard):
    """Rows [start, stop) of a split of `datasets`; a hub data set is streamed and is one shard.

    Attributes:
        source: Hub name, or folder of `save_to_disk`.
        split: Name of the split.
        columns: Columns of text and domain.
        key: Config key that `source` came from.
        start: First row.
        stop: One past the last row; None: stream to the end.
    """

    source: str
    split: str
    columns: Columns
    key: str
    start: int = 0
    stop: int | None = None

    def fingerprint(self) -> str:
        """Hash of what a hub name stands for; of a folder, hash of the documents, read once more for it."""
        if self.stop is None:
            with suppress(UserError):  # a hub that does not answer: the documents do
                commit = hub.commit(self.source, self.key, hub.DATA).id
                return sha256_json([self.source, commit, self.split, self.columns.names, self.on_error])
        digest = hashlib.sha256(self.on_error.encode())
        for item in self._items():
            if isinstance(item, Document):
                digest.update(json.dumps([item.id, item.text, item.domain]).encode() + b"\n")
        return digest.hexdigest()

    def _items(self) -> Iterator[Document | _Bad]:
        rows = load_split(self.source, self.split, self.key, streaming=True)
        if self.stop is not None:
            rows = rows.select(range(self.start, self.stop))
        rows = rows.select_columns([name for name in (self.columns.text, self.columns.domain) if name])
        try:
            for number, row in enumerate(rows, self.start):
                domain = row[self.columns.domain] if self.columns.domain else ""
                item = document(f"{self.split}#{number}", row.get(self.columns.text), domain)
                bad = f"row {number} of split {self.split} {item}"
                yield item if isinstance(item, Document) else _Bad(bad, f"{self.key}={self.source}")
        except UserError:
            raise
        except Exception as error:  # network or format: the library's reason is what helps
            raise UserError(f"`datasets` stopped: {reason(error)}", f"{self.key}={self.source}") from error


def document(name: str, text: Any, domain: Any) -> Document | str:
    """A document, or what is wrong with it, as the rest of a sentence about its place."""
    if isinstance(text, bytes):
        return "is not UTF-8"
    if not isinstance(text, str):
        return f"has no string for its text but {excerpt(text)}"
    if not text or text.isspace():
        return "has an empty text"
    if domain is not None and not isinstance(domain, str):
        return f"has no string for its domain but {excerpt(domain)}"
    if not is_unicode(text + (domain or "")):
        return "spells half of a surrogate pair, which is no Unicode character"
    return Document(name, text, domain or "")


def _of_record(row: Record | Bad, columns: Columns, name: str) -> Document | str:
    """A record's document, or what is wrong with it."""
    if isinstance(row, Bad):
        return str(row)
    if columns.text not in row:
        return f"has no {columns.text!r}; its keys are {', '.join(row)}"
    return document(name, row[columns.text], row.get(columns.domain) if columns.domain else "")


def _hash(file: IO[bytes], size: int | None) -> str:
    digest = hashlib.sha256()
    while size is None or size > 0:
        block = file.read(_BLOCK if size is None else min(size, _BLOCK))
        if not block:
            break
        digest.update(block)
        size = None if size is None else size - len(block)
    return digest.hexdigest()
