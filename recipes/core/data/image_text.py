"""Real image-caption corpora: checked whole before training, read row by row, images decoded only when asked for."""

import io
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.cache import cached
from recipes.core.data.captions import Caption, CaptionData
from recipes.core.data.config import ImageTextConfig
from recipes.core.data.image_sources import Source, caption_text, image_content, open_sources
from recipes.core.errors import UserError
from recipes.core.files import sha256_json, write_json

CHECK_VERSION = 1
CHECK_THREADS = 8
NAMED = 5


@dataclass(frozen=True)
class Scan:
    """What one pass over a source found.

    Attributes:
        bad: Reason for each unusable row.
        groups: For each row the first row with the same image, int64 [rows].
        digest: Hash of all captions and of name, size and time (or bytes) of all images.
    """

    bad: dict[int, str]
    groups: np.ndarray
    digest: str


class ImageTextSplit:
    """Some rows of a source.

    Args:
        source: The rows.
        scan: What was found in them.
        indices: Which rows, int [n].
        prefix: Begins all ids; tells sources apart.
    """

    def __init__(self, source: Source, scan: Scan, indices: np.ndarray, prefix: str) -> None:
        self._source, self._scan, self._indices, self._prefix = source, scan, indices, prefix
        self._captions = source.rows.select_columns([source.caption_column])
        self._images = source.rows.select_columns([source.image_column])

    def __len__(self) -> int:
        return len(self._indices)

    def caption(self, index: int) -> Caption:
        """The caption at `index`; nothing is known of what the image determines."""
        row = int(self._indices[index])
        text = caption_text(self._captions[row][self._source.caption_column]) or ""
        return Caption(f"{self._prefix}row-{row}", f"{self._prefix}image-{self._scan.groups[row]}", text, ())

    def image(self, index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The image of caption `index`, upright and on white: uint8 [height, width, 3].

        Raises:
            UserError: it cannot be decoded.
        """
        row = int(self._indices[index])
        content = image_content(self._images[row][self._source.image_column], self._source.root)
        try:
            return decode(content)
        except Exception as error:  # Pillow's decoders raise whatever they like on damaged files
            where = str(content) if isinstance(content, Path) else f"row {row}"
            raise UserError(
                f"the image cannot be decoded: {error}", where, "mend it or take it out of the data"
            ) from error

    def label(self, index: int) -> int | None:
        """Real captions have no class."""
        return None

    def fingerprint(self) -> str:
        """Hash of the rows' captions and of what identifies their images."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return sha256_json([self._scan.digest, sha256(self._indices.tobytes()).hexdigest()])


def load_image_text(config: ImageTextConfig, seed: int) -> CaptionData:
    """Open `data.path`, check every row, and split it by image.

    Args:
        config: Where the data is and what to do with bad rows.
        seed: Which images become the test split.

    Raises:
        UserError: see `open_sources`; or rows that cannot be used, unless `data.on_error=skip`.
    """
    source, test_source = open_sources(config)
    if test_source is not None:
        scans = [scan(source), scan(test_source)]
        skipped = _judge(
            config, [*scans[0].bad.values(), *scans[1].bad.values()], len(source.rows) + len(test_source.rows)
        )
        train, test = (_good(found) for found in scans)
        _require(config, len(train), len(test))
        splits = ImageTextSplit(source, scans[0], train, ""), ImageTextSplit(test_source, scans[1], test, "test-")
    else:
        found = scan(source)
        skipped = _judge(config, list(found.bad.values()), len(source.rows))
        train, test = split_by_image(_good(found), found.groups, config.test_fraction, seed)
        _require(config, len(train), len(test))
        splits = ImageTextSplit(source, found, train, ""), ImageTextSplit(source, found, test, "")
    return CaptionData(config.name, *splits, (), (), skipped)


def split_by_image(
    rows: np.ndarray, groups: np.ndarray, test_fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split rows so that no image is on both sides.

    Args:
        rows: Usable rows, int [n].
        groups: Image of every row of the source, int [rows].
        test_fraction: Share of the images that go to the test side, at least one.
        seed: Which ones.

    Returns:
        Training and test rows, each in their old order.
    """
    images = np.unique(groups[rows])
    count = max(1, round(test_fraction * len(images)))
    chosen = np.random.default_rng(seed).permutation(images)[:count]
    test = np.isin(groups[rows], chosen)
    return rows[~test], rows[test]


def scan(source: Source) -> Scan:
    """Look at every caption and the head of every image; finds all that is wrong before anything is told."""
    bad = dict(source.broken)
    groups = np.zeros(len(source.rows), np.int64)
    files: dict[Path, list[int]] = {}
    seen: dict[str, int] = {}
    digest = sha256()
    for row, image, caption in _cells(source):
        text = caption_text(caption)
        digest.update(json.dumps(text).encode())
        if not text:
            bad.setdefault(row, f"row {row}: {_why_no_caption(caption)}")
        content = image_content(image, source.root)
        if content is None:
            bad.setdefault(row, f"row {row}: it names no image")
        elif isinstance(content, Path):
            rows = files.setdefault(content, [])
            rows.append(row)
            groups[row] = rows[0]
        else:
            name = sha256(content).hexdigest()
            digest.update(name.encode())
            groups[row] = seen.setdefault(name, row)
            if problem := check_image(content):
                bad.setdefault(row, f"row {row}: {problem}")
    for path, problem in _check_files(list(files), digest).items():
        for row in files[path]:
            bad.setdefault(row, f"row {row}: {path}: {problem}")
    return Scan(dict(sorted(bad.items())), groups, digest.hexdigest())


def decode(content: Path | bytes | None) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Decode an image to RGB: upright by its EXIF tag, transparent parts white.

    Args:
        content: File or bytes.

    Returns:
        uint8 [height, width, 3].
    """
    from PIL import Image, ImageOps

    with Image.open(_opened(content)) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.has_transparency_data:
            colored = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", colored.size, "white"), colored)
        return np.asarray(upright.convert("RGB"))


def check_image(content: Path | bytes) -> str | None:
    """What is wrong with an image, from its header (and checksums, where the format has them); None if nothing."""
    from PIL import Image

    if isinstance(content, Path) and not content.is_file():
        return "no such file"
    try:
        with Image.open(_opened(content)) as image:
            image.verify()
    except Exception as error:  # Pillow's decoders raise whatever they like on damaged files
        return "not an image" if isinstance(error, Image.UnidentifiedImageError) else f"damaged image ({error})"
    return None


def _opened(content: Path | bytes | None) -> Any:
    return io.BytesIO(content) if isinstance(content, bytes) else content


def _cells(source: Source) -> Iterable[tuple[int, Any, Any]]:
    row = 0
    for batch in source.rows.iter(1000):
        for image, caption in zip(batch[source.image_column], batch[source.caption_column], strict=True):
            yield row, image, caption
            row += 1


def _why_no_caption(value: Any) -> str:
    if value is None or isinstance(value, str):
        return "its caption is empty"
    if isinstance(value, list):
        return "its conversation has no answer from gpt"
    return f"its caption is no text but {value!r}"[:100]


def _check_files(files: Sequence[Path], digest: Any) -> dict[Path, str]:
    """Problems of image files; remembered as long as no file changes its size or time."""
    if not files:
        return {}
    with ThreadPoolExecutor(CHECK_THREADS) as pool:
        for path, state in zip(files, pool.map(_state, files), strict=True):
            digest.update(json.dumps([str(path), state]).encode())

        def build(staging: Path) -> None:
            problems = list(pool.map(check_image, files))
            write_json(staging / "bad.json", {i: problem for i, problem in enumerate(problems) if problem})

        folder = cached("image-checks", f"{CHECK_VERSION}-{digest.hexdigest()}", build)
    bad = json.loads((folder / "bad.json").read_text(encoding="utf-8"))
    return {files[int(index)]: problem for index, problem in bad.items()}


def _state(path: Path) -> list[int]:
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]


def _good(found: Scan) -> np.ndarray:
    return np.array([row for row in range(len(found.groups)) if row not in found.bad], np.int64)


def _judge(config: ImageTextConfig, bad: list[str], total: int) -> tuple[str, ...]:
    """The messages of rows to skip.

    Raises:
        UserError: there are some and `data.on_error` is "fail".
    """
    if bad and config.on_error == "fail":
        more = f"\nand {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        raise UserError(
            f"{len(bad)} of {total} examples cannot be used",
            f"data.path={config.path}",
            "\n".join(bad[:NAMED]) + more + "\nmend them, or type data.on_error=skip to go on without them",
        )
    return tuple(bad)


def _require(config: ImageTextConfig, train: int, test: int) -> None:
    if not train or not test:
        raise UserError(
            f"{train} examples are left to train on and {test} to test on; at least 1 of each is needed",
            f"data.path={config.path}",
            "two images are the least; raise data.limit or change data.test_fraction",
        )
