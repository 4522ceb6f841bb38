"""Text documents of any size, opened as shards: JSONL, Parquet, text files, folders of them, or a `datasets` name."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.core.data.shards import (
    Columns,
    DatasetShard,
    Document,
    JsonlShard,
    ParquetShard,
    Shard,
    Skipped,
    TextShard,
    open_lines,
    reading,
)
from recipes.core.data.sources import is_saved, load_split, pick_column
from recipes.core.errors import UserError
from recipes.core.schema import nearest

__all__ = ["FORMATS", "SHARD_BYTES", "Document", "Documents", "Shard", "Skipped", "open_documents"]

FORMATS = ("auto", "jsonl", "parquet", "text", "folder", "datasets")
DOMAIN_COLUMN = "domain"
TEXT_COLUMNS = ("text", "content", "document")
SHARD_BYTES = 32 << 20
_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonl.gz": "jsonl",
    ".parquet": "parquet",
    ".txt": "text",
}
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

    @property
    def section(self) -> str:
        return self.key.rpartition(".")[0]

    def columns(self, found: list[str]) -> Columns:
        text = pick_column(found, self.text_column, TEXT_COLUMNS, f"{self.section}.text_column")
        domain = DOMAIN_COLUMN if DOMAIN_COLUMN in found else None
        if self.domain_column is not None:
            domain = pick_column(found, self.domain_column, (), f"{self.section}.domain_column")
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
) -> Documents:
    """Open a corpus: find its files and columns and cut it into shards. Reads no more than the head of each file.

    Args:
        path: File, folder (read with its subfolders, in sorted order), or hub name.
        key: Config key that `path` came from, such as "data.path"; the other keys are taken to stand beside it.
        format: One of `FORMATS`; "auto": from the path. With "jsonl", "parquet" or "text" a folder gives those only.
        text_column: Column or JSON key of the texts; None: the first of `TEXT_COLUMNS` that is there.
        domain_column: Column or JSON key of the domains; None: "domain" where there is one.
        split: Split to read, with "datasets".
        on_error: "fail" or "skip": what a document that cannot be used does.
        shard_bytes: About how many bytes of a file make a shard.

    Raises:
        UserError: no such path, a format that does not fit, a missing column, a damaged Parquet file, or no documents.
    """
    where = Path(path).expanduser()
    kind = _detect(path, where, key) if format == "auto" else format
    request = _Request(key, text_column, domain_column, on_error, shard_bytes)
    if kind == "datasets":
        return Documents(path, key, _dataset_shards(path, split, request))
    if not where.exists():
        raise _no_such_path(path, where, key)
    if kind == "folder" and not where.is_dir():
        raise UserError("is a file, no folder", f"{key}={path}", f"type {request.section}.format=auto")
    shards = _shards(_files(path, where, kind, key), request)
    if not shards:
        raise UserError("there are no documents: every file is empty", f"{key}={path}")
    return Documents(path, key, shards)


def _detect(path: str, where: Path, key: str) -> str:
    if where.is_dir():
        return "datasets" if is_saved(where) else "folder"
    kind = _kind(where)
    if kind is None and where.suffix.lower() == ".json":
        kind = "jsonl"
    if kind is not None:
        return kind
    if where.exists():
        formats = ", ".join(FORMATS[1:])
        hint = f"if the name hides its format, type {key.rpartition('.')[0]}.format=X with one of {formats}"
        raise UserError("is no .jsonl, .jsonl.gz, .parquet or .txt file and no folder", f"{key}={path}", hint)
    if len(where.parts) > 2 or path.startswith((".", "~", "/")):
        raise _no_such_path(path, where, key)
    return "datasets"


def _kind(path: Path) -> str | None:
    return next((kind for suffix, kind in _SUFFIXES.items() if path.name.lower().endswith(suffix)), None)


def _no_such_path(path: str, where: Path, key: str) -> UserError:
    folder = where.parent
    while not folder.is_dir():
        folder = folder.parent
    if folder != where.parent:
        return UserError("no such file or folder", f"{key}={path}", f"the path exists up to {folder}")
    close = nearest(where.name, sorted(entry.name for entry in folder.iterdir()))
    hint = f"did you mean {folder / close}?" if close else f"{folder.absolute()} holds no name like it"
    return UserError("no such file or folder", f"{key}={path}", hint)


def _files(path: str, where: Path, kind: str, key: str) -> list[tuple[Path, str, str]]:
    """Path, name in document ids, and format of every file of a corpus, sorted by name; hidden ones are left out."""
    if where.is_file():
        return [(where, where.name, kind)]
    found = []
    for file in where.rglob("*"):
        name, of_file = file.relative_to(where), _kind(file)
        if of_file is None or (kind != "folder" and of_file != kind) or not file.is_file():
            continue
        if not any(part.startswith(".") for part in name.parts):
            found.append((file, name.as_posix(), of_file))
    if not found:
        suffixes = [suffix for suffix, of_file in _SUFFIXES.items() if kind in ("folder", of_file)]
        raise UserError("the folder holds no documents", f"{key}={path}", f"files end in {', '.join(suffixes)}")
    return sorted(found, key=lambda entry: entry[1])


def _shards(files: list[tuple[Path, str, str]], request: _Request) -> list[Shard]:
    shards: list[Shard] = []
    texts: list[tuple[Path, str]] = []
    size = 0
    for file, name, kind in files:
        if texts and (kind != "text" or size >= request.shard_bytes):
            shards.append(_text_shard(texts, request))
            texts, size = [], 0
        if kind == "text":
            texts.append((file, name))
            size += file.stat().st_size
        else:
            shards += (_jsonl_shards if kind == "jsonl" else _parquet_shards)(file, name, request)
    return [*shards, _text_shard(texts, request)] if texts else shards


def _text_shard(texts: list[tuple[Path, str]], request: _Request) -> Shard:
    return TextShard(texts[0][1], request.section, request.on_error, tuple(texts))


def _jsonl_shards(file: Path, name: str, request: _Request) -> list[Shard]:
    """Cut at the first line start at or behind every multiple of `shard_bytes`."""
    with reading(file):
        size = file.stat().st_size
        if not size:
            return []
        columns = _jsonl_columns(file, request)
        if file.suffix == ".gz":
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
    """From the first line that is a JSON object; the usual names where there is none, so that reading tells why."""
    with open_lines(file) as lines:
        for line in lines:
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                return _named(file, request.columns, list(row))
    return Columns(request.text_column or TEXT_COLUMNS[0], request.domain_column)


def _parquet_shards(file: Path, name: str, request: _Request) -> list[Shard]:
    """Consecutive row groups until they hold `shard_bytes`, uncompressed."""
    import pyarrow.parquet as pq

    with reading(file):
        metadata = pq.read_metadata(file)
        schema = metadata.schema.to_arrow_schema()
    columns = _named(file, request.columns, schema.names)
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
                place = (file, name, columns, tuple(groups), row, span)
                shards.append(ParquetShard(f"{name}#{row}", request.section, request.on_error, *place))
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
    saved = is_saved(Path(path).expanduser())
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


def _named(file: Path, columns: Callable[[list[str]], Columns], found: list[str]) -> Columns:
    """Choose columns, with the file in the message: a folder may hold several kinds."""
    try:
        return columns(found)
    except UserError as error:
        raise UserError(f"{error.what} ({file.name})", error.where, error.hint) from error
