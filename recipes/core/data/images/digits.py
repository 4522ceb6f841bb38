"""Handwritten digits with controllable captions: two image words in a sea of filler.

The images are the 1,797 scans of 8x8 pixels that ship with scikit-learn. The caption of an image is

    FILLER it shows a {thin|bold} handwritten {zero..nine} on white paper . FILLER

where FILLER is one of five boilerplate sentences (predictable) or five words of a heavy-tailed list of 400
(unpredictable). {thin, bold} says whether the image has more ink than the median training image.
"""

from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.data.config import DigitCaptionsConfig
from recipes.core.data.images.captions import Caption, CaptionData, Span, fingerprint
from recipes.core.data.text.words import WORDS

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
THICKNESSES = ("thin", "bold")
BOILERPLATE = (
    "please click here to see more pictures from our shop .",
    "this photo was uploaded by a user of the website .",
    "all rights reserved by the owner of this picture gallery .",
    "subscribe to our newsletter for the latest news and offers .",
    "free shipping on every order that you place this week .",
)
SCANS, TRAIN_SIZE = 1797, 1400
FILLER_WORDS = 5

Images = np.ndarray[Any, np.dtype[np.uint8]]


class DigitCaptions:
    """One split, in memory.

    Args:
        rows: Row of each image in scikit-learn's data, int [n].
        images: uint8 [n, 8, 8, 1], dark ink on white.
        labels: Digit of each image, int [n].
        bold: Whether each image has much ink, bool [n].
        filler: "predictable" or "unpredictable".
        seed: Of the filler; each image has its own generator from it and its row.
    """

    def __init__(self, rows: np.ndarray, images: Images, labels: np.ndarray, bold: np.ndarray, filler: str, seed: int):
        self._images = images
        self._labels = labels
        self._captions = [
            _caption(int(row), int(label), bool(is_bold), filler, seed)
            for row, label, is_bold in zip(rows, labels, bold, strict=True)
        ]

    def __len__(self) -> int:
        return len(self._captions)

    def caption(self, index: int) -> Caption:
        """The caption at `index`."""
        return self._captions[index]

    def image(self, index: int, size: int | None = None) -> Images:
        """The image at `index`: uint8 [8, 8, 1]."""
        return self._images[index]

    def label(self, index: int) -> int | None:
        """The digit."""
        return int(self._labels[index])

    def fingerprint(self) -> str:
        """Hash of captions and images."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self._captions, (image.tobytes() for image in self._images))


def read_scans() -> tuple[np.ndarray, np.ndarray]:
    """All scans in scikit-learn's order: float [1797, 8, 8] from 0 (paper) to 16 (ink), and their digits [1797].

    The file that its `load_digits` reads: to import that takes longer than to train on them for a hundred steps.
    """
    sklearn = find_spec("sklearn")
    assert sklearn and sklearn.origin, "a dependency"
    table = np.loadtxt(Path(sklearn.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(int)


def digit_images() -> tuple[Images, np.ndarray]:
    """All scans as images, uint8 [1797, 8, 8, 1], dark ink on white, and their digits [1797]."""
    scans, digits = read_scans()
    return np.round(255 - scans * (255 / 16)).astype(np.uint8)[..., None], digits


def digit_split() -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on [1400] and to test on [397], by a fixed shuffle that no seed changes."""
    order = np.random.default_rng(0).permutation(SCANS)
    return order[:TRAIN_SIZE], order[TRAIN_SIZE:]


def digit_id(row: int) -> str:
    """What an image is called."""
    return f"digit-{row:04d}"


def load_digit_captions(config: DigitCaptionsConfig, seed: int) -> CaptionData:
    """The digits, 1,400 to train and 397 to test.

    Args:
        config: Which filler.
        seed: Of the filler.

    Source: PRIOR notes, section 6 (smallest honest experiment).
    """
    images, labels = digit_images()
    train, test = digit_split()
    ink = read_scans()[0].sum(axis=(1, 2))  # [1797]
    bold = ink > np.median(ink[train])

    def split(rows: np.ndarray) -> DigitCaptions:
        return DigitCaptions(rows, images[rows], labels[rows], bold[rows], config.filler, seed)

    return CaptionData(config.name, split(train), split(test), DIGITS, (), ())


def _caption(row: int, digit: int, bold: bool, filler: str, seed: int) -> Caption:
    draw = np.random.default_rng((seed, row))
    thickness = THICKNESSES[bold]
    before = f"{_filler(draw, filler)} it shows a "
    between = " handwritten "
    text = f"{before}{thickness}{between}{DIGITS[digit]} on white paper . {_filler(draw, filler)}"
    thick_end = len(before) + len(thickness)
    digit_start = thick_end + len(between)
    spans = (
        Span(len(before), thick_end, "thickness", THICKNESSES),
        Span(digit_start, digit_start + len(DIGITS[digit]), "digit", DIGITS),
    )
    return Caption(digit_id(row), digit_id(row), text, spans)


def _filler(draw: np.random.Generator, filler: str) -> str:
    if filler == "predictable":
        return str(draw.choice(BOILERPLATE))
    return " ".join(draw.choice(WORDS, size=FILLER_WORDS, p=_ZIPF))


_ZIPF = 1 / np.arange(1, len(WORDS) + 1)  # the word of rank r is drawn with probability in proportion to 1/r
_ZIPF /= _ZIPF.sum()
