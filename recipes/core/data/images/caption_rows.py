"""The rows of an image-caption source, read once and kept: captions, names of images, and what is wrong with the rest.

The captions are mapped into memory. Images are looked at whenever the size or time of one has changed, and not before.
"""

import os
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.data.files.json_records import Bad
from recipes.core.data.images.checks import inspect_all, state_of
from recipes.core.data.images.decoding import image_cell, image_content
from recipes.core.data.images.sources import Source, caption_texts
from recipes.core.messages import WIDEST, shorten
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import read_json, sha256_json, write_json
from recipes.core.storage.ragged import Ragged, RaggedFile, map_numbers

VERSION = 1
BATCH = 1000
DIGEST = "S32"  # SHA-256; numpy sorts it


class CaptionRows:
    """What one pass over a source read, from the folder in which it is kept.

    Attributes:
        texts: UTF-8 bytes of each caption.
        rows: int64 [captions] row of each caption, ascending.
        usable: int64 [n] rows with captions and an image, ascending.
        names: UTF-8 bytes of the name of each usable row's image file; none where its bytes stand in the source.
        images: SHA-256 [n] that is the same for rows with the same file or bytes.
        bad: Reason for each row that is not usable.
        digest: Hash of all captions and of the rows they stand in.
    """

    def __init__(self, folder: Path) -> None:
        self.texts, self.names = Ragged(folder / "texts", np.uint8), Ragged(folder / "names", np.uint8)
        self.rows, self.usable = (map_numbers(folder / name, np.int64) for name in ("rows", "usable"))
        self.images = map_numbers(folder / "images", DIGEST)
        index = read_json(folder / "index.json")
        self.bad: dict[int, str] = {int(row): why for row, why in index["bad"].items()}
        self.digest: str = index["digest"]

    def text(self, number: int) -> str:
        """A caption."""
        return self.texts[number].tobytes().decode()


@dataclass(frozen=True)
class RowImages:
    """The images of the usable rows.

    Attributes:
        numbers: int64 [n] number of each row's image among different ones.
        digests: SHA-256 of the bytes of each image.
        problems: What is wrong with images that cannot be used.
    """

    numbers: np.ndarray
    digests: np.ndarray
    problems: dict[int, str]


def read_captions(source: Source, captions: str | None) -> CaptionRows:
    """All rows of a source, read only if no run has done so before.

    Args:
        source: The rows.
        captions: See `ImageTextConfig.captions`.
    """
    key = sha256_json([VERSION, source.table.fingerprint(), source.names, captions])
    return CaptionRows(build_once("caption-rows", key, lambda folder: _write(source, captions, folder)))


def look_at_images(source: Source, rows: CaptionRows) -> RowImages:
    """Decode the images of a source that are not known yet: files of another size or time, bytes never seen."""
    _, first, inverse = np.unique(rows.images, return_index=True, return_inverse=True)
    order = np.argsort(first)  # images in the order in which they first come
    numbers, firsts = np.argsort(order)[inverse], first[order]
    in_files = rows.names.lengths()[firsts] > 0
    digests = np.zeros(len(firsts), DIGEST)
    problems: dict[int, str] = {}
    for which, look in ((in_files, _look_at_files), (~in_files, _look_at_bytes)):
        chosen = np.flatnonzero(which)
        if len(chosen):
            digests[chosen], wrong = look(source, rows, firsts[chosen])
            problems |= {int(chosen[number]): why for number, why in wrong.items()}
    return RowImages(numbers, digests, problems)


def _write(source: Source, captions: str | None, folder: Path) -> None:
    writer = _Writer(source, captions)
    with ExitStack() as files:
        texts, names = (files.enter_context(RaggedFile(folder / name, np.uint8)) for name in ("texts", "names"))
        for row, record in enumerate(source.table.rows(source.names)):
            writer.add(row, record)
            if len(writer.texts) >= BATCH:
                writer.flush(texts, names)
        writer.flush(texts, names)
    np.array(writer.rows, np.int64).tofile(folder / "rows")
    np.array(writer.usable, np.int64).tofile(folder / "usable")
    (folder / "images").write_bytes(writer.images)
    bad = {str(row): why for row, why in writer.bad.items()}
    write_json(folder / "index.json", {"bad": bad, "digest": writer.digest.hexdigest()})


class _Writer:
    """Gathers what rows hold; texts wait in memory until `flush`."""

    def __init__(self, source: Source, captions: str | None) -> None:
        self.source, self.captions = source, captions
        self.texts: list[bytes] = []
        self.names: list[bytes] = []
        self.rows, self.usable, self.images = array("q"), array("q"), bytearray()
        self.bad: dict[int, str] = {}
        self.digest = sha256()

    def add(self, row: int, record: Any) -> None:
        """One more row."""
        table = self.source.table
        if isinstance(record, Bad):
            self.bad[row] = f"{table.place(row)} {record}"
            return
        try:
            image = image_cell(record.get(self.source.image_column))
            if image is None:
                raise ValueError("it names no image")
            texts = [text.encode() for text in caption_texts(record.get(self.source.caption_column), self.captions)]
        except ValueError as error:
            self.bad[row] = f"{table.place(row)}: {error}"
            return
        name = image.encode() if isinstance(image, str) else b""
        content = image if isinstance(image, bytes) else f"{table.folder(row)}\0{image}".encode()
        self.images += sha256(content).digest()
        self.usable.append(row)
        self.names.append(name)
        self.texts += texts
        self.rows.extend([row] * len(texts))
        for part in (str(row).encode(), *texts):
            self.digest.update(f"{len(part)} ".encode() + part)

    def flush(self, texts: RaggedFile, names: RaggedFile) -> None:
        """Write what waits."""
        texts.extend(np.frombuffer(text, np.uint8) for text in self.texts)
        names.extend(np.frombuffer(name, np.uint8) for name in self.names)
        self.texts, self.names = [], []


Looked = tuple[np.ndarray, dict[int, str]]


def _look_at_files(source: Source, rows: CaptionRows, indices: np.ndarray) -> Looked:
    """SHA-256 and problems of the image files of some usable rows."""

    def paths() -> Iterator[str]:  # no `Path`: it would take longer than to look at the file
        for index in indices:
            name = rows.names[index].tobytes().decode()
            yield os.path.join(source.table.folder(int(rows.usable[index])), os.path.expanduser(name))

    states = np.fromiter(chain.from_iterable(map(state_of, paths())), np.int64)
    hashes = [sha256(part.tobytes()).hexdigest() for part in (rows.images[indices], states)]
    digests, problems = inspect_all(["files", str(source.table.root), *hashes], lambda: map(Path, paths()))
    named = {number: Path(path) for number, path in enumerate(paths()) if number in problems} if problems else {}
    return digests, {number: f"{shorten(str(named[number]), WIDEST)}: {why}" for number, why in problems.items()}


def _look_at_bytes(source: Source, rows: CaptionRows, indices: np.ndarray) -> Looked:
    """SHA-256 and problems of the images of some usable rows whose bytes stand in the source."""

    def contents() -> Iterator[Any]:
        """The table once more: holding all images until here would fill the memory."""
        wanted = iter(rows.usable[indices])
        following = next(wanted, None)
        for row, record in enumerate(source.table.rows((source.image_column,))):
            if row == following:
                yield image_content(record[source.image_column], source.table.folder(row))  # type: ignore[index]
                following = next(wanted, None)

    return inspect_all(["bytes", sha256(rows.images[indices].tobytes()).hexdigest()], contents)
