"""Images with a class each, in memory: the digits that ship, or a user's, checked whole before anything is trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recipes.core.data.files.data_files import split_to_test_on
from recipes.core.data.files.json_records import Bad
from recipes.core.data.files.records import Records, judge, open_records
from recipes.core.data.files.tables import Table
from recipes.core.data.images.checks import ImageChecks, StoredImage
from recipes.core.data.images.decoding import decode, image_content
from recipes.core.data.images.digits import DIGITS, digit_id, digit_images, digit_split
from recipes.core.data.images.labelled_config import LabelledImagesConfig
from recipes.core.data.images.sources import IMAGE_COLUMNS, ImageFolder, class_folders, detect_format
from recipes.core.data.tasks.labelled import (
    LABEL_COLUMNS,
    LabelledSet,
    LabelledText,
    Nouns,
    draw_texts,
    label_name,
    published_labelled,
    split_labelled,
)
from recipes.core.data.tasks.labelled_config import LabelledConfig
from recipes.core.errors import UserError
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import home_path, sha256_json

MIDDLE = 0.5  # mean and standard deviation that pixels from 0 to 1 are normalised with, as ViT's processor does
NOUNS = Nouns("image", "picture")  # files of the same bytes are one picture

Content = Path | StoredImage


@dataclass(frozen=True)
class LabelledImages:
    """Images to train and to test on, squares of one side.

    Attributes:
        labels: Their names and classes; the text of each is its hash.
        train: uint8 [n, S, S, C]
        test: uint8 [m, S, S, C]
    """

    labels: LabelledSet
    train: np.ndarray
    test: np.ndarray

    def pixels(self, part: str) -> Tensor:
        """float32 [n, C, S, S] of "train" or "test", from -1 (black) to 1."""
        values = torch.from_numpy(np.ascontiguousarray(getattr(self, part)))
        return (values.permute(0, 3, 1, 2).float() / 255 - MIDDLE) / MIDDLE


def load_labelled_images(config: LabelledImagesConfig) -> LabelledImages:
    """The images that a config describes; those of a user are RGB, the digits grey.

    Raises:
        UserError: images cannot be read, or are no squares of one side where none is typed; there are fewer than two
            classes, or a class has too few images.
    """
    images = _digits(config) if config.path is None else _of_user(config)
    if images.test.shape[1] != images.train.shape[1]:
        train, test = images.labels.train[0].id, images.labels.test[0].id
        raise _another_side(test, images.test.shape[1], train, images.train.shape[1])
    return images


def _digits(config: LabelledImagesConfig) -> LabelledImages:
    """1,400 to train and 397 to test, as all recipes split them, unless a share was typed."""
    scans, digits = digit_images()
    ids = [digit_id(row) for row in range(len(scans))]
    texts = [LabelledText(name, name, DIGITS[digit], name) for name, digit in zip(ids, digits, strict=True)]
    if config.test_fraction is not None:
        labels = split_labelled(config.name, texts, _texts_config(config), f"data={config.name}", NOUNS)
    else:
        train, test = ([texts[row] for row in rows] for rows in digit_split())
        labels = LabelledSet(config.name, draw_texts(train, config.limit, config.seed), test)
    scan_of = dict(zip(ids, scans[..., 0], strict=True))
    parts = [[_square(scan_of[text.id], config.side, text.id) for text in part] for part in (labels.train, labels.test)]
    return LabelledImages(labels, *(np.stack(part)[..., :1] for part in parts))


def _of_user(config: LabelledImagesConfig) -> LabelledImages:
    """A user's images, decoded once and kept."""
    where, source = f"data.path={config.path}", _open(config)
    published = split_to_test_on(source, config.split, config.test_split, config.test_fraction)
    train, contents = _read(config, source.table(config.split), "", where)
    if published is None:
        labels = split_labelled(config.name, train, _texts_config(config), where, NOUNS)
    else:
        test, others = _read(config, source.table(published, "test_split"), f"{published}-", where)
        labels = published_labelled(config.name, train, test, _texts_config(config), where, NOUNS)
        contents |= others
    return LabelledImages(labels, *(_decoded(config, part, contents) for part in (labels.train, labels.test)))


