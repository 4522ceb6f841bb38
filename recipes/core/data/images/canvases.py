"""Canvases of handwritten digits with questions about them, and which patches hold the answer.

The scans of scikit-learn are split once: 1,297 are pasted on training canvases, 500 on test canvases. A canvas is a
function of (config, part, seed); where digits stand does not depend on the background.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recipes.core.data.images.canvas_config import CELLS, SCAN, CanvasConfig, CanvasDataConfig, QuestionCanvasDataConfig
from recipes.core.data.images.digits import DIGITS, read_scans

PARTS = ("train", "test")
TRAIN_SCANS = 1297
SIDES = {2: ("left", "right"), 4: ("top-left", "top-right", "bottom-left", "bottom-right")}
TILE = 8  # pixels of a side of a grating
CHUNK = 1024  # canvases whose gratings are made at a time

Array = np.ndarray


@dataclass(frozen=True)
class Canvases:
    """One part of a data set.

    Attributes:
        images: [n, 3, S, S] float, ready as pixel_values (three equal channels, which share memory).
        labels: [n, slots] digit in each place, -1 where there is none.
        questions: [n, q] index of the question asked (see `words`).
        answers: [n, q] index of its answer.
        evidence: [n, q, patches] bool: patches that show the digit asked for.
        patch_digits: [n, patches] digit that each patch shows, -1 for none.
    """

    images: Tensor
    labels: Tensor
    questions: Tensor
    answers: Tensor
    evidence: Tensor
    patch_digits: Tensor

    def __len__(self) -> int:
        return len(self.images)

    @property
    def presence(self) -> Tensor:
        """[n, 10] bool: which digits each canvas shows."""
        return (self.labels[:, :, None] == torch.arange(len(DIGITS))).any(1)


def words(config: CanvasConfig) -> tuple[Sequence[str], Sequence[str]]:
    """Words for the questions and for the answers, by index."""
    if isinstance(config, CanvasDataConfig):
        return SIDES[config.digits], DIGITS
    return DIGITS, SIDES[4]


def make_canvases(config: CanvasConfig, part: str, seed: int) -> Canvases:
    """The canvases that this config describes."""
    return (
        digit_canvases(config, part, seed)
        if isinstance(config, CanvasDataConfig)
        else question_canvases(config, part, seed)
    )


def digit_canvases(config: CanvasDataConfig, part: str, seed: int) -> Canvases:
    """One digit in each half (quarter); all are asked for, in the order of their places.

    Args:
        config: Size, number of digits, background.
        part: "train" or "test".
        seed: Of digits, places and background.

    Source: DivPrune notes, section 7 (toy VLM).
    """
    scans, classes = _scans(part)
    count, slots, half = getattr(config, part), config.digits, config.size // 2
    draw = _generator(seed, part, "layout")
    chosen = draw.integers(len(scans), size=(count, slots))
    height = config.size if slots == 2 else half
    rows = config.patch * draw.integers((height - SCAN) // config.patch + 1, size=(count, slots))
    columns = config.patch * draw.integers((half - SCAN) // config.patch + 1, size=(count, slots))
    rows += np.arange(slots) // 2 * half
    columns += np.arange(slots) % 2 * half
    shown = np.ones((count, slots), bool)
    images = _paste(config, part, seed, scans[chosen], rows, columns, shown)
    asked = np.broadcast_to(np.arange(slots), (count, slots))
    labels = torch.from_numpy(classes[chosen])
    evidence = _evidence(config, rows, columns)
    asked_digits = torch.from_numpy(asked.copy())
    return Canvases(images, labels, asked_digits, labels.clone(), evidence, _digit_of_patch(labels, evidence))


def question_canvases(config: QuestionCanvasDataConfig, part: str, seed: int) -> Canvases:
    """Digits in some of the 4 x 4 cells of a canvas; those asked for are shown once, others may be shown again.

    Args:
        config: Size, numbers of digits and questions, background.
        part: "train" or "test".
        seed: Of digits, places and background.

    Source: notes on recoverable compression, section 7.
    """
    scans, classes = _scans(part)
    count, asked, cell = getattr(config, part), config.questions, config.size // CELLS
    draw = _generator(seed, part, "layout")
    digits = draw.permuted(np.tile(np.arange(len(DIGITS)), (count, 1)), axis=1)
    others = asked + draw.integers(len(DIGITS) - asked, size=(count, config.most - asked))
    digits = np.concatenate([digits[:, :asked], np.take_along_axis(digits, others, 1)], 1)  # [count, most]
    shown = np.arange(config.most) < draw.integers(config.fewest, config.most + 1, size=(count, 1))
    cells = draw.permuted(np.tile(np.arange(CELLS**2), (count, 1)), axis=1)[:, : config.most]
    inside = config.patch * draw.integers((cell - SCAN) // config.patch + 1, size=(2, count, config.most))
    rows, columns = cells // CELLS * cell + inside[0], cells % CELLS * cell + inside[1]
    images = _paste(config, part, seed, scans[_scan_of(digits, classes, draw)], rows, columns, shown)
    labels = np.full((count, CELLS**2), -1)
    np.put_along_axis(labels, cells, np.where(shown, digits, -1), 1)
    quadrants = cells // CELLS // 2 * 2 + cells % CELLS // 2
    evidence = _evidence(config, rows, columns)
    return Canvases(
        images,
        torch.from_numpy(labels),
        torch.from_numpy(digits[:, :asked].copy()),
        torch.from_numpy(quadrants[:, :asked].copy()),
        evidence[:, :asked].clone(),
        _digit_of_patch(torch.from_numpy(np.where(shown, digits, -1)), evidence),
    )


def _scans(part: str) -> tuple[Array, Array]:
    """Scans of a part, float32 [n, 8, 8] from 0 (paper) to 1 (ink), and their digits."""
    ink, classes = read_scans()
    order = np.random.default_rng(0).permutation(len(ink))
    rows = order[:TRAIN_SCANS] if part == "train" else order[TRAIN_SCANS:]
    return (ink[rows] / 16).astype(np.float32), classes[rows].astype(np.int64)


def _scan_of(digits: Array, classes: Array, draw: np.random.Generator) -> Array:
    """For each digit the row of a random scan of it."""
    order, counts = np.argsort(classes, kind="stable"), np.bincount(classes, minlength=len(DIGITS))
    starts = np.cumsum(counts) - counts
    rows: Array = order[starts[digits] + (draw.random(digits.shape) * counts[digits]).astype(int)]
    return rows


def _generator(seed: int, part: str, what: str) -> np.random.Generator:
    return np.random.default_rng([seed, PARTS.index(part), ("layout", "background").index(what)])


def _paste(
    config: CanvasConfig, part: str, seed: int, scans: Array, rows: Array, columns: Array, shown: Array
) -> Tensor:
    """Backgrounds with scans [n, k, 8, 8] added at pixel (rows, columns) [n, k], those that are shown [n, k]."""
    canvas = _background(config, len(rows), _generator(seed, part, "background"))
    ink = config.intensity * scans * shown[:, :, None, None]
    lines, offsets = np.arange(len(rows))[:, None, None], np.arange(SCAN)
    for slot in range(rows.shape[1]):
        y = rows[:, slot, None, None] + offsets[:, None]
        x = columns[:, slot, None, None] + offsets
        canvas[lines, y, x] += ink[:, slot]
    return torch.from_numpy(canvas)[:, None].expand(-1, 3, -1, -1)


def _background(config: CanvasConfig, count: int, draw: np.random.Generator) -> Array:
    shape = (count, config.size, config.size)
    if config.background == "flat":
        return np.zeros(shape, np.float32)
    canvas = config.noise * draw.standard_normal(shape, np.float32)
    if config.background == "textured":
        for start in range(0, count, CHUNK):
            part = canvas[start : start + CHUNK]
            part += config.clutter * _gratings(len(part), config.size, draw)
    return canvas


def _gratings(count: int, size: int, draw: np.random.Generator) -> Array:
    """Stripes from 0 to 1, of another width, direction and height in every tile: float32 [count, size, size]."""
    tiles = -(-size // TILE)

    def spread(values: Array) -> Array:
        return values.astype(np.float32).repeat(TILE, 1).repeat(TILE, 2)[:, :size, :size]

    shape = (count, tiles, tiles)
    angle, phase = (spread(draw.random(shape) * 2 * np.pi) for _ in range(2))
    frequency, height = spread(draw.uniform(0.6, 1.8, shape)), spread(draw.random(shape))
    y, x = np.mgrid[:size, :size].astype(np.float32)
    wave: Array = np.sin(frequency * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    return height * np.maximum(wave, 0)


def _digit_of_patch(digits: Tensor, evidence: Tensor) -> Tensor:
    """[n, patches] which of the digits [n, k] stands on each patch, where each has evidence [n, k, patches]."""
    return torch.where(evidence, digits[:, :, None], -1).amax(1)


def _evidence(config: CanvasConfig, rows: Array, columns: Array) -> Tensor:
    """[n, q, patches] bool: patches under the scans at pixel (rows, columns) [n, q]."""
    starts, wide = np.arange(config.grid) * config.patch, config.patch

    def touches(at: Array) -> Array:
        result: Array = (starts + wide > at[..., None]) & (starts < at[..., None] + SCAN)
        return result

    both = touches(rows)[..., :, None] & touches(columns)[..., None, :]
    return torch.from_numpy(both.reshape(*rows.shape, -1))
