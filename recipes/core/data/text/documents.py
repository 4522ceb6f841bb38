"""Text documents of any size, opened as shards: JSONL, Parquet, text files, folders of them, or a `datasets` name."""

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.core.data.files.data_files import (
    TABLES,
    DataFile,
    choose_split,
    data_files,
    endings,
    is_dataset,
    kind_of,
    no_such_path,
    require_train,
)
from recipes.core.data.files.json_records import BOM, parse_record, refuse_foreign
from recipes.core.data.files.sources import is_saved, load_split, pick_column
from recipes.core.data.files.tables import reading
from recipes.core.data.files.text_tables import CsvTable, JsonTable, begins_list, open_lines
from recipes.core.data.text.shards import (
    Columns,
    DatasetShard,
    Document,
    JsonlShard,
    ParquetShard,
    RecordShard,
    Shard,
    Skipped,
    TextShard,
)
from recipes.core.errors import UserError
from recipes.core.storage.files import home_path

__all__ = ["FORMATS", "SHARD_BYTES", "Document", "Documents", "Shard", "Skipped", "open_documents"]

FORMATS = ("auto", "jsonl", "parquet", "csv", "text", "folder", "datasets")
DOMAIN_COLUMN = "domain"
TEXT_COLUMNS = ("text", "content", "document")
SHARD_BYTES = 32 << 20
_KINDS = {**TABLES, ".txt": "text"}
_DATASET_ROWS = 10_000


@dataclass(frozen=True)
class Documents:
    """A corpus of text.

    Attributes:
        path: What the user typed.
        key: The config key it came from ("data.path").
        shards: Its stretches, in order.
    """

    path: str
    key: str
    shards: list[Shard]

    def __iter__(self) -> Iterator[Document]:
        return self.read()

    def read(self, skipped: Skipped | None = None) -> Iterator[Document]:
        """All documents, shard by shard.

        Args:
            skipped: Told what was left out, with `on_error=skip`.

        Raises:
            UserError: a file cannot be read, a document cannot be used (with `on_error=fail`), or there is none.
        """
        skipped, some = Skipped() if skipped is None else skipped, False
        for shard in self.shards:
            for document in shard.read(skipped):
                some = True
                yield document
        if not some:
            raise self.nothing(skipped)

    def nothing(self, skipped: Skipped) -> UserError:
        """The error for a corpus all of whose documents were left out."""
        count = "one document" if skipped.count == 1 else f"all {skipped.count} documents"
        what = f"no documents are left: {count} cannot be used" if skipped.count else "there are no documents"
        return UserError(what, f"{self.key}={self.path}", "\n".join(skipped.messages[:5]))


@dataclass(frozen=True)
class _Request:
    """What the user asked for; the fields are the arguments of `open_documents`."""

    key: str
    text_column: str | None
    domain_column: str | None
    on_error: str
    shard_bytes: int
    alone: bool

    @property
    def section(self) -> str:
        """Where the other keys stand; empty if there are none."""
        return "" if self.alone else self.key.rpartition(".")[0]

    def is_settled(self, names: Container[str]) -> bool:
        """Whether what the user asked for is among the names."""
        text = TEXT_COLUMNS if self.text_column is None else (self.text_column,)
        return any(name in names for name in text) and (self.domain_column is None or self.domain_column in names)

    def columns(self, names: list[str]) -> Columns:
        try:
            text = pick_column(names, self.text_column, TEXT_COLUMNS, f"{self.section}.text_column")
        except UserError as error:
            if not self.alone:
                raise
            raise UserError(error.what, self.key, f"name the column of texts {TEXT_COLUMNS[0]!r}") from error
        domain = DOMAIN_COLUMN if DOMAIN_COLUMN in names else None
        if self.domain_column is not None:
            domain = pick_column(names, self.domain_column, (), f"{self.section}.domain_column")
        return Columns(text, domain)


