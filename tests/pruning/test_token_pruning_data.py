"""Questions that users bring: formats, bad records, answers compared."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.core.data.config import EasyVqaConfig
from recipes.core.errors import UserError
from recipes.pruning.token_pruning.checkpoint import TEMPLATE, asking
from recipes.pruning.token_pruning.config import VqaConfig
from recipes.pruning.token_pruning.vqa import Asked, is_right, normalise, read_easy_vqa, read_vqa


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from PIL import Image

    (tmp_path / "images").mkdir()
    for number in range(3):
        Image.fromarray(np.full((6, 8, 3), 40 * number, np.uint8)).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    return tmp_path


def write(folder: Path, records: list[dict[str, Any]], name: str = "vqa.json") -> VqaConfig:
    lines = [json.dumps(record) for record in records]
    (folder / name).write_text("\n".join(lines) if name.endswith("l") else f"[{','.join(lines)}]")
    return VqaConfig(path=str(folder / name))


def record(number: int, **changes: Any) -> dict[str, Any]:
    return {"image": f"images/{number}.png", "question": "How many?", "answer": "two"} | changes


@pytest.mark.parametrize("name", ["vqa.json", "vqa.jsonl"])
def test_json_and_jsonl_are_read(folder: Path, name: str) -> None:
    questions = read_vqa(write(folder, [record(0), record(1, answer="a cat"), record(0, question="Where?")], name))
    assert [(each.question, each.answers) for each in questions] == [
        ("How many?", ("two",)), ("How many?", ("a cat",)), ("Where?", ("two",)),
    ]  # fmt: skip
    assert questions[0].group == questions[2].group != questions[1].group and len({each.id for each in questions}) == 3
    assert questions[1].pixels().shape == (6, 8, 3) and questions[1].pixels()[0, 0, 0] == 40


def test_images_may_stand_in_another_folder_and_columns_may_be_named(folder: Path) -> None:
    rows = [{"file": "0.png", "q": "How many?", "a": ["2", "two"]}]
    config = write(folder, rows)
    with pytest.raises(UserError, match="the data has no column 'image' or 'file_name'; its columns are file, q, a"):
        read_vqa(config)
    named = {"image_column": "file", "question_column": "q", "answer_column": "a", "images": str(folder / "images")}
    [question] = read_vqa(VqaConfig(path=config.path, **named))
    assert question.answers == ("2", "two")


def test_conversations_of_llava(folder: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."}]
    [question] = read_vqa(write(folder, [{"id": "7", "image": "images/1.png", "conversations": turns}]))
    assert (question.question, question.answers) == ("What is it?", ("A cat.",))


BAD = [
    (record(0, question=None), "it has no question"),
    (record(0, answer=" "), "it has no answer"),
    (record(0, image=None), "it names no image"),
    (record(9), "no such file"),
    (record(0, image="images/broken.png"), "not an image"),
]


@pytest.mark.parametrize(("bad", "why"), BAD)
def test_a_bad_record_is_named_or_left_out_and_counted(
    folder: Path, bad: dict[str, Any], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(folder, [record(0), bad, record(1)])
    with pytest.raises(UserError) as caught:
        read_vqa(config)
    text = str(caught.value)
    assert "1 of 3 records cannot be used" in text and "vqa.json row 1: " in text and why in text
    assert "data.on_error=skip" in text and caught.value.exit_code == 2
    assert len(read_vqa(VqaConfig(path=config.path, on_error="skip"))) == 2
    assert "1 of 3 records were left out: vqa.json row 1: " in capsys.readouterr().err


def test_what_is_no_data_at_all(folder: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_vqa(VqaConfig(path=str(folder / "absent.json")))
    with pytest.raises(UserError, match="none of 2 records can be used"):
        read_vqa(VqaConfig(path=write(folder, [record(9), record(8)]).path, on_error="skip"))
    with pytest.raises(UserError, match="has no column 'answer'"):
        read_vqa(write(folder, [{"image": "images/0.png", "question": "?"}]))


@pytest.mark.parametrize(
    ("given", "right"),
    [("Two", True), ("2.", True), ("  the two ", True), ("two cats", False), ("", False), ("twelve", False)],
)
def test_answers_are_compared_after_normalisation(given: str, right: bool) -> None:
    assert is_right(given, ("two", "a pair")) == right


def test_normalisation_keeps_words_apart() -> None:
    assert normalise("A cat, an-d the dog!") == "cat d dog"
    assert normalise("TEN o'clock") == "10 o clock"


@pytest.mark.parametrize(
    ("given", "answer", "right"),
    [
        *[("A", "a", True), ("A.", "A", True), ("", "A", False), ("the", "A", False), ("...", "A", False)],
        *[("\N{DOG FACE}", "\N{DOG FACE}", True), ("", "\N{DOG FACE}", False), ("!", "+", False), ("+", " + ", True)],
        *[
            ("-1", "1", False),
            ("1", "-1", False),
            ("\N{MINUS SIGN}1", "-1", True),
            ("- 1", "1", True),
            ("5-1", "5 1", True),
        ],
        *[("3.5", "3 5", False), ("3.5.", "3.5", True), ("3, 5", "3 5", True), ("no.2", "no 2", True)],
        *[("\u0915\u0940", "\u0915\u093e", False), ("\u0915\u0940", "\u0915\u0940!", True)],  # ki, ka in Devanagari
        *[("cafe\u0301", "caf\u00e9", True), ("cafe", "caf\u00e9", False), ("week\u00adend", "weekend", True)],
    ],
)
def test_what_tells_answers_apart_stays(given: str, answer: str, right: bool) -> None:
    assert is_right(given, (answer,)) == right == is_right(answer, (given,))


def test_the_prompt_is_the_processors_or_that_of_llava() -> None:
    class Templated:
        chat_template = "x"

        def apply_chat_template(self, turns: Any, **options: Any) -> str:
            [turn] = turns
            assert options == {"add_generation_prompt": True, "tokenize": False, "chat_template": "x"}
            return f"{turn['role']}|{turn['content'][0]['type']}|{turn['content'][1]['text']}"

    assert (
        asking(object())("Why?")
        == TEMPLATE.format(image="<image>", question="Why?")
        == "USER: <image>\nWhy? ASSISTANT:"
    )
    assert asking(Templated())("Why?") == "user|image|Why?"


def test_a_question_knows_its_image(folder: Path) -> None:
    one = Asked("0", "g", "?", ("a",), (folder / "images" / "2.png").read_bytes())
    assert one.pixels().mean() == 80


def test_the_test_questions_of_easy_vqa(tmp_path: Path) -> None:
    from PIL import Image

    for part, color in (("train", "red"), ("test", "blue")):
        (tmp_path / part / "images").mkdir(parents=True)
        Image.new("RGB", (64, 64), color).save(tmp_path / part / "images" / "0.png")
        rows = [["what color is the circle?", color, 0], ["is there a circle?", "yes", 0]]
        (tmp_path / part / "questions.json").write_text(json.dumps(rows))
    questions = read_easy_vqa(EasyVqaConfig(path=str(tmp_path)))
    assert [(each.question, each.answers) for each in questions] == [
        ("what color is the circle ?", ("blue",)), ("is there a circle ?", ("yes",)),
    ]  # fmt: skip
    assert {each.group for each in questions} == {"test-0"} and tuple(questions[0].pixels()[0, 0]) == (0, 0, 255)
