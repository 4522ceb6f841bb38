"""Questions about images that users bring: read, checked, and answers compared."""

import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from recipes.core.data.config import EasyVqaConfig
from recipes.core.data.files.json_records import Bad, excerpt
from recipes.core.data.files.records import judge, open_records
from recipes.core.data.images.checks import ImageChecks, StoredImage
from recipes.core.data.images.decoding import decode, image_content
from recipes.core.data.images.easy_vqa import load_easy_vqa
from recipes.core.storage.files import home_path
from recipes.pruning.token_pruning.config import VqaConfig

IMAGES = ("image", "file_name")
QUESTIONS = ("question", "text", "conversations")
ANSWERS = ("answer", "answers", "conversations")
EXACT = 2**53  # whole numbers below are exact as floats
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: str(number) for number, word in enumerate(WORDS)}


@dataclass(frozen=True)
class Asked:
    """A question about an image.

    Attributes:
        id: Unique.
        group: The image, the unit that a bootstrap resamples.
        question: As asked.
        answers: Any of them is right.
        image: Its file, its bytes, or where they stand.
    """

    id: str
    group: str
    question: str
    answers: tuple[str, ...]
    image: Path | bytes | StoredImage

    def pixels(self, size: int | None = None) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The image, uint8 [height, width, 3]; see `decode`."""
        content = self.image.read() if isinstance(self.image, StoredImage) else self.image
        return decode(content, size)


def read_vqa(config: VqaConfig) -> list[Asked]:
    """All questions of a file that can be used.

    Raises:
        UserError: no such file, a missing column, or records that cannot be used (with `on_error=fail`).
    """
    data = open_records(str(config.path), format=config.format)
    table = data.table(config.split or data.to_test_on())
    image = table.pick(config.image_column, IMAGES, "data.image_column")
    question = table.pick(config.question_column, QUESTIONS, "data.question_column")
    answer = table.pick(config.answer_column, ANSWERS, "data.answer_column")
    texts: dict[int, tuple[str, tuple[str, ...]]] = {}
    files: dict[int, Path] = {}
    bad: dict[int, str] = {}
    checks = ImageChecks(table, image)
    for number, row in enumerate(table.rows((image, question, answer))):
        if isinstance(row, Bad):
            bad[number] = f"{table.place(number)} {row}"
            continue
        root = home_path(config.images) if config.images else table.folder(number)
        try:
            texts[number] = _texts(row.get(question), row.get(answer))
            content = image_content(row.get(image), root)
            if content is None:
                raise ValueError("it names no image")
        except ValueError as error:
            bad[number] = f"{table.place(number)}: {error}"
            continue
        checks.add(number, content)
        if isinstance(content, Path):
            files[number] = content
    digests, problems = checks.run()
    bad |= {number: f"{table.place(number)}: {problem}" for number, problem in problems.items()}
    judge([bad[number] for number in sorted(bad)], len(table), data.where, config.on_error, "records")
    pictures: dict[int, Path | StoredImage] = {**files}
    if len(files) < len(digests):
        stored = table.with_index((image,))
        pictures |= {number: StoredImage(stored, number, image) for number in digests if number not in files}
    return [
        Asked(str(number), digests[number], *texts[number], pictures[number])
        for number in sorted(digests)
        if number not in bad
    ]


def read_easy_vqa(config: EasyVqaConfig) -> list[Asked]:
    """The test questions of easy-VQA."""
    data = load_easy_vqa(config, config.seed or 0)
    files: Any = data.test
    return [Asked(each.id, each.group, each.prompt, (each.answer,), files.file(each.image)) for each in data.questions]


def normalise(answer: str) -> str:
    """An answer without case, punctuation and articles, numbers up to ten in digits.

    A sign and a point of decimals belong to their number, and marks of a script (vowels of Hindi) to their letters. An
    answer of nothing but articles (option A) or signs (+, an emoji) is what it says.
    """
    text = unicodedata.normalize("NFC", answer).lower().replace("\N{MINUS SIGN}", "-")
    kept = "".join(letter if _is_word(text, place) else _gap(letter) for place, letter in enumerate(text))
    words = kept.split()
    bare = [NUMBERS.get(word, word) for word in words if word not in ("a", "an", "the")]
    return " ".join(bare or words or text.split())


def is_right(given: str, answers: Sequence[str]) -> bool:
    """Whether an answer is one of the right ones, after normalisation."""
    return normalise(given) in {normalise(answer) for answer in answers}


def _is_word(text: str, place: int) -> bool:
    """Whether a character is part of a word: a letter, mark, digit or underscore, or stands so in a number."""
    letter, before, behind = text[place], text[:place][-1:], text[place + 1 : place + 2]
    if letter == ".":
        return before.isdecimal() and behind.isdecimal()
    if letter == "-":
        return behind.isdecimal() and not (before.isalnum() or before in (")", "]"))
    return letter == "_" or unicodedata.category(letter)[0] in "LMN"


def _gap(letter: str) -> str:
    """What stands for a character that is part of no word: nothing for joiners, which show nothing."""
    return "" if unicodedata.category(letter) == "Cf" else " "


def _texts(question: Any, answer: Any) -> tuple[str, tuple[str, ...]]:
    """Question and right answers. Raises ValueError, which says why, if there is none."""
    text, answers = _question(question), tuple(dict.fromkeys(_answers(answer)))
    if not text:
        raise ValueError("it has no question")
    if not answers:
        raise ValueError("it has no answer")
    return text, answers


def _question(value: Any) -> str:
    """The text, or what "human" first says in a LLaVA conversation, without the place of the image."""
    if isinstance(value, list):
        turns = (turn for turn in value if isinstance(turn, dict))
        value = next((turn.get("value") for turn in turns if turn.get("from") == "human"), None)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"its question is no text but {excerpt(value)}")
    return (value or "").replace("<image>", "").strip()


def _answers(value: Any) -> Iterator[str]:
    """Right answers in a cell: a text or number, a list of them or of {"answer"}, or what "gpt" first says.

    Numbers keep the digits that they were written with; a whole one is right without its ".0", too.
    """
    if isinstance(value, list) and any(isinstance(turn, dict) and "from" in turn for turn in value):
        turns = (turn for turn in value if isinstance(turn, dict))
        value = next((turn.get("value") for turn in turns if turn.get("from") == "gpt"), None)
    for each in value if isinstance(value, list) else [value]:
        each = each.get("answer") if isinstance(each, dict) else each
        if isinstance(each, bool) or not isinstance(each, str | int | float | NoneType):
            raise ValueError(f"its answer is no text and no number but {excerpt(each)}")
        if isinstance(each, float) and not math.isfinite(each):
            raise ValueError(f"its answer is {excerpt(each)}, which is no number")
        if isinstance(each, float) and each.is_integer() and abs(each) < EXACT:
            yield str(int(each))
        if each is not None and str(each).strip():
            yield str(each).strip()