def open_documents(
    path: str,
    *,
    key: str,
    format: str = "auto",
    text_column: str | None = None,
    domain_column: str | None = None,
    split: str = "train",
    on_error: str = "fail",
    shard_bytes: int = SHARD_BYTES,
    alone: bool = False,
) -> Documents:
    """Open a corpus: find its files and columns and cut it into shards. Reads no more than the head of each file.

    Args:
        path: File, folder (read with its subfolders, in sorted order), or hub name.
        key: Config key that `path` came from, such as "data.path"; the other keys are taken to stand beside it.
        format: One of `FORMATS`; "auto": from the path. With "jsonl", "parquet" or "text" a folder gives those only.
        text_column: Column or JSON key of the texts; None: the first of `TEXT_COLUMNS` that is there.
        domain_column: Column or JSON key of the domains; None: "domain" where there is one.
        split: Published split to read; data without splits is all "train".
        on_error: "fail" or "skip": what a document that cannot be used does.
        shard_bytes: About how many bytes of a file make a shard.
        alone: There are no other keys beside it, so that no message names one.

    Raises:
        UserError: no such path, a format that does not fit, a missing column, a damaged Parquet file, or no documents.
    """
    where = home_path(path)
    request = _Request(key, text_column, domain_column, on_error, shard_bytes, alone)
    if format == "datasets" or (format == "auto" and is_dataset(path, where, _KINDS)):
        return Documents(path, key, _dataset_shards(path, split, request))
    if not where.exists():
        raise no_such_path(path, where, key)
    shards = _shards(_files(path, where, format, split, request), request)
    if not shards:
        raise UserError("there are no documents: every file is empty", f"{key}={path}")
    return Documents(path, key, shards)


def _files(path: str, where: Path, format: str, split: str, request: _Request) -> list[DataFile]:
    """The file, or those of a folder that belong to the split, sorted by name; hidden ones are left out."""
    source, split_key = f"{request.key}={path}", f"{request.section}.split"
    if where.is_file():
        if format == "folder":
            raise UserError("is a file, no folder", source, f"type {request.section}.format=auto")
        kind = kind_of(where, _KINDS) if format == "auto" else format
        if kind is None:
            formats = ", ".join(name for name in FORMATS[1:] if name != "folder")
            hint = f"if the name hides its format, type {request.section}.format=X with one of {formats}"
            hint = hint if request.section else f"give one of {formats}"
            raise UserError(f"is no {endings(_KINDS)} file and no folder", source, hint)
        require_train(split, source, split_key)
        return [DataFile(where, where.name, kind, None)]
    files = [file for file in data_files(where, _KINDS) if format in ("auto", "folder", file.kind)]
    if not files:
        suffixes = [suffix for suffix, kind in _KINDS.items() if format in ("auto", "folder", kind)]
        raise UserError("the folder holds no documents", source, f"files end in {', '.join(suffixes)}")
    return choose_split(files, split, source, split_key)


def _shards(files: list[DataFile], request: _Request) -> list[Shard]:
    shards: list[Shard] = []
    texts: list[tuple[Path, str]] = []
    size = 0
    for file in files:
        if texts and (file.kind != "text" or size >= request.shard_bytes):
            shards.append(_text_shard(texts, request))
            texts, size = [], 0
        if file.kind == "text":
            texts.append((file.path, file.name))
            size += file.path.stat().st_size
        else:
            shards += _READERS[file.kind](file.path, file.name, request)
    return [*shards, _text_shard(texts, request)] if texts else shards


def _text_shard(texts: list[tuple[Path, str]], request: _Request) -> Shard:
    return TextShard(texts[0][1], request.section, request.on_error, tuple(texts))


def _jsonl_shards(file: Path, name: str, request: _Request) -> list[Shard]:
    """Cut at the first line start at or behind every multiple of `shard_bytes`; a JSON list is one shard."""
    with reading(file):
        size = file.stat().st_size
        if not size:
            return []
        with open_lines(file) as opened:
            head = opened.read(4096)
        refuse_foreign(head, str(file))
        if begins_list(head):
            return _list_shards(file, name, request)
        columns = _jsonl_columns(file, request)
        if file.suffix.lower() == ".gz":
            return [JsonlShard(name, request.section, request.on_error, file, name, columns)]
        cuts = [0]
        with file.open("rb") as opened:
            while (target := cuts[-1] + request.shard_bytes) < size:
                opened.seek(target - 1)
                opened.readline()
                cuts.append(opened.tell())
    ends = [*cuts[1:], size]
    return [
        JsonlShard(f"{name}@{start}", request.section, request.on_error, file, name, columns, start, stop)
        for start, stop in zip(cuts, ends, strict=True)
        if start < stop
    ]


