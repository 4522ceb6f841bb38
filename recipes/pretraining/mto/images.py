"""Labelled images in memory: the digits that ship, or a user's, checked whole before anything is trained."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.core.data.files.data_files import (
    TABLES,
    choose_split,
    data_files,
    is_dataset,
    split_of_name,
    split_to_test_on,
    splits_of,
)
from recipes.core.data.files.json_records import Bad
from recipes.core.data.files.records import judge, open_records
from recipes.core.data.files.tables import IndexedTable, ListTable, Table
from recipes.core.data.images.checks import ImageChecks
from recipes.core.data.images.decoding import IMAGE_SUFFIXES, decode, image_content
from recipes.core.data.images.digits import DIGITS, TRAIN_SIZE, read_scans
from recipes.core.data.images.sources import IMAGE_COLUMNS
from recipes.core.data.tasks.labelled import (
    LABEL_COLUMNS,
    LabelledSet,
    LabelledText,
    draw_texts,
    label_name,
    split_labelled,
)
from recipes.core.data.tasks.labelled_config import LabelledConfig
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import home_path, sha256_json
from recipes.pretraining.mto.config import LabelledImagesConfig, grid_problem

MIDDLE = 0.5  # mean and standard deviation that pixels from 0 to 1 are normalised with, as ViT's processor does
FEWEST = 2  # images of a class


@dataclass(frozen=True)
class LabelledImages:
    """Images to train on and to test a probe on.

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


