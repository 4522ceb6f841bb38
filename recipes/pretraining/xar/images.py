"""Images with classes: the digits, shapes, or images of the user."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch
from torch import Tensor

from recipes.core.data.images.captions import CaptionSplit, image_for
from recipes.core.data.images.labelled import MIDDLE, load_labelled_images
from recipes.core.data.images.labelled_config import LabelledImagesConfig
from recipes.core.data.images.load import load_captions
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.models.vision_language import SquarePixels
from recipes.core.storage.files import sha256_json
from recipes.pretraining.xar.config import XarConfig


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
        fingerprint: Hash of the training images, pixels and classes.
    """

    train: Images
    test: Images
    classes: Sequence[str]
    fingerprint: str


def load_images(config: XarConfig) -> ClassImages:
    """Images and their classes; no seed of the run changes them.

    Raises:
        UserError: the data cannot be read, or there are too few images.
    """
    data = config.data
    train, test, classes = _of_user(data) if isinstance(data, LabelledImagesConfig) else _known(config)
    least = config.classifier.features + 1
    if len(train.names) < least or len(test.names) < 2:
        what = f"{len(train.names)} training and {len(test.names)} test images have a class"
        hint = f"at least {least} and 2 are needed; type a smaller classifier.features"
        raise UserError(what, f"data.path={data.path}" if data.path else f"data={data.name}", hint)
    key = [sha256(np.ascontiguousarray(values).tobytes()).hexdigest() for values in (train.pixels, train.labels)]
    return ClassImages(train, test, classes, sha256_json([*key, list(train.pixels.shape), list(classes)]))


def _of_user(data: LabelledImagesConfig) -> tuple[Images, Images, Sequence[str]]:
    """In random order: files often stand class by class, and the first are to be of all classes."""
    images, parts = load_labelled_images(data), []
    for name, texts in (("train", images.labels.train), ("test", images.labels.test)):
        order = np.random.default_rng(0).permutation(len(texts))
        chosen, numbers = [texts[row] for row in order], images.labels.numbers(texts)
        names, groups = [text.id for text in chosen], [text.document for text in chosen]
        parts.append(Images(images.pixels(name)[order], torch.from_numpy(numbers[order]), names, groups))
    return parts[0], parts[1], images.labels.classes


def _known(config: XarConfig) -> tuple[Images, Images, Sequence[str]]:
    """The digits, or shapes whose class their questions leave open to no doubt."""
    assert not isinstance(config.data, LabelledImagesConfig) and config.side is not None
    data = load_captions(config.data, config.seed)
    colours = data.train.image(0).shape[2]
    pixels = SquarePixels(config.side, colours, *([MIDDLE] * colours,) * 2)
    return _read(data.train, pixels), _read(data.test, pixels), data.label_names


def _read(part: CaptionSplit, pixels: SquarePixels) -> Images:
    labels = [part.label(index) for index in range(len(part))]
    chosen = [index for index, label in enumerate(labels) if label is not None]
    if left_out := len(labels) - len(chosen):
        note(f"warning: {left_out:,} of {len(labels):,} images have no class, and are left out")
    captions = [part.caption(index) for index in chosen]
    return Images(
        torch.stack([pixels(image_for(part, index, pixels)) for index in chosen]),
        torch.tensor([labels[index] for index in chosen]),
        [caption.id for caption in captions],
        [caption.group for caption in captions],
    )
