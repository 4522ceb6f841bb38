"""Real image-caption corpora: checked whole before training, read row by row, images decoded only when asked for."""

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.data.config import ImageTextConfig
from recipes.core.data.files.records import judge
from recipes.core.data.images.caption_rows import CaptionRows, look_at_images, read_captions
from recipes.core.data.images.captions import Caption, CaptionData
from recipes.core.data.images.decoding import decode, image_content
from recipes.core.data.images.sources import Source, open_sources
from recipes.core.errors import UserError
from recipes.core.storage.files import sha256_json

TEST_FRACTION = 0.1  # where the data has no split to test on


@dataclass(frozen=True)
class Scan:
    """What one pass over a source found.

    Attributes:
        bad: Reason for each unusable row.
        read: All captions.
        captions: Which of them are usable, int64 [captions].
        groups: For each row the first row with the same image, int64 [rows].
        digest: Hash of all usable captions and of the bytes of their images.
    """

    bad: dict[int, str]
    read: CaptionRows
    captions: np.ndarray
    groups: np.ndarray
    digest: str

    @property
    def rows(self) -> np.ndarray:
        """Row of each usable caption, int64 [captions]."""
        return self.read.rows[self.captions]


class ImageTextSplit:
    """Some captions of a source.

    Args:
        source: The rows.
        scan: What was found in them.
        indices: Which captions of the scan, int [n].
        prefix: Begins all ids; tells sources apart.
    """

    def __init__(self, source: Source, scan: Scan, indices: np.ndarray, prefix: str) -> None:
        self._source, self._scan, self._indices, self._prefix = source, scan, indices, prefix

    def __len__(self) -> int:
        return len(self._indices)

    def caption(self, index: int) -> Caption:
        """The caption at `index`; nothing is known of what the image determines."""
        read, number = self._scan.read, int(self._scan.captions[self._indices[index]])
        row, text = int(read.rows[number]), read.text(number)
        turn = number - int(np.searchsorted(read.rows, row))  # which of its row's captions it is
        name = f"row-{row}" + (f"-{turn}" if turn else "")
        return Caption(f"{self._prefix}{name}", f"{self._prefix}image-{self._scan.groups[row]}", text, ())

    def image(self, index: int, size: int | None = None) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The image of caption `index`, upright and on white: uint8 [height, width, 3].

        Args:
            index: Of the caption.
            size: Side that it will be resized to; see `decode`.

        Raises:
            UserError: it cannot be decoded.
        """
        row, table = int(self._scan.read.rows[self._scan.captions[self._indices[index]]]), self._source.table
        content = image_content(table.row(row).get(self._source.image_column), table.folder(row))
        try:
            return decode(content, size)
        except Exception as error:  # Pillow's decoders raise whatever they like on damaged files
            where = str(content) if isinstance(content, Path) else table.place(row)
            raise UserError(
                f"the image cannot be decoded: {error}", where, "mend it or take it out of the data"
            ) from error

    def label(self, index: int) -> int | None:
        """Real captions have no class."""
        return None

    def fingerprint(self) -> str:
        """Hash of the captions and of the bytes of their images."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return sha256_json([self._scan.digest, sha256(self._indices.tobytes()).hexdigest()])


def load_image_text(config: ImageTextConfig, seed: int) -> CaptionData:
    """Open `data.path`, check every row, and split it by image where it is not split already.

    Args:
        config: Where the data is and what to do with bad rows.
        seed: Which images become the test split.

    Raises:
        UserError: see `open_sources`; or rows that cannot be used, unless `data.on_error=skip`.
    """
    source, test_source = open_sources(config)
    sources = [source] if test_source is None else [source, test_source]
    scans = [scan(each, config.captions) for each in sources]
    bad = [message for each in scans for message in each.bad.values()]
    judge(bad, sum(len(each.table) for each in sources), f"data.path={config.path}", config.on_error, "examples")
    train, test = (np.arange(len(each.captions)) for each in (scans[0], scans[-1]))
    if test_source is None:
        fraction = TEST_FRACTION if config.test_fraction is None else config.test_fraction
        train, test = split_by_image(scans[0].groups[scans[0].rows], fraction, seed)
    _require(config, len(train), len(test))
    prefix = "" if test_source is None else "test-"
    return CaptionData(
        config.name,
        ImageTextSplit(source, scans[0], train, ""),
        ImageTextSplit(sources[-1], scans[-1], test, prefix),
        (),
        (),
        tuple(bad),
    )


def split_by_image(images: np.ndarray, test_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split captions so that no image is on both sides.

    Args:
        images: Image of every caption, int [n].
        test_fraction: Share of the images that go to the test side, at least one.
        seed: Which ones.

    Returns:
        Indices of training and of test captions, in order.
    """
    names = np.unique(images)
    count = max(1, round(test_fraction * len(names)))
    test = np.isin(images, np.random.default_rng(seed).permutation(names)[:count])
    return np.flatnonzero(~test), np.flatnonzero(test)


def scan(source: Source, captions: str | None = None) -> Scan:
    """Look at every caption and decode every image; finds all that is wrong before anything is trained.

    Args:
        source: The rows.
        captions: See `ImageTextConfig.captions`.
    """
    read = read_captions(source, captions)
    images = look_at_images(source, read)
    wrong = np.zeros(len(images.digests), bool)
    wrong[list(images.problems)] = True
    good = ~wrong[images.numbers]
    bad = read.bad | {
        int(read.usable[at]): f"{source.table.place(int(read.usable[at]))}: {images.problems[int(images.numbers[at])]}"
        for at in np.flatnonzero(~good)
    }
    rows, digests = read.usable[good], images.digests[images.numbers[good]]
    _, first, same = np.unique(digests, return_index=True, return_inverse=True)
    groups, is_good = np.zeros(len(source.table), np.int64), np.zeros(len(source.table), bool)
    groups[rows], is_good[rows] = rows[first[same]], True
    digest = sha256_json([read.digest, *(sha256(part.tobytes()).hexdigest() for part in (rows, digests))])
    return Scan(dict(sorted(bad.items())), read, np.flatnonzero(is_good[read.rows]), groups, digest)


def _require(config: ImageTextConfig, train: int, test: int) -> None:
    if not train or not test:
        raise UserError(
            f"{train} examples are left to train on and {test} to test on; at least 1 of each is needed",
            f"data.path={config.path}",
            "two images are the least; raise data.limit or change data.test_fraction",
        )