def _open(config: LabelledImagesConfig) -> Records | ImageFolder:
    path = str(config.path)
    where = home_path(path)
    if config.format != "auto" or detect_format(path, where) != "folder":
        return open_records(path, format=config.format)
    folder = ImageFolder(path, where, class_folders)
    folder.warn_unnamed(config.image_column)
    return folder


def _texts_config(config: LabelledImagesConfig) -> LabelledConfig:
    return LabelledConfig(texts=config.limit, test_fraction=config.test_fraction, seed=config.seed)


def _read(
    config: LabelledImagesConfig, table: Table, prefix: str, where: str
) -> tuple[list[LabelledText], dict[str, Content]]:
    """Every row's name, hash and class; and the image of each name."""
    image = table.pick(config.image_column, IMAGE_COLUMNS, "data.image_column")
    label = table.pick(config.label_column, LABEL_COLUMNS, "data.label_column")
    labels, files, bad, checks = dict[int, str](), dict[int, Path](), dict[int, str](), ImageChecks(table, image)
    for index, record in enumerate(table.rows((image, label))):
        try:
            if isinstance(record, Bad):
                raise ValueError(str(record))
            content, name = image_content(record.get(image), table.folder(index)), label_name(record.get(label))
            if content is None or name is None:
                raise ValueError("it has no image" if content is None else "its label is no word and no whole number")
            checks.add(index, content)
            labels[index] = name
            if isinstance(content, Path):
                files[index] = content
        except ValueError as error:
            bad[index] = str(error)
    digests, problems = checks.run()
    bad |= problems
    judge([f"{table.place(i)}: {bad[i]}" for i in sorted(bad)], len(labels | bad), where, config.on_error, "images")
    good = [index for index in labels if index not in bad]
    texts = [LabelledText(prefix + table.place(i), digests[i], labels[i], digests[i]) for i in good]
    contents: dict[int, Content] = dict(files)
    if stored := [index for index in good if index not in files]:
        indexed = table.with_index((image,))
        contents |= {index: StoredImage(indexed, index, image) for index in stored}
    return texts, {text.id: contents[index] for index, text in zip(good, texts, strict=True)}


def _decoded(config: LabelledImagesConfig, texts: Sequence[LabelledText], contents: dict[str, Content]) -> np.ndarray:
    """uint8 [n, S, S, 3], from the cache where the same images were decoded before."""

    def build(staging: Path) -> None:
        images = list[np.ndarray]()
        for text in texts:
            content = contents[text.id]
            decoded = decode(content.read() if isinstance(content, StoredImage) else content, config.side)
            images.append(_square(decoded, config.side, text.id))
            if len(images[-1]) != len(images[0]):
                raise _another_side(text.id, len(images[-1]), texts[0].id, len(images[0]))
        np.save(staging / "images.npy", np.stack(images))

    key = sha256_json([1, config.side, [text.document for text in texts]])
    images: np.ndarray = np.load(build_once("labelled-images", key, build) / "images.npy")
    return images


def _another_side(name: str, side: int, first: str, usual: int) -> UserError:
    """An image whose side is not that of the first one."""
    what = f"the image has a side of {side} pixels, {first} one of {usual}"
    return UserError(what, name, f"type data.side={usual}: all images become squares of that side")


def _square(image: np.ndarray, side: int | None, name: str) -> np.ndarray:
    """[S, S, 3] of an image [H, W(, 3)]. Raises UserError: it is no square and no side is typed."""
    from PIL import Image

    height, width = image.shape[:2]
    if side is None and height != width:
        hint = f"type data.side={min(height, width)}: all images become squares of that side"
        raise UserError(f"the image is {width} x {height} pixels, no square", name, hint)
    picture = Image.fromarray(image).convert("RGB")
    if side not in (None, height) or height != width:
        picture = picture.resize((int(side or height),) * 2, Image.Resampling.BILINEAR)
    return np.asarray(picture)
