"""Every image of a table decoded once before it is used, and the outcome remembered."""

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from recipes.core.data.files.tables import IndexedTable, Table
from recipes.core.data.images.decoding import image_content, inspect_image
from recipes.core.messages import WIDEST, shorten
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json, write_json

VERSION = 2
THREADS = 8
WAITING = 64  # images that wait for a thread


@dataclass(frozen=True)
class StoredImage:
    """An image whose bytes stand in a table, read when it is needed."""

    table: IndexedTable
    row: int
    column: str

    def read(self) -> Path | bytes | None:
        """Its bytes."""
        return image_content(self.table.row(self.row).get(self.column), self.table.folder(self.row))


@dataclass
class ImageChecks:
    """Images that the rows of a table name: gathered one by one, checked together.

    Attributes:
        table: The rows.
        column: Column of the images.
    """

    table: Table
    column: str
    _files: dict[str, list[int]] = field(default_factory=dict)
    _stored: dict[str, list[int]] = field(default_factory=dict)

    def add(self, row: int, content: Path | bytes) -> None:
        """One more row with its image, from `image_content`."""
        if isinstance(content, Path):
            self._files.setdefault(str(content), []).append(row)
        else:
            self._stored.setdefault(sha256(content).hexdigest(), []).append(row)

    def run(self) -> tuple[dict[int, str], dict[int, str]]:
        """Decode what is not known yet: files of another size or time, bytes that were never seen.

        Returns:
            By row: the SHA-256 of the image's bytes; and what is wrong with it, for bad ones.
        """
        digests, problems = {}, {}
        for path, (digest, problem) in self._check_files():
            for row in self._files[path]:
                digests[row] = digest
                if problem:
                    problems[row] = f"{shorten(path, WIDEST)}: {problem}"
        for digest, problem in self._check_bytes():
            for row in self._stored[digest]:
                digests[row] = digest
                if problem:
                    problems[row] = problem
        return digests, problems

    def _check_files(self) -> Iterator[tuple[str, tuple[str, str | None]]]:
        paths = list(self._files)
        key = sha256_json(["files", VERSION, [[path, _state(Path(path))] for path in paths]])
        yield from zip(paths, _inspect_all(key, lambda: map(Path, paths)) if paths else [], strict=True)

    def _check_bytes(self) -> Iterator[tuple[str, str | None]]:
        order = sorted(self._stored, key=lambda digest: self._stored[digest][0])
        firsts = {rows[0] for rows in self._stored.values()}

        def contents() -> Iterator[Any]:
            """The table once more: holding all images until here would fill the memory."""
            for row, record in enumerate(self.table.rows((self.column,))):
                if row in firsts and isinstance(record, dict):
                    yield image_content(record[self.column], self.table.folder(row))

        results = _inspect_all(sha256_json(["bytes", VERSION, order]), contents) if order else []
        yield from ((digest, problem) for digest, (_, problem) in zip(order, results, strict=True))


def _inspect_all(key: str, contents: Callable[[], Iterable[Any]]) -> list[tuple[str, str | None]]:
    """What `inspect_image` says of each image, from the cache where it has been asked before."""

    def build(staging: Path) -> None:
        waiting = iter(contents())
        results: list[tuple[str, str | None]] = []
        with ThreadPoolExecutor(THREADS) as pool:
            while some := list(islice(waiting, WAITING)):
                results += pool.map(inspect_image, some)
        write_json(staging / "images.json", results)

    folder = build_once("image-checks", key, build)
    return [(digest, problem) for digest, problem in json.loads((folder / "images.json").read_text(encoding="utf-8"))]


def _state(path: Path) -> list[int]:
    try:
        state = path.stat()
    except (OSError, ValueError):
        return []
    return [state.st_size, state.st_mtime_ns]
