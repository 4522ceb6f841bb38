"""Which patches of an image are masked, and images with their masks as what is trained on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from recipes.core.data.images.labelled import LabelledImages
from recipes.core.errors import UserError
from recipes.pretraining.mto.config import BLOCK, INDEPENDENT, MtoConfig, ViTShape, grid_problem

DEVIATION = 0.02  # of the vectors that stand for masked patches where each position has its own


def draw_mask(grid: int, count: int, masking: str, draw: np.random.Generator) -> np.ndarray:
    """bool [grid * grid]: `count` patches, anywhere, or (block) those nearest to one patch, ties at random."""
    places = draw.permutation(grid * grid)
    if masking == BLOCK:
        rows, columns = np.divmod(places, grid)
        distances = np.maximum(abs(rows - rows[0]), abs(columns - columns[0]))
        places = places[np.argsort(distances, kind="stable")]
    mask = np.zeros(grid * grid, bool)
    mask[places[:count]] = True
    return mask


def check_grid(images: LabelledImages, patch: int) -> None:
    """Refuse images that patches of this side do not divide. Raises UserError: they do not."""
    side, first = images.train.shape[1], images.labels.train[0].id
    if problem := grid_problem(side, patch):
        fitting = max(-(-side // patch), 2) * patch
        raise UserError(
            problem, f"model.patch={patch}", f"data.side={fitting} resizes all images ({first} is {side} x {side})"
        )


def masked_count(ratio: float, patches: int) -> int:
    """Masked patches of an image; at least one is, and one is not."""
    return min(max(round(ratio * patches), 1), patches - 1)


class MaskedItems(Dataset[dict[str, Any]]):
    """Images with a mask each, pass after pass; an item depends on its number alone.

    Args:
        pixels: [images, C, S, S]
        names: Of the images.
        items: How many, over all passes.
        mto: How many patches are masked, where they lie, and whether each has a vector of its own.
        shape: Patches and width.
        seed: Of masks and vectors.
    """

    def __init__(
        self, pixels: Tensor, names: Sequence[str], items: int, mto: MtoConfig, shape: ViTShape, seed: int
    ) -> None:
        self.pixels, self.names, self.items, self.seed = pixels, names, items, seed
        self.grid, self.masking = pixels.shape[-1] // shape.patch, mto.masking
        self.count = masked_count(mto.ratio, self.grid**2)
        self.width = shape.width if mto.mask_token == INDEPENDENT else 0

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> dict[str, Any]:
        draw, row = np.random.default_rng([self.seed, index]), index % len(self.names)
        mask = draw_mask(self.grid, self.count, self.masking, draw)
        item = {"id": self.names[row], "pixels": self.pixels[row], "masked": torch.from_numpy(mask)}
        if self.width:
            item["vectors"] = DEVIATION * torch.from_numpy(draw.standard_normal((len(mask), self.width), np.float32))
        return item


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch of such items."""
    names = [name for name in items[0] if name != "id"]
    batch: dict[str, Any] = {name: torch.stack([item[name] for item in items]) for name in names}
    return batch | {"ids": [item["id"] for item in items]}
