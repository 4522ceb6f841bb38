"""Every image of a table decoded once before it is used, and the outcome remembered."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.data.files.tables import IndexedTable, Table
from recipes.core.data.images.decoding import image_content, inspect_image
from recipes.core.messages import WIDEST, shorten
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import read_json, sha256_json, write_json

VERSION = 3
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
        key = ["files", [[path, state_of(path)] for path in paths]]
        yield from zip(paths, _results(*inspect_all(key, lambda: map(Path, paths))) if paths else [], strict=True)

    def _check_bytes(self) -> Iterator[tuple[str, str | None]]:
        order = sorted(self._stored, key=lambda digest: self._stored[digest][0])
        firsts = {rows[0] for rows in self._stored.values()}

        def contents() -> Iterator[Any]:
            """The table once more: holding all images until here would fill the memory."""
            for row, record in enumerate(self.table.rows((self.column,))):
                if row in firsts and isinstance(record, dict):
                    yield image_content(record[self.column], self.table.folder(row))

        results = _results(*inspect_all(["bytes", order], contents)) if order else []
        yield from ((digest, problem) for digest, (_, problem) in zip(order, results, strict=True))


def inspect_all(key: list[Any], contents: Callable[[], Iterable[Any]]) -> tuple[np.ndarray, dict[int, str]]:
    """What `inspect_image` says of each image, from the cache where it has been asked before.

    Args:
        key: What the answers depend on.
        contents: The images, asked for only if the answers are not known.

    Returns:
        SHA-256 of each image, none where there is no such file; and what is wrong with those that are bad.
    """

    def build(staging: Path) -> None:
        waiting, problems, count = iter(contents()), {}, 0
        with (staging / "digests").open("wb") as file, ThreadPoolExecutor(THREADS) as pool:
            while some := list(islice(waiting, WAITING)):
                for number, (digest, problem) in enumerate(pool.map(inspect_image, some), count):
                    file.write(bytes.fromhex(digest) or bytes(sha256().digest_size))
                    if problem is not None:
                        problems[str(number)] = problem
                count += len(some)
        write_json(staging / "problems.json", problems)

    folder = build_once("image-checks", sha256_json([VERSION, *key]), build)
    problems = read_json(folder / "problems.json")
    return np.fromfile(folder / "digests", "S32"), {int(number): why for number, why in problems.items()}


def _results(digests: np.ndarray, problems: dict[int, str]) -> list[tuple[str, str | None]]:
    rows = digests.view(np.uint8).reshape(len(digests), -1)
    return [(row.tobytes().hex() if row.any() else "", problems.get(number)) for number, row in enumerate(rows)]


def state_of(path: str | Path) -> tuple[int, int]:
    """Size and time of change of a file; -1 where there is none."""
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        return -1, -1
    return state.st_size, state.st_mtime_ns
