"""The formats that image-caption pairs come in, each opened as a table with an image and a caption column."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.core.data.config import ImageTextConfig
from recipes.core.data.files.data_files import (
    ALL,
    TABLES,
    DataFile,
    choose_split,
    data_files,
    is_dataset,
    kind_of,
    no_such_path,
    refuse_several,
    split_of_name,
    split_to_test_on,
    splits_of,
    walk,
)
from recipes.core.data.files.json_records import Bad, text_of
from recipes.core.data.files.records import NAMED, Records, open_file, open_records
from recipes.core.data.files.tables import Chain, Chosen, IndexedTable, ListTable, Record, Table
from recipes.core.data.images.decoding import IMAGE_SUFFIXES
from recipes.core.errors import UserError
from recipes.core.messages import note, shorten
from recipes.core.storage.files import home_path

IMAGE_COLUMNS = ("image", "file_name")
CAPTION_COLUMNS = ("caption", "text", "captions")
CONVERSATIONS = "conversations"
METADATA = "metadata"


@dataclass(frozen=True)
class Source:
    """Rows of image-caption pairs.

    Attributes:
        table: The rows, ready to be read in any order.
        image_column: Column of paths, bytes, or {"path", "bytes"}.
        caption_column: Column of texts, lists of texts, or LLaVA conversations.
    """

    table: IndexedTable
    image_column: str
    caption_column: str

    @property
    def names(self) -> tuple[str, str]:
        """Both columns."""
        return self.image_column, self.caption_column


def open_sources(config: ImageTextConfig) -> tuple[Source, Source | None]:
    """Open `data.path`: the rows to read, and those to test on where the data has a split for it.

    Raises:
        UserError: no such path, a format that does not fit, a missing column, or no rows.
    """
    where = home_path(str(config.path))
    kind = detect_format(str(config.path), where) if config.format == "auto" else config.format
    if kind == "folder":
        folder = ImageFolder(str(config.path), where)
        sources = _both(config, folder)
        folder.warn_unnamed(config.image_column)
        return sources
    return _both(config, open_records(str(config.path), format="auto" if kind == "llava" else kind))


def detect_format(path: str, where: Path) -> str:
    """ "folder" if a path holds image files, else the format of its records or "auto".

    Raises:
        UserError: there is no such path.
    """
    if is_dataset(path, where, TABLES):
        return "datasets"
    if not where.exists():
        raise no_such_path(path, where, "data.path")
    if not where.is_dir():
        return "auto"
    tables = data_files(where, TABLES)
    described = any(_is_metadata(file.path) for file in tables)
    image = next((file for file in walk(where) if file.suffix.lower() in IMAGE_SUFFIXES), None)
    beside = image is not None and image.with_suffix(".txt").exists()
    return "folder" if described or beside or not tables else "auto"


def _both(config: ImageTextConfig, data: "Records | ImageFolder") -> tuple[Source, Source | None]:
    """The training rows and those of `data.test_split`: by default the published ones, unless a share was typed."""
    train = _source(config, data.table(config.split))
    name = split_to_test_on(data, config.split, config.test_split, config.test_fraction)
    return train, None if name is None else _source(config, data.table(name, "test_split"))


def _source(config: ImageTextConfig, table: Table) -> Source:
    """Keep the image and caption column, whichever the user named or is there."""
    image = table.pick(config.image_column, IMAGE_COLUMNS, "data.image_column")
    usual = (CONVERSATIONS,) if config.format == "llava" else (*CAPTION_COLUMNS, CONVERSATIONS)
    caption = table.pick(config.caption_column, usual, "data.caption_column")
    if config.limit is not None:
        table = table.first(config.limit)
    return Source(table.with_index((image, caption)), image, caption)


class ImageFolder:
    """A folder of images: what is said of them stands in metadata.jsonl, .csv or .parquet (column file_name).

    Folders train/, test/ and validation/ are splits, as in the image folders of `datasets`.

    Args:
        path: What the user typed.
        where: The folder.
        undescribed: The table of images without metadata, given these and the folder: `sidecars` or `class_folders`.

    Raises:
        UserError: it is no folder, or holds no images.
    """

    def __init__(
        self, path: str, where: Path, undescribed: Callable[[Sequence[Path], Path], Table] | None = None
    ) -> None:
        if not where.is_dir():
            problem = "is a file, no folder" if where.exists() else "no such file or folder"
            raise UserError(problem, f"data.path={path}", "type data.format=auto")
        self._path, self._where, self._undescribed = path, where, undescribed or sidecars
        kinds = dict.fromkeys(IMAGE_SUFFIXES, "image")
        self._images = [
            DataFile(file, name := file.relative_to(where).as_posix(), "image", split_of_name(name, by_name=False))
            for file in walk(where)
            if kind_of(file, kinds)
        ]
        self._metadata = [file for file in data_files(where, TABLES, by_name=()) if _is_metadata(file.path)]
        if not self._images and not self._metadata:
            raise UserError(
                "the folder holds no images",
                f"data.path={path}",
                f"images end in {', '.join(IMAGE_SUFFIXES)};\n"
                "captions stand in NAME.txt beside NAME.png, or in metadata.jsonl, .csv or .parquet;\n"
                "classes are the names of folders, or stand in such metadata",
            )

    @property
    def splits(self) -> list[str]:
        """Names of the splits; empty where no folder names one."""
        return splits_of([*self._images, *self._metadata])

    def table(self, split: str, key: str = "split") -> Table:
        """The rows of a split. Raises UserError if there is no such split."""
        where, key, every = f"data.path={self._path}", f"data.{key}", not self.splits or split == ALL
        apart = every or bool(splits_of(self._images))
        # Where metadata alone stands in folders of splits, images lie elsewhere and belong to the rows that name them.
        images = choose_split(self._images if apart else self._metadata, split, where, key)
        if not every:
            refuse_several(self._metadata, split, where, key)
        wanted = {file.path for file in images}
        inside = [file for file in self._metadata if every or file.split in (split, None)]
        if not inside:
            return self._undescribed([file.path for file in images], self._where)
        tables = [
            _rows_about(open_file(file, file.path.parent), None if every or file.split else wanted) for file in inside
        ]
        return tables[0] if len(tables) == 1 else Chain(tables)

    def images_without_rows(self, column: str | None = None) -> list[str]:
        """Names of the images that no row of the metadata is about; images of splits without metadata do not count.

        Args:
            column: Column of images; None: the usual ones.

        Raises:
            UserError: a metadata file cannot be read.
        """
        apart, described = bool(splits_of(self._images)), {file.split for file in self._metadata}
        rows = {name for file in self._metadata for name in _image_paths(open_file(file, file.path.parent), column)}
        return [
            image.name
            for image in self._images
            if described and not (apart and described.isdisjoint({None, image.split}))
            if os.path.normpath(image.path) not in rows
        ]

    def warn_unnamed(self, column: str | None = None) -> None:
        """One line with how many images no row of the metadata names, and the first of them; as above."""
        images = self.images_without_rows(column)
        if images:
            more = f" and {len(images) - NAMED} more" if len(images) > NAMED else ""
            listed = ", ".join(shorten(name) for name in images[:NAMED])
            what = (
                "images are left out: no row of the metadata names them"
                if len(images) > 1
                else ("image is left out: no row of the metadata names it")
            )
            note(f"warning: data.path={self._path}: {len(images):,} {what}: {listed}{more}")


def _image_paths(table: Table, column: str | None) -> Iterator[str]:
    """Paths of the images that the rows of a metadata file name."""
    chosen = table.pick(column, IMAGE_COLUMNS, "data.image_column")
    for index, row in enumerate(table.rows((chosen,))):
        value = row.get(chosen) if isinstance(row, dict) else None
        name = value.get("path") if isinstance(value, dict) else value
        if isinstance(name, str):
            yield os.path.normpath(table.folder(index) / name)


def _is_metadata(path: Path) -> bool:
    return path.name.partition(".")[0].lower() == METADATA and path.suffix.lower() != ".json"


def _rows_about(table: Table, images: set[Path] | None) -> Table:
    """The rows of a metadata file about some images; all of them where it stands in the folder of its split."""
    if images is None:
        return table
    column = table.pick(None, ("file_name", "image"), "data.image_column")
    chosen = []
    for index, row in enumerate(table.rows((column,))):
        name = row.get(column) if isinstance(row, dict) else None
        # A row that names no image, or one that is not there, is to be named as bad, not passed over.
        if not isinstance(name, str) or table.root / name in images or not (table.root / name).exists():
            chosen.append(index)
    return table if len(chosen) == len(table) else Chosen(table, chosen)


def sidecars(images: Sequence[Path], root: Path) -> Table:
    """A table of images with the text of the .txt beside each."""
    records: list[Record | Bad] = []
    for image in images:
        file = image.with_suffix(".txt")
        try:
            text = text_of(file.read_bytes())
        except OSError:
            records.append(Bad(f"has no caption: {file.name} cannot be read or is missing"))
            continue
        if isinstance(text, Bad):
            records.append(Bad(f"has a caption {file.name} that {text.what}", text.detail))
        else:
            records.append({"image": str(image.relative_to(root)), "caption": text})
    return ListTable(records, [str(image.relative_to(root)) for image in images], root, ("image", "caption"))


def class_folders(images: Sequence[Path], root: Path) -> Table:
    """A table of images, each with the name of the folder that it lies in as its label."""
    records: list[Record | Bad] = []
    for image in images:
        folder = image.parent
        named = folder != root and split_of_name(f"{folder.name}/image", by_name=False) is None
        outside = Bad("lies in no folder that names its class")
        records.append({"image": str(image.absolute()), "label": folder.name} if named else outside)
    return ListTable(records, [image.relative_to(root).as_posix() for image in images], root, ("image", "label"))


def caption_texts(value: Any, captions: str | None) -> list[str]:
    """The captions in a cell: a text, several of them, or what "gpt" first says in a LLaVA conversation.

    Args:
        value: The cell.
        captions: What becomes of a list of texts: "all" are used, or the "first".

    Raises:
        ValueError: there is no caption; the message says why.
    """
    if isinstance(value, list) and any(isinstance(turn, dict) for turn in value):
        answers = [turn.get("value") for turn in value if isinstance(turn, dict) and turn.get("from") == "gpt"]
        if not answers:
            raise ValueError("its conversation has no answer from gpt")
        value = answers[0]
    elif isinstance(value, list) and value and all(isinstance(text, str) for text in value):
        if captions is None:
            raise ValueError(
                f"it has a list of {len(value)} captions; type data.captions=all for one example each, or first"
            )
        return [_text(text) for text in (value if captions == "all" else value[:1])]
    return [_text(value)]


def _text(value: Any) -> str:
    if value is None or (isinstance(value, str) and not value.strip()) or value == []:
        raise ValueError("its caption is empty")
    if not isinstance(value, str):
        raise ValueError(f"its caption is no text but {value!r}"[:100])
    return value.strip()
