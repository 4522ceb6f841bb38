"""Digit captions: the text of the specification, spans, splits, determinism; and the data configs as a whole."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from recipes.core.config.schema import build
from recipes.core.data.config import DATA, DigitCaptionsConfig, ImageTextConfig
from recipes.core.data.images.digits import BOILERPLATE, DIGITS, read_scans
from recipes.core.data.images.load import load_captions
from recipes.core.data.text.words import WORDS

CONF = Path(__file__).resolve().parents[4] / "conf" / "data"
MIDDLE = re.compile(
    r"it shows a (thin|bold) handwritten (zero|one|two|three|four|five|six|seven|eight|nine) on white paper \."
)


@pytest.fixture(scope="module", params=["predictable", "unpredictable"])
def filler(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_sizes_and_labels(filler: str) -> None:
    data = load_captions(DigitCaptionsConfig(filler=filler), 0)
    assert (data.name, len(data.train), len(data.test)) == ("digit-captions", 1400, 397)
    assert data.label_names == DIGITS
    assert data.questions == () and data.skipped == ()
    image = data.train.image(0)
    assert image.shape == (8, 8, 1) and image.dtype == np.uint8


def test_text_is_filler_sentence_filler(filler: str) -> None:
    data = load_captions(DigitCaptionsConfig(filler=filler), 0)
    for split in (data.train, data.test):
        for index in range(len(split)):
            caption = split.caption(index)
            middle = MIDDLE.search(caption.text)
            assert middle is not None
            assert middle[2] == DIGITS[split.label(index)]
            for side in (caption.text[: middle.start() - 1], caption.text[middle.end() + 1 :]):
                if filler == "predictable":
                    assert side in BOILERPLATE
                else:
                    assert len(side.split()) == 5 and set(side.split()) <= set(WORDS)


def test_spans_are_the_two_image_words(filler: str) -> None:
    data = load_captions(DigitCaptionsConfig(filler=filler), 0)
    for index in range(len(data.test)):
        caption = data.test.caption(index)
        middle = MIDDLE.search(caption.text)
        assert middle is not None
        thickness, digit = caption.spans
        assert (thickness.kind, digit.kind) == ("thickness", "digit")
        assert caption.text[thickness.start : thickness.end] == middle[1]
        assert caption.text[digit.start : digit.end] == middle[2]
        assert (thickness.start, digit.start) == (middle.start(1), middle.start(2))
        assert middle[1] in thickness.choices and middle[2] in digit.choices
        assert len(thickness.choices) == 2 and len(digit.choices) == 10


def test_bold_has_more_ink_than_thin() -> None:
    train = load_captions(DigitCaptionsConfig(), 0).train
    ink = {"thin": [], "bold": []}
    for index in range(len(train)):
        word = MIDDLE.search(train.caption(index).text)[1]
        ink[word].append(int((255 - train.image(index).astype(int)).sum()))
    assert abs(len(ink["thin"]) - len(ink["bold"])) < 20
    assert max(ink["thin"]) <= min(ink["bold"]) + 64 * 255 / 16  # images are rounded to whole pixel values


def test_scans_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    expected, (scans, digits) = load_digits(), read_scans()
    np.testing.assert_array_equal(scans, expected.images, strict=True)
    np.testing.assert_array_equal(digits, expected.target, strict=True)


def test_train_and_test_share_no_image_and_cover_the_data() -> None:
    data = load_captions(DigitCaptionsConfig(), 0)
    groups = [{split.caption(i).group for i in range(len(split))} for split in (data.train, data.test)]
    assert len(groups[0]) == 1400 and len(groups[1]) == 397 and not groups[0] & groups[1]


def test_the_data_seed_fixes_the_captions_and_null_follows_the_run() -> None:
    def texts(data_seed: int | None, run_seed: int) -> list[str]:
        train = load_captions(DigitCaptionsConfig(filler="unpredictable", seed=data_seed), run_seed).train
        return [train.caption(i).text for i in range(50)]

    assert texts(0, 0) == texts(0, 7) == texts(None, 0)
    assert texts(1, 0) == texts(None, 1) != texts(0, 0)


def test_the_fingerprint_tells_content_apart() -> None:
    def of(**changes: object) -> str:
        return load_captions(DigitCaptionsConfig(**changes), 0).train.fingerprint()  # type: ignore[arg-type]

    assert of() == of()
    assert len({of(), of(seed=1), of(filler="unpredictable")}) == 3
    data = load_captions(DigitCaptionsConfig(), 0)
    assert data.train.fingerprint() != data.test.fingerprint()


def test_the_filler_words_are_400_and_heavy_tailed() -> None:
    assert len(WORDS) == len(set(WORDS)) == 400
    assert not set(WORDS) & {*DIGITS, "thin", "bold"}
    train = load_captions(DigitCaptionsConfig(filler="unpredictable"), 0).train
    drawn = [word for i in range(len(train)) for word in MIDDLE.sub("", train.caption(i).text).split()]
    harmonic = sum(1 / rank for rank in range(1, 401))
    assert drawn.count(WORDS[0]) / len(drawn) == pytest.approx(1 / harmonic, rel=0.1)
    assert drawn.count(WORDS[9]) / len(drawn) == pytest.approx(1 / harmonic / 10, rel=0.25)


@pytest.mark.parametrize("name", sorted(DATA))
def test_the_yaml_file_holds_the_defaults_of_the_dataclass(name: str) -> None:
    tree = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    assert next(iter(tree)) == "name" and tree["name"] == name
    assert set(tree) == set(DATA[name].__dataclass_fields__)
    assert DATA[name](**tree) == DATA[name]()
    if name != "image-text":
        made, problems = build(DATA[name], tree, "data")
        assert made == DATA[name]() and problems == []


def test_config_rules_name_the_key() -> None:
    assert DigitCaptionsConfig(path="x").check()[0][0] == "path"
    assert ImageTextConfig().check() == [("path", "is missing; type data.path=FILE, FOLDER or a name on the hub")]
    assert ImageTextConfig(path="x", test_fraction=0.2, test_split="test").check()[0][0] == "test_fraction"
    assert ImageTextConfig(path="x", split="test", test_split="test").check()[0][0] == "test_split"
    _, problems = build(DATA["digit-captions"], {"name": "digit-captions", "filler": "predictible"}, "data")
    assert str(problems[0]) == "data.filler = predictible: did you mean predictable?"
