"""Labelled images: digits, folders of classes and records; what is split, resized and refused."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from recipes.core.data.config import DigitCaptionsConfig
from recipes.core.data.images.digits import DIGITS
from recipes.core.data.images.labelled import load_labelled_images
from recipes.core.data.images.labelled_config import LabelledImagesConfig
from recipes.core.data.images.load import load_captions
from recipes.core.errors import UserError


def folders(root: Path, each: int, side: int = 8) -> Path:
    """Images 0, 1, ... of two classes; those of the same number are the same below any root."""
    for number, name in enumerate("ab"):
        (root / name).mkdir(parents=True)
        for row in range(each):
            pixels = np.full((side, side, 3), 100 * number + row, np.uint8)
            Image.fromarray(pixels).save(root / name / f"{row}.png")
    return root


def test_digits_are_those_of_captions() -> None:
    images, captions = load_labelled_images(LabelledImagesConfig()), load_captions(DigitCaptionsConfig(), 0)
    for part, split in (("train", captions.train), ("test", captions.test)):
        texts, rows = getattr(images.labels, part), range(len(split))
        assert [text.id for text in texts] == [split.caption(row).id for row in rows]
        assert [DIGITS.index(text.label) for text in texts] == [split.label(row) for row in rows]
        assert np.array_equal(getattr(images, part)[7], split.image(7))


def test_a_share_of_the_digits_and_a_side() -> None:
    images = load_labelled_images(LabelledImagesConfig(test_fraction=0.5, limit=100, side=12, seed=3))
    labels = images.labels
    assert 90 <= len(labels.train) + len(labels.test) <= 100 and abs(len(labels.train) - len(labels.test)) <= 10
    assert images.train.shape == (len(labels.train), 12, 12, 1) and images.test.shape == (len(labels.test), 12, 12, 1)


def test_what_is_tested_on_is_not_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part, each in (("train", 5), ("test", 3)):
        folders(tmp_path / part, each)
    Image.fromarray(np.full((8, 8, 3), 7, np.uint8)).save(tmp_path / "train" / "b" / "more.png")
    images = load_labelled_images(LabelledImagesConfig(path=str(tmp_path)))
    assert [text.id for text in images.labels.train] == [
        "train/a/3.png",
        "train/a/4.png",
        *(f"train/b/{name}.png" for name in ("3", "4", "more")),
    ]
    assert len(images.labels.test) == 6 and images.train[-1].max() == 7
    assert images.pixels("test").shape == (6, 3, 8, 8)
    assert "6 of 11 training images are tested on" in capsys.readouterr().err


def test_images_to_test_on_have_the_side_of_the_others(tmp_path: Path) -> None:
    for part, side in (("train", 8), ("test", 4)):
        folders(tmp_path / part, 2, side)
    with pytest.raises(UserError, match="a side of 4 pixels, train/a/0.png one of 8") as error:
        load_labelled_images(LabelledImagesConfig(path=str(tmp_path)))
    assert error.value.where == "test-test/a/0.png" and "data.side=8" in error.value.hint
    assert load_labelled_images(LabelledImagesConfig(path=str(tmp_path), side=8)).test.shape == (4, 8, 8, 3)


def parquet(path: Path, values: range) -> None:
    """Images as bytes, each of one value, which says its class."""
    rows = []
    for value in values:
        stream = io.BytesIO()
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(stream, "png")
        rows.append({"picture": stream.getvalue(), "class": value % 2})
    pq.write_table(pa.Table.from_pylist(rows), path)


def test_records_with_bytes_and_the_splits_that_are_named(tmp_path: Path) -> None:
    for number, part in enumerate(("train", "validation", "test")):
        parquet(tmp_path / f"{part}.parquet", range(10 * number, 10 * number + 10))
    config = LabelledImagesConfig(
        path=str(tmp_path), image_column="picture", split="test", test_split="validation", limit=6
    )
    images = load_labelled_images(config)
    assert images.labels.classes == ("0", "1") and images.test.shape == (10, 8, 8, 3)
    assert [int(text.label) for text in images.labels.test] == [int(image[0, 0, 0]) % 2 for image in images.test]
    assert len(images.train) == 6 and images.train.min() >= 20 and 10 <= images.test.min() <= images.test.max() < 20
    with pytest.raises(UserError, match="nowhere"):
        load_labelled_images(LabelledImagesConfig(path=str(tmp_path), image_column="picture", test_split="nowhere"))
