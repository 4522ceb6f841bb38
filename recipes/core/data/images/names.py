"""The image files that the records of a data set name: they are read like the records, so they count like them."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from recipes.core.data.files.data_files import DataFile
from recipes.core.data.files.records import FORMATS, open_file, open_records
from recipes.core.data.images.sources import IMAGE_COLUMNS
from recipes.core.errors import UserError
from recipes.core.storage.files import home_path


def find_images(path: str, key: str, *, format: str, column: str | None, start: str | None) -> dict[str, Path]:
    """The image files that records name, as "image NAME" -> file.

    What cannot be read is left out: it is reported when the run reads the data.

    Args:
        path: File or folder of the records.
        key: Config key of the path.
        format: Their format; "auto", or one that has no records: from the path.
        column: Column of images; None: the usual ones.
        start: Folder that relative names start from; None: that of their file.
    """
    root, images = home_path(path), {}
    try:
        files = open_records(path, key, format if format in FORMATS else "auto").files
    except (UserError, OSError, ValueError):
        return {}
    for file in files:
        with suppress(UserError, OSError, ValueError):
            for folder, name in _names(file, root if root.is_dir() else root.parent, column, key):
                image = (home_path(start) if start else folder) / home_path(name)
                if os.path.isfile(image):  # False too for what is no name of a file at all
                    images[f"image {name}"] = image
    return images


def _names(file: DataFile, root: Path, column: str | None, key: str) -> Iterator[tuple[Path, str]]:
    """Folder and name of every image that a file of records names."""
    table = open_file(file, root)
    chosen = table.pick(column, IMAGE_COLUMNS, f"{key.rpartition('.')[0]}.image_column")
    images = _parquet_names(file.path, chosen) if file.kind == "parquet" else _values(table.rows((chosen,)), chosen)
    for index, image in enumerate(images):
        name = image.get("path") if isinstance(image, dict) else image
        if isinstance(name, str) and name:
            yield table.folder(index), name


def _values(rows: Iterator[Any], column: str) -> Iterator[Any]:
    return (row.get(column) if isinstance(row, dict) else None for row in rows)


def _parquet_names(path: Path, column: str) -> Iterator[Any]:
    """The values of a column of texts, or of the path in `datasets`' pairs of path and bytes; no bytes are read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        kind = file.schema_arrow.field(column).type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return
        leaf = f"{column}.path" if pa.types.is_struct(kind) else column
        for batch in file.iter_batches(columns=[leaf]):
            yield from batch.column(0).to_pylist()
