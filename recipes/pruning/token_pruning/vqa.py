"""Questions about images that users bring: read, checked, and answers compared."""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.data.config import EasyVqaConfig
from recipes.core.data.easy_vqa import load_easy_vqa
from recipes.core.data.image_sources import read_json_rows, read_parquet_rows
from recipes.core.data.image_text import check_image, decode, image_content
from recipes.core.data.sources import pick_column
from recipes.core.errors import UserError
from recipes.pruning.token_pruning.config import VqaConfig

IMAGES = ("image", "file_name")
QUESTIONS = ("question", "text", "conversations")
ANSWERS = ("answer", "answers", "conversations")
NAMED = 5  # bad records that a message names
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
        image: Its file or its bytes.
    """

    id: str
    group: str
    question: str
    answers: tuple[str, ...]
    image: Path | bytes

    def pixels(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The image, uint8 [height, width, 3]."""
        return decode(self.image)


def read_vqa(config: VqaConfig) -> list[Asked]:
    """All questions of a file that can be used.

    Raises:
        UserError: no such file, a missing column, or records that cannot be used (with `on_error=fail`).
    """
    path = Path(str(config.path)).expanduser()
    if not path.is_file():
        raise UserError("no such file", f"data.path={path}", "type data.path=FILE: JSON, JSONL or Parquet")
    rows = read_parquet_rows(path) if path.suffix == ".parquet" else read_json_rows(path)
    names = rows.column_names
    image = pick_column(names, config.image_column, IMAGES, "data.image_column")
    question = pick_column(names, config.question_column, QUESTIONS, "data.question_column")
    answer = pick_column(names, config.answer_column, ANSWERS, "data.answer_column")
    root = Path(config.images).expanduser() if config.images else path.parent
    records = [_record(number, row[image], row[question], row[answer], root) for number, row in enumerate(rows)]
    _judge(config, [each for each in records if isinstance(each, str)], len(records))
    return [each for each in records if isinstance(each, Asked)]


def read_easy_vqa(config: EasyVqaConfig) -> list[Asked]:
    """The test questions of easy-VQA."""
    data = load_easy_vqa(config, config.seed or 0)
    files: Any = data.test
    return [Asked(each.id, each.group, each.prompt, (each.answer,), files.file(each.image)) for each in data.questions]


def normalised(answer: str) -> str:
    """An answer without case, punctuation and articles, numbers up to ten in digits."""
    words = re.sub(r"[^\w\s]", " ", answer.lower()).split()
    return " ".join(NUMBERS.get(word, word) for word in words if word not in ("a", "an", "the"))


def is_right(given: str, answers: Sequence[str]) -> bool:
    """Whether an answer is one of the right ones, after normalisation."""
    return normalised(given) in {normalised(answer) for answer in answers}


def _record(number: int, image: Any, question: Any, answer: Any, root: Path) -> Asked | str:
    """The record, or what is wrong with it."""
    where = f"record {number + 1}"
    question, answers = _question(question), tuple(_answers(answer))
    if not question:
        return f"{where}: it has no question"
    if not answers:
        return f"{where}: it has no answer"
    content = image_content(image, root)
    if content is None:
        return f"{where}: it names no image"
    if problem := check_image(content):
        return f"{where}: {content if isinstance(content, Path) else 'its image'}: {problem}"
    group = str(image) if isinstance(content, Path) else where
    return Asked(str(number), group, question, answers, content)


def _question(value: Any) -> str:
    """The text, or what "human" first says in a LLaVA conversation, without the place of the image."""
    if isinstance(value, list):
        value = next((turn.get("value") for turn in value if turn.get("from") == "human"), None)
    return value.replace("<image>", "").strip() if isinstance(value, str) else ""


def _answers(value: Any) -> Iterator[str]:
    """Right answers in a cell: a text, a list of texts or of {"answer"}, or what "gpt" first says."""
    if isinstance(value, list) and any(isinstance(turn, dict) and "from" in turn for turn in value):
        value = next((turn.get("value") for turn in value if turn.get("from") == "gpt"), None)
    for each in value if isinstance(value, list) else [value]:
        each = each.get("answer") if isinstance(each, dict) else each
        if isinstance(each, int | float) and not isinstance(each, bool):
            each = f"{each:g}"
        if isinstance(each, str) and each.strip():
            yield each.strip()


def _judge(config: VqaConfig, bad: list[str], total: int) -> None:
    where = f"data.path={config.path}"
    if len(bad) == total:
        raise UserError("no record can be used" if total else "there are no records", where, "\n".join(bad[:NAMED]))
    if not bad:
        return
    more = f"\nand {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    if config.on_error == "fail":
        raise UserError(
            f"{len(bad)} of {total} records cannot be used",
            where,
            "\n".join(bad[:NAMED]) + more + "\nmend them, or type data.on_error=skip to go on without them",
        )
    print(f"{where}: {len(bad)} of {total} records were left out: {bad[0]}", file=sys.stderr)