def _jsonl_columns(file: Path, request: _Request) -> Columns:
    """From the first lines that have them; the usual names where none is an object, so that reading tells why."""
    names: dict[str, None] = {}
    with open_lines(file) as lines:
        for number, line in enumerate(lines):
            row = parse_record(line if number else line.removeprefix(BOM), ())
            names.update(dict.fromkeys(row if isinstance(row, dict) else ()))
            if request.is_settled(names):
                break
    if not names:
        return Columns(request.text_column or TEXT_COLUMNS[0], request.domain_column)
    columns = _choose_columns(file, request.columns, list(names))
    return Columns(columns.text, columns.domain or DOMAIN_COLUMN)  # it may first appear in a later line


def _list_shards(file: Path, name: str, request: _Request) -> list[Shard]:
    table = JsonTable(file, name, file.parent)
    if not len(table):
        return []
    columns = _choose_columns(file, request.columns, table.columns) if table.columns else Columns(TEXT_COLUMNS[0])
    return [RecordShard(name, request.section, request.on_error, file, name, "jsonl", columns)]


def _csv_shards(file: Path, name: str, request: _Request) -> list[Shard]:
    table = CsvTable(file, name, file.parent)
    if not len(table):
        return []
    columns = _choose_columns(file, request.columns, table.columns)
    return [RecordShard(name, request.section, request.on_error, file, name, "csv", columns)]


def _parquet_shards(file: Path, name: str, request: _Request) -> list[Shard]:
    """Consecutive row groups until they hold `shard_bytes`, uncompressed."""
    import pyarrow.parquet as pq

    with reading(file):
        metadata = pq.read_metadata(file)
        schema = metadata.schema.to_arrow_schema()
    columns = _choose_columns(file, request.columns, schema.names)
    _check_type(file, columns.text, schema.field(columns.text).type)
    shards: list[Shard] = []
    groups: list[int] = []
    row = size = 0
    for index in range(metadata.num_row_groups):
        groups.append(index)
        size += metadata.row_group(index).total_byte_size
        if size >= request.shard_bytes or index == metadata.num_row_groups - 1:
            rows = sum(metadata.row_group(group).num_rows for group in groups)
            if rows:
                span = _span(metadata, groups)
                arguments = (file, name, columns, tuple(groups), row, span)
                shards.append(ParquetShard(f"{name}#{row}", request.section, request.on_error, *arguments))
            groups, size, row = [], 0, row + rows
    return shards


def _span(metadata: Any, groups: list[int]) -> tuple[int, int]:
    """First byte of consecutive row groups of a Parquet file, and one past their last."""
    starts, ends = [], []
    for group in groups:
        for index in range(metadata.num_columns):
            column = metadata.row_group(group).column(index)
            start = min(column.data_page_offset, column.dictionary_page_offset or column.data_page_offset)
            starts.append(start)
            ends.append(start + column.total_compressed_size)
    return min(starts), max(ends)


def _check_type(file: Path, name: str, kind: Any) -> None:
    import pyarrow.types as types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if not (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)):
        raise UserError(f"column {name!r} holds {kind}, no text", str(file))


def _dataset_shards(path: str, split: str, request: _Request) -> list[Shard]:
    saved = is_saved(home_path(path))
    rows = load_split(path, split, request.key, streaming=True)
    names = rows.column_names or list(next(iter(rows), {}))
    if not names or (saved and not len(rows)):
        raise UserError(f"there are no documents in split {split!r}", f"{request.key}={path}")
    columns = request.columns(list(names))
    common = (request.section, request.on_error, path, split, columns, request.key)
    if not saved:
        return [DatasetShard(split, *common)]
    return [
        DatasetShard(f"{split}#{start}", *common, start, min(start + _DATASET_ROWS, len(rows)))
        for start in range(0, len(rows), _DATASET_ROWS)
    ]


def _choose_columns(file: Path, columns: Callable[[list[str]], Columns], names: list[str]) -> Columns:
    """Choose columns, with the file in the message: a folder may hold several kinds."""
    try:
        return columns(names)
    except UserError as error:
        raise UserError(f"{error.what} ({file.name})", error.where, error.hint) from error


_READERS = {"jsonl": _jsonl_shards, "parquet": _parquet_shards, "csv": _csv_shards}
