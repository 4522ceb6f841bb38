"""easy-VQA captions: worked examples without the data, then the real asset."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recipes.core.data.config import EasyVqaConfig
from recipes.core.data.images.captions import CaptionData
from recipes.core.data.images.easy_vqa import CLASSES, SHAPES, _caption, _label
from recipes.core.data.images.load import load_captions
from recipes.core.errors import UserError
from recipes.core.storage.assets import asset_path


def spans(pairs: list[tuple[str, str]]) -> tuple[str, list[tuple[str, str]]]:
    caption = _caption("x", pairs)
    return caption.text, [(caption.text[span.start : span.end], span.kind) for span in caption.spans]


def test_answers_that_nothing_settled_are_spans() -> None:
    text, kinds = spans([("what shape is in the image?", "circle"), ("is there a red shape?", "no")])
    assert text == "what shape is in the image ? circle . is there a red shape ? no ."
    assert kinds == [("circle", "answer/shape"), ("no", "answer/yesno")]


def test_a_repeated_fact_is_no_span() -> None:
    _, kinds = spans([("what color is the shape?", "blue"), ("is there not a teal shape?", "yes")])
    assert kinds == [("blue", "answer/color")]
    _, kinds = spans([("is there not a blue shape in the image?", "no"), ("what color is the shape?", "blue")])
    assert kinds == [("no", "answer/yesno")]


def test_a_question_about_the_color_of_a_triangle_gives_the_triangle_away() -> None:
    text, kinds = spans([("what is the color of the triangle?", "red"), ("what is the red shape?", "triangle")])
    assert text == "what is the color of the triangle ? red . what is the red shape ? triangle ."
    assert kinds == [("triangle", "topic/shape"), ("red", "answer/color")]


def test_the_last_shape_left_is_no_span() -> None:
    pairs = [("is there a circle?", "no"), ("is no rectangle present?", "yes"), ("what shape is present?", "triangle")]
    assert spans(pairs)[1] == [("no", "answer/yesno"), ("yes", "answer/yesno")]


def test_label_from_pairs() -> None:
    red_circle = CLASSES.index(("circle", "red"))
    assert _label([("what is the red shape?", "circle")]) == red_circle
    assert _label([("does the image contain a circle?", "yes"), ("is no red shape present?", "no")]) == red_circle
    assert _label([("what shape is present?", "circle")]) is None
    with pytest.raises(UserError, match="contradict"):
        _label([("what shape is present?", "circle"), ("is there a circle?", "no")])


def write_layout(root: Path) -> None:
    for split in ("train", "test"):
        (root / split / "images").mkdir(parents=True)
        rows = [["what shape is present?", "circle", 0], ["is there a red shape?", "yes", 0]]
        (root / split / "questions.json").write_text(json.dumps(rows))
        Image.new("RGB", (64, 64), "red").save(root / split / "images/0.png")


def test_own_folder_in_easy_vqa_layout(tmp_path: Path) -> None:
    write_layout(tmp_path)
    data = load_captions(EasyVqaConfig(path=str(tmp_path)), 0)
    assert data.train.label(0) == CLASSES.index(("circle", "red"))
    assert data.label_names[data.train.label(0)] == "red circle"
    assert data.train.image(0)[0, 0].tolist() == [255, 0, 0]
    (tmp_path / "test/images/0.png").unlink()
    with pytest.raises(UserError, match=r"1 images are missing: 0\.png"):
        load_captions(EasyVqaConfig(path=str(tmp_path)), 0)


def test_a_folder_in_another_layout_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)questions\.json.*train/ and test/"):
        load_captions(EasyVqaConfig(path=str(tmp_path)), 0)


@pytest.fixture(scope="module")
def real(session_home: Path) -> CaptionData:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELYARD_HOME", str(session_home))  # set for every test, but not yet for a module
        try:
            asset_path("easy-vqa")
        except UserError as error:
            pytest.skip(f"the easy-vqa asset cannot be had here: {error}")
        return load_captions(EasyVqaConfig(), 0)


@pytest.mark.asset
def test_real_sizes(real: CaptionData) -> None:
    assert (len(real.train), len(real.test), len(real.questions)) == (4000, 1000, 9673)
    assert Counter(question.kind for question in real.questions) == {"yesno": 7136, "shape": 1257, "color": 1280}
    labels = [real.train.label(i) for i in range(4000)]
    assert sum(label is not None for label in labels) == 3578  # the others' pairs leave several classes
    assert {label for label in labels if label is not None} == set(range(24))


@pytest.mark.asset
def test_real_captions_and_spans(real: CaptionData) -> None:
    for split in (real.train, real.test):
        for index in range(len(split)):
            caption = split.caption(index)
            assert caption.spans and caption.text.endswith(" .")
            assert 2 <= caption.text.count(" ? ") <= 3
            ends = [0] + [span.end for span in caption.spans]
            for before, span in zip(ends, caption.spans, strict=False):
                assert before <= span.start and caption.text[span.start : span.end] in span.choices
    groups = [{split.caption(i).group for i in range(len(split))} for split in (real.train, real.test)]
    assert not groups[0] & groups[1]


@pytest.mark.asset
def test_real_labels_agree_with_the_pixels(real: CaptionData) -> None:
    """Images of one shape and colour fill their box alike: a rectangle fully, a circle by pi/4, a triangle by half."""
    filled: dict[str, list[float]] = {shape: [] for shape in SHAPES}
    for index in range(300):
        label = real.test.label(index)
        if label is None:
            continue
        image = real.test.image(index).astype(int)
        assert image.shape == (64, 64, 3)
        inside = np.abs(image - image[0, 0]).sum(-1) > 60
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        filled[CLASSES[label][0]].append(inside.sum() / box)
    medians = {shape: float(np.median(shares)) for shape, shares in filled.items()}
    assert medians["rectangle"] > 0.9 > medians["circle"] > 0.65 > medians["triangle"]


@pytest.mark.asset
def test_real_questions_point_at_their_image(real: CaptionData) -> None:
    for question in real.questions[::50]:
        assert real.test.caption(question.image).group == question.group
        assert question.answer in question.choices and question.prompt.endswith(" ?")


@pytest.mark.asset
def test_real_data_seed_chooses_the_pairs(real: CaptionData) -> None:
    again = load_captions(EasyVqaConfig(), 5)
    assert again.train.fingerprint() == real.train.fingerprint()
    other = load_captions(EasyVqaConfig(seed=1), 0)
    assert other.train.caption(0).text != real.train.caption(0).text
    assert [other.train.label(i) for i in range(100)] == [real.train.label(i) for i in range(100)]
