"""Images with classes as grids of tokens, whatever core's readers give: digits, shapes, or images of the user."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recipes.core.data.images.captions import CaptionData, CaptionSplit, image_for
from recipes.core.data.images.load import load_captions
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.models.from_config import GRAY
from recipes.core.models.vision_language import SquarePixels
from recipes.core.storage.files import sha256_json
from recipes.pretraining.xar.config import XarConfig

HALF = (0.5, 0.5, 0.5)  # mean and deviation that bring pixels to [-1, 1]


@dataclass(frozen=True)
class Images:
    """One part of a data set.

    Attributes:
        pixels: float32 [N, channels, side, side] in [-1, 1].
        labels: int64 [N] class of each.
        names: Id of each.
        groups: What images of one origin share.
    """

    pixels: Tensor
    labels: Tensor
    names: list[str]
    groups: list[str]

    def first(self, count: int) -> "Images":
        """At most so many of them."""
        return Images(self.pixels[:count], self.labels[:count], self.names[:count], self.groups[:count])


@dataclass(frozen=True)
class ClassImages:
    """Images to learn from and to measure on, and the names of their classes.

    Attributes:
        train: Training images.
        test: Others.
        classes: Names.
        fingerprint: Hash of the training images as they are read.
    """

    train: Images
    test: Images
    classes: Sequence[str]
    fingerprint: str


def load_images(config: XarConfig) -> ClassImages:
    """Read images and their classes: known ones, or captions taken for classes.

    Raises:
        UserError: the data cannot be read, captions are no classes, or there are too few images.
    """
    data, where = load_captions(config.data, config.seed), f"data={config.data.name}"
    classes = data.label_names or tuple(sorted({data.train.caption(i).text for i in range(len(data.train))}))
    if len(classes) > len(data.train) // 2:
        what = f"{len(data.train):,} images have {len(classes):,} different captions, which are taken for classes"
        raise UserError(what, where, "type data.caption_column=NAME of a column that holds classes")
    colours = 1 if data.train.image(0).shape[2] == 1 else 3
    assert config.side is not None
    pixels = SquarePixels(config.side, colours, *(GRAY if colours == 1 else (HALF, HALF)))
    train, test = (_read(part, data, classes, pixels) for part in (data.train, data.test))
    least = config.classifier.features + 1
    if len(train.names) < least or len(test.names) < 2:
        what = f"{len(train.names)} training and {len(test.names)} test images have a class"
        raise UserError(what, where, f"at least {least} and 2 are needed; type a smaller classifier.features")
    key = [data.train.fingerprint(), config.side, colours, list(classes)]
    return ClassImages(train, test, classes, sha256_json(key))


def _read(part: CaptionSplit, data: CaptionData, classes: Sequence[str], pixels: SquarePixels) -> Images:
    numbers = {name: number for number, name in enumerate(classes)}
    captions = [part.caption(index) for index in range(len(part))]
    labels = [
        part.label(index) if data.label_names else numbers.get(caption.text) for index, caption in enumerate(captions)
    ]
    chosen = [index for index, label in enumerate(labels) if label is not None]
    if not data.label_names:  # files often stand class by class, and the first are to be of all classes
        chosen = np.random.default_rng(0).permutation(chosen).tolist()
    if left_out := len(labels) - len(chosen):
        note(f"warning: {left_out:,} of {len(labels):,} images have no class that is trained on, and are left out")
    shape = (0, pixels.channels, pixels.image_size, pixels.image_size)
    tensors = [pixels(image_for(part, index, pixels)) for index in chosen]
    return Images(
        torch.stack(tensors) if tensors else torch.zeros(shape),
        torch.tensor([labels[index] for index in chosen]),
        [captions[index].id for index in chosen],
        [captions[index].group for index in chosen],
    )


def to_tokens(pixels: Tensor, patch: int) -> Tensor:
    """Pixels [N, C, S, S] as tokens [N, (S / p)^2, C p^2] in raster order."""
    parts = pixels.unfold(2, patch, patch).unfold(3, patch, patch)  # [N, C, G, G, p, p]
    return parts.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def to_pixels(tokens: Tensor, patch: int) -> Tensor:
    """The inverse of `to_tokens`."""
    count, length, channels = tokens.shape
    grid = round(length**0.5)
    parts = tokens.view(count, grid, grid, channels // patch**2, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return parts.reshape(count, channels // patch**2, grid * patch, grid * patch)


def to_bytes(pixels: Tensor) -> np.ndarray:
    """Pixels [N, C, S, S] in [-1, 1] as uint8 [N, S, S, 3], those outside cut off."""
    values = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
    return values.expand(-1, -1, -1, 3).numpy()
