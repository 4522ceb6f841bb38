"""What a processor refuses of a user's questions and images is said in one line, with the question."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from tests.pruning.adapters.folders import saved

RUN = ("budget=smoke", "tracker=none", "trainer.threads=1", "keep=0.5", "evaluation.max_new_tokens=2")


def refused(model: Path, home: Path, question: str, width: int, height: int) -> str:
    """Why a run of one question about one image ends; nothing of it stays."""
    Image.new("RGB", (width, height), "red").save(home / "image.png")
    (home / "vqa.json").write_text(json.dumps([{"image": "image.png", "question": question, "answer": "x"}]))
    words = [f"model={model}", f"data.path={home / 'vqa.json'}", f"outputs={home / 'runs'}"]
    with pytest.raises(UserError) as caught:
        runner.run(compose.compose("token-pruning", [*RUN, *words]), False, "steelyard run token-pruning")
    assert not list(home.rglob("status.json"))
    return str(caught.value)


def test_an_image_of_sides_that_the_processor_refuses(tmp_path: Path) -> None:
    text = refused(saved("qwen2_vl").folder, tmp_path, "what is it", 2000, 2)
    assert "refuses the question 'what is it' with its image of 2000 x 2 pixels: absolute aspect ratio must be" in text


def test_the_processor_of_another_family(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(saved("internvl").folder, folder)
    for file in saved("qwen2_vl").folder.glob("*processor*"):
        shutil.copy(file, folder)
    text = refused(folder, tmp_path, "what is it", 20, 20)
    assert f"model.path={folder}: the processor refuses the question" in text and "own processor" in text


def test_the_token_of_images_typed_where_the_processor_counts_it(tmp_path: Path) -> None:
    text = refused(saved("internvl").folder, tmp_path, "what does <IMG_CONTEXT> mean", 20, 20)
    assert "refuses the question 'what does <IMG_CONTEXT> mean'" in text and "Found total 2 <IMG_CONTEXT>" in text
