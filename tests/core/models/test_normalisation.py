"""What a checkpoint says of its pixels is what they get, wherever it says so; what cannot be done is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from recipes.core.errors import UserError
from recipes.core.models.normalisation import normalisation

DEFAULT = ([0.5], [0.25])
GIVEN = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "rescale_factor": 1 / 255}


def told(folder: Path, content: Any, file: str = "preprocessor_config.json") -> Any:
    (folder / file).write_text(json.dumps(content))
    return normalisation(str(folder), "model.path", 3, DEFAULT)


def test_old_and_new_files_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    expected = (GIVEN["image_mean"], GIVEN["image_std"])
    assert told(tmp_path, GIVEN) == expected
    assert told(tmp_path / "new", {"image_processor": GIVEN}, "processor_config.json") == expected


def test_what_is_not_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert normalisation(str(tmp_path), "model.path", 3, DEFAULT) == ([0.5] * 3, [0.25] * 3)
    assert "has no image processor; pixels are normalised by mean [0.5, 0.5, 0.5]" in capsys.readouterr().err
    assert told(tmp_path, {"image_mean": 0.3}) == ([0.3] * 3, [0.25] * 3)
    assert told(tmp_path, {"do_normalize": False}) == ([0.0] * 3, [1.0] * 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"do_rescale": False}, "does not scale pixels from 0...255 to 0...1"),
        ({"rescale_factor": 1 / 127.5}, "does not scale pixels"),
        ({"rescale_factor": "much"}, "does not scale pixels"),
        ({"image_mean": [0.5, 0.5]}, "image_mean of its image processor is .*, not a number for each of 3 channels"),
        ({"image_mean": "half"}, "not a number for each of 3 channels"),
        ({"image_std": [0.5, None, 0.5]}, "not a number for each of 3 channels"),
        ({"image_std": [0.5, 0, 0.5]}, "image_std of its image processor is .0.5, 0.0, 0.5."),
        ([], "holds no JSON object"),
    ],
)
def test_what_cannot_be_done_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        told(tmp_path, content)
    assert caught.value.where == f"model.path={tmp_path}"