def load_images(config: LabelledImagesConfig, patch: int) -> LabelledImages:
    """The images that a config describes.

    Args:
        config: Where they are.
        patch: Side of a patch, which has to divide that of the images.

    Raises:
        UserError: images cannot be read, are no squares of one side, or are not divided by the patches; there are fewer
            than two classes, or a class has too few images.
    """
    images = _digits(config) if config.path is None else _folder(config)
    side, first, tested = images.train.shape[1], images.labels.train[0].id, images.labels.test[0].id
    if images.test.shape[1] != side:
        raise _another_side(tested, images.test.shape[1], first, side)
    if problem := grid_problem(side, patch):
        fitting = max(-(-side // patch), 2) * patch
        raise UserError(
            problem, f"model.patch={patch}", f"data.side={fitting} resizes all images ({first} is {side} x {side})"
        )
    return images


def _digits(config: LabelledImagesConfig) -> LabelledImages:
    """Dark ink on white, 1,400 to train and 397 to test, as all recipes split them."""
    scans, digits = read_scans()
    ink = np.round(255 - scans * (255 / 16)).astype(np.uint8)
    texts = [
        LabelledText(f"digit-{row:04d}", f"digit-{row:04d}", DIGITS[digit], f"digit-{row:04d}")
        for row, digit in enumerate(digits)
    ]
    order = np.random.default_rng(0).permutation(len(texts))
    train, test = ([texts[row] for row in rows] for rows in (order[:TRAIN_SIZE], order[TRAIN_SIZE:]))
    if config.test_fraction is not None:
        labels = split_labelled(config.name, texts, _texts_config(config), f"data={config.name}")
    else:
        labels = LabelledSet(config.name, draw_texts(train, config.limit, config.seed), test)
    image = {text.id: ink[row] for row, text in enumerate(texts)}
    parts = [[_square(image[text.id], config.side, text.id) for text in part] for part in (labels.train, labels.test)]
    return LabelledImages(labels, *(np.stack(part)[..., :1] for part in parts))


def _folder(config: LabelledImagesConfig) -> LabelledImages:
    """A user's images, decoded once and kept."""
    where = f"data.path={config.path}"
    path = str(config.path)
    plain = config.format == "auto" and _has_class_folders(path)
    source = _ClassFolders(config) if plain else open_records(path, format=config.format)
    published = split_to_test_on(source, "train", None, config.test_fraction)
    sides = [_read(config, source.table("train"), "", where)]
    sides += [_read(config, source.table(published), f"{published}-", where)] if published else []
    contents = {text.id: content for part, more in sides for text, content in zip(part, more, strict=True)}
    train, test = [text for text, _ in _pairs(sides[:1])], [text for text, _ in _pairs(sides[1:])]
    _check_classes([*train, *test], where)
    if published:
        seen = {text.document for text in test}
        rest = [text for text in train if text.document not in seen]
        if left := len(train) - len(rest):
            note(f"warning: {where}: {left:,} of {len(train):,} training images are tested on, too, and are left out")
        _check_published(rest, test, where)
        labels = LabelledSet(config.name, draw_texts(rest, config.limit, config.seed), test)
    else:
        labels = split_labelled(config.name, train, _texts_config(config), where)
    return LabelledImages(labels, *(_decoded(config, part, contents) for part in (labels.train, labels.test)))


def _pairs(sides: list[tuple[list[LabelledText], list[Any]]]) -> Iterator[tuple[LabelledText, Any]]:
    for texts, contents in sides:
        yield from zip(texts, contents, strict=True)


def _texts_config(config: LabelledImagesConfig) -> LabelledConfig:
    return LabelledConfig(texts=config.limit, test_fraction=config.test_fraction, seed=config.seed)


def _has_class_folders(path: str) -> bool:
    where = home_path(path)
    return where.is_dir() and not is_dataset(path, where, TABLES) and not data_files(where, TABLES)


class _ClassFolders:
    """A folder of images, each in a folder that names its class, with or without train/ and test/ above."""

    def __init__(self, config: LabelledImagesConfig) -> None:
        self._root, self._where = home_path(str(config.path)), f"data.path={config.path}"
        self._files = data_files(self._root, dict.fromkeys(IMAGE_SUFFIXES, "image"), by_name=())
        if not self._files:
            hint = f"images end in {', '.join(IMAGE_SUFFIXES)}"
            raise UserError("the folder holds no images and no records", self._where, hint)

    @property
    def splits(self) -> list[str]:
        """Names of the splits; empty where no folder names one."""
        return splits_of(self._files)

    def table(self, split: str) -> IndexedTable:
        """The images of a split; without splits all of them. Raises UserError: there is no such split."""
        files = choose_split(self._files, split, self._where, "data.path")
        rows: list[Any] = []
        for file in files:
            folder, outside = file.path.parent, Bad("lies in no folder that names its class")
            named = folder != self._root and split_of_name(f"{folder.name}/image", by_name=False) is None
            rows.append({"image": str(file.path), "label": folder.name} if named else outside)
        return ListTable(rows, [file.name for file in files], self._root, ("image", "label"))


def _read(
    config: LabelledImagesConfig, table: Table, prefix: str, where: str
) -> tuple[list[LabelledText], list[Path | bytes]]:
    """Every row's name, hash and class, and its image."""
    columns = (
        table.pick(config.image_column, IMAGE_COLUMNS, "data.image_column"),
        table.pick(config.label_column, LABEL_COLUMNS, "data.label_column"),
    )
    rows, bad, checks = dict[int, tuple[str, Any]](), dict[int, str](), ImageChecks(table, columns[0])
    for index, record in enumerate(table.rows(columns)):
        try:
            if isinstance(record, Bad):
                raise ValueError(str(record))
            content, label = (
                image_content(record.get(columns[0]), table.folder(index)),
                label_name(record.get(columns[1])),
            )
            if content is None or label is None:
                raise ValueError("it has no image" if content is None else "its label is no word and no whole number")
            checks.add(index, content)
            rows[index] = label, content
        except ValueError as error:
            bad[index] = str(error)
    digests, problems = checks.run()
    bad |= problems
    judge([f"{table.place(i)}: {bad[i]}" for i in sorted(bad)], len(rows | bad), where, config.on_error, "images")
    good = [index for index in rows if index not in bad]
    texts = [LabelledText(prefix + table.place(i), digests[i], rows[i][0], digests[i]) for i in good]
    return texts, [rows[i][1] for i in good]


def _check_classes(texts: list[LabelledText], where: str) -> None:
    images: dict[str, set[str]] = {}
    for text in texts:
        images.setdefault(text.label, set()).add(text.document)
    scarce = sorted(label for label, some in images.items() if len(some) < FEWEST)
    if len(images) < 2:
        what = f"all images are of the class {min(images)!r}" if images else "there are no images"
        raise UserError(
            f"{what}, and two classes are the least", where, "a folder for each class, or a column of labels"
        )
    if scarce:
        hint = f"take such classes out; {FEWEST} different images of each are the least"
        raise UserError(f"class {scarce[0]!r} has a single image, too few to train and to test", where, hint)


def _check_published(train: list[LabelledText], test: list[LabelledText], where: str) -> None:
    """Both sides need every class."""
    sides = [{text.label for text in part} for part in (train, test)]
    for missing, what in ((sides[1] - sides[0], "train"), (sides[0] - sides[1], "test")):
        if missing:
            raise UserError(f"class {min(missing)!r} has no image to {what} on", where, "give it some, or take it out")


def _decoded(config: LabelledImagesConfig, texts: Any, contents: dict[str, Path | bytes]) -> np.ndarray:
    """uint8 [n, S, S, 3], from the cache where the same images were decoded before."""

    def build(staging: Path) -> None:
        images = [_square(decode(contents[text.id], config.side), config.side, text.id) for text in texts]
        side = len(images[0])
        for image, text in zip(images, texts, strict=True):
            if len(image) != side:
                raise _another_side(text.id, len(image), texts[0].id, side)
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
