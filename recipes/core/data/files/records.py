"""Where users' records come from: one way in for JSON, Parquet, CSV, folders of them, saved data sets and hub names."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from recipes.core.data.files.arrow_tables import DatasetTable, ParquetTable, StreamTable
from recipes.core.data.files.data_files import (
    TABLES,
    DataFile,
    choose_split,
    data_files,
    endings,
    held_out,
    is_dataset,
    is_hub_name,
    kind_of,
    no_such_path,
    require_train,
    splits_of,
)
from recipes.core.data.files.json_records import Bad
from recipes.core.data.files.sources import hub_splits, is_saved, load_split, saved_splits
from recipes.core.data.files.tables import Chain, Table
from recipes.core.data.files.text_tables import CsvTable, JsonTable
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.storage.files import home_path

STREAM = "stream"
FORMATS = ("auto", "jsonl", "parquet", "csv", "datasets", STREAM)
Row = TypeVar("Row")
NAMED = 5  # bad rows that a message names
_TABLE: dict[str, Callable[[Path, str, Path], Table]] = {"jsonl": JsonTable, "parquet": ParquetTable, "csv": CsvTable}


class BadRow(Exception):
    """Why a row cannot be used."""


@dataclass
class Records:
    """Records of a user's data, by split. Nothing but names of files is read before `table`.

    Attributes:
        path: What the user typed.
        key: Config key it came from.
        files: Its files; empty with `datasets`.
        stream: Read a hub data set row by row, without storing it.
    """

    path: str
    key: str
    files: list[DataFile] = field(default_factory=list)
    stream: bool = False
    _loaded: dict[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """The data, for messages."""
        return f"{self.key}={self.path}"

    @property
    def _section(self) -> str:
        return self.key.rpartition(".")[0]

    @cached_property
    def splits(self) -> list[str]:
        """Names of the published splits; empty where the data has none."""
        if self.files:
            return splits_of(self.files)
        if is_saved(home_path(self.path)):
            return saved_splits(self.path, self.key)
        if self._loaded:
            return list(next(iter(self._loaded.values())).info.splits or ())
        return hub_splits(self.path, self.key)

    def to_test_on(self) -> str:
        """The published split for data that is only asked about: test, else validation, else the only one or train."""
        if split := held_out(self, "train"):
            return split
        return self.splits[0] if len(self.splits) == 1 else "train"

    def table(self, split: str, key: str = "split") -> Table:
        """The records of a split.

        Args:
            split: Its name, or "all"; data without splits is all "train".
            key: The last word of the config key that it came from.

        Raises:
            UserError: there is no such split, or a file cannot be read.
        """
        key = f"{self._section}.{key}"
        if self.stream:
            return StreamTable(self.path, split, self.key, key)
        if not self.files:
            self._loaded[split] = load_split(self.path, split, self.key, split_key=key)
            return DatasetTable(self._loaded[split], split, home_path(self.path))
        root = home_path(self.path)
        if root.is_file():
            require_train(split, self.where, key)
            return open_file(self.files[0], root.parent)
        tables = [open_file(file, root) for file in choose_split(self.files, split, self.where, key)]
        return tables[0] if len(tables) == 1 else Chain(tables)


def open_records(path: str, key: str = "data.path", format: str = "auto") -> Records:
    """Find the files of a data set.

    Args:
        path: File, folder, or hub name.
        key: Config key that it came from; that of the format stands beside it.
        format: One of `FORMATS`; "auto": from the path. Of a folder, the files of that format only.

    Raises:
        UserError: no such path, or it holds no records, or records of several formats.
    """
    where, format_key = home_path(path), f"{key.rpartition('.')[0]}.format"
    if format == STREAM:
        if not is_hub_name(path, where, TABLES):
            what = "is no name of a data set on the hub, and only those are read as a stream"
            raise UserError(what, f"{key}={path}", f"leave out {format_key}: files are never held in memory either")
        return Records(path, key, stream=True)
    if format == "datasets" or (format == "auto" and is_dataset(path, where, TABLES)):
        return Records(path, key)
    if not where.exists():
        raise no_such_path(path, where, key)
    if where.is_file():
        kind = kind_of(where, TABLES) if format == "auto" else format
        if kind is None:
            hint = f"if the name hides its format, type {format_key}=jsonl, parquet or csv"
            raise UserError(f"is no {endings(TABLES)} file and no folder", f"{key}={path}", hint)
        return Records(path, key, [DataFile(where, where.name, kind, None)])
    files = [file for file in data_files(where, TABLES) if format in ("auto", file.kind)]
    kinds = sorted({file.kind for file in files})
    if not files:
        raise UserError("the folder holds no records", f"{key}={path}", f"files end in {endings(TABLES)}")
    if len(kinds) > 1:
        hint = f"type {format_key}={kinds[0]}, or give one file as the path"
        raise UserError(f"the folder holds files of several formats: {', '.join(kinds)}", f"{key}={path}", hint)
    return Records(path, key, files)


def open_file(file: DataFile, root: Path) -> Table:
    """The records of one file; relative paths in them start from `root`. Raises UserError if it cannot be read."""
    table = _TABLE[file.kind](file.path, file.name, root)
    if not len(table):
        raise UserError("the file is empty" if not file.path.stat().st_size else "there are no records", str(file.path))
    return table


def check_readable(table: Table, where: str) -> None:
    """Refuse a table none of whose records can be read: it has no columns that could be asked for.

    Raises:
        UserError: names the first record and what is wrong with it.
    """
    if not table.columns:
        reasons = (f"{table.place(at)} {row}" for at, row in enumerate(table.rows(())) if isinstance(row, Bad))
        raise UserError(f"none of its {len(table):,} records can be used: {next(reasons, 'they are empty')}", where)


def named_rows(
    records: Records,
    table: Table,
    names: Sequence[str],
    limit: int | None,
    on_error: str,
    parse: Callable[[dict[str, Any], str], tuple[str, Row]],
) -> list[Row]:
    """What the rows of a table stand for, each with a name of its own.

    Args:
        records: Where the table comes from.
        table: Of the split.
        names: Columns that are read.
        limit: Most rows that are used; None: all.
        on_error: As in `judge`.
        parse: Of a record, and the name of one that names itself nothing: its name and what it stands for. Raises
            BadRow.

    Raises:
        UserError: as in `judge`.
    """
    rows, bad, places = list[Row](), list[str](), dict[str, str]()
    for number, record in enumerate(table.rows(names)):
        if len(rows) == limit:
            break
        place = table.place(number)
        try:
            if isinstance(record, Bad):
                raise BadRow(str(record))
            name, row = parse(record, f"row-{number}")
            if name in places:
                raise BadRow(f"has the id {name!r} of {places[name]}")
            rows.append(row)
            places[name] = place
        except BadRow as error:
            bad.append(f"{place}: {error}")
    judge(bad, len(rows) + len(bad), records.where, on_error)
    return rows


def judge(bad: Sequence[str], total: int, where: str, on_error: str, rows: str = "rows") -> None:
    """What becomes of rows that cannot be used: an error that names the first, or one line that counts them.

    Args:
        bad: One message each, with its place.
        total: Of all rows.
        where: The data ("data.path=FILE").
        on_error: "fail" or "skip".
        rows: What the data calls its rows.

    Raises:
        UserError: there are some and `on_error` is "fail", or none is left.
    """
    if not bad:
        return
    more = f"\nand {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    listed = "\n".join(bad[:NAMED]) + more
    if on_error == "fail":
        hint = f"{listed}\nmend them, or type {where.partition('.')[0]}.on_error=skip to go on without them"
        raise UserError(f"{len(bad):,} of {total:,} {rows} cannot be used", where, hint)
    if len(bad) == total:
        raise UserError(f"none of {total:,} {rows} can be used", where, listed)
    note(f"warning: {where}: {len(bad):,} of {total:,} {rows} were left out: {bad[0]}")
