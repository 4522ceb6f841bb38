"""Questions with answers that are known to be right: facts that ship, or the user's rows, each as a prompt."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain, zip_longest
from typing import Any

import numpy as np

from recipes.attribution.sar.config import UserQuestionsConfig
from recipes.attribution.sar.facts import FILE, OTHER_NAMES, RELATIONS, FactsConfig, Relation, pairs
from recipes.core.data.files.json_records import excerpt
from recipes.core.data.files.records import BadRow, check_readable, named_rows, open_records
from recipes.core.data.tasks.prompt_rows import text_cell
from recipes.core.data.text.chats import Chat
from recipes.core.data.text.text_ids import TextIds
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.storage.assets import asset_path

EXPECTED = 'a row is {"question": TEXT, "answer": TEXT}, or "answers": [TEXT, ..] where several are right'
COLUMNS = ("question", "answer", "answers", "id")
WIDE = re.compile("[\u2e80-\U0003ffff]")  # scripts that put no space between words


@dataclass(frozen=True)
class Question:
    """A question.

    Attributes:
        id: What messages and tables call it.
        text: What is asked, nothing before it.
        answers: What is right, any of them.
        says: What an example answers to it.
        examples: Those that stand before it.
        kind: Of a fact, which kind; empty of the user's.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    says: str
    examples: tuple["Question", ...] = ()
    kind: str = ""


def load_questions(config: FactsConfig | UserQuestionsConfig) -> list[Question]:
    """The questions of a config, at least two. Raises UserError: they cannot be had, or rows cannot be used."""
    if isinstance(config, UserQuestionsConfig):
        return _users(config)
    text = (asset_path("gensim-texts") / FILE).read_text(encoding="utf-8")
    asked = [_facts(config, name, RELATIONS[name], text) for name in config.relations]
    turns = [each for each in chain.from_iterable(zip_longest(*asked)) if each is not None]
    return turns[: config.limit]


def plain(text: str) -> str:
    """A text without case, accents and punctuation, one blank between words."""
    letters = (letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return " ".join(re.findall(r"\w+", "".join(letters).casefold()))


def contains(text: str, answer: str) -> bool:
    """Whether an answer stands in a text as whole words: no Niger in Nigeria. Case, accents and points do not count."""
    text, answer = plain(text), plain(answer)
    return answer in text if WIDE.search(answer) else f" {answer} " in f" {text} "


def is_right(question: Question, text: str) -> bool:
    """Whether a text has one of a question's right answers."""
    return any(contains(text, answer) for answer in question.answers)


def repeats(question: Question, text: str) -> bool:
    """Whether all words of a text stand in its question: it answers nothing."""
    return set(plain(text).split()) <= set(plain(question.text).split())


def prompt_ids(question: Question, tokenizer: Any, template: str) -> np.ndarray:
    """int32 ids of a question behind its examples, up to where the model answers.

    Args:
        question: The question.
        tokenizer: The model's.
        template: "plain" or "chat".

    Raises:
        BadRow: the tokenizer has no chat template, or it refuses the question.
    """
    reader = TextIds(tokenizer)
    if template == "chat":
        turns = [(each.text, each.says) for each in question.examples]
        before = [{"role": role, "content": text} for turn in turns for role, text in zip(ROLES, turn, strict=True)]
        return np.array(Chat(reader).ids([*before, {"role": "user", "content": question.text}], ask=True), np.int32)
    text = "".join(f"{asks(each)} {each.says}\n\n" for each in question.examples) + asks(question)
    return np.array([*reader.start, *reader.ids(text)], np.int32)


ROLES = ("user", "assistant")


def asks(question: Question) -> str:
    """A question as it stands in a plain prompt."""
    return f"Question: {question.text}\nAnswer:"


def share_of(question: Question) -> float:
    """A number in [0, 1) that a question's id decides."""
    return int(sha256(question.id.encode()).hexdigest()[:12], 16) / 16**12


def _facts(config: FactsConfig, name: str, relation: Relation, text: str) -> list[Question]:
    """The questions of a kind of facts, in an order that their ids decide."""
    answers, subjects = dict[str, list[str]](), dict[str, tuple[str, str]]()
    for a, b in pairs(text, relation.section):
        asked = relation.asks.format(a=a, b=b)
        answers.setdefault(asked, []).append(a if relation.answer == "a" else b)
        subjects.setdefault(asked, (a, b))
    known, left_out = list[Question](), 0
    for asked, right in answers.items():
        if any(contains(asked, answer) for answer in right):
            left_out += 1
            continue
        a, b = subjects[asked]
        says = right[0] if config.form == "short" else relation.says.format(a=a, b=b)
        names = [*right, *(other for answer in right for other in OTHER_NAMES.get(answer, ()))]
        known.append(Question(f"{name}/{b if relation.answer == 'a' else a}", asked, tuple(names), says, kind=name))
    if left_out:
        note(f"{left_out} questions of {name} hold their answer and are left out")
    if len(known) < config.shots + 2:
        what = f"{name} has {len(known)} questions, too few behind {config.shots} examples"
        raise UserError(what, f"data.shots={config.shots}", f"type data.shots={len(known) - 2} or less")
    return _behind_examples(known, config.shots, sort=True)


def _behind_examples(questions: Sequence[Question], shots: int, sort: bool) -> list[Question]:
    examples, rest = tuple(questions[:shots]), questions[shots:]
    asked = sorted(rest, key=share_of) if sort else rest
    return [replace(each, examples=examples) for each in asked]


def _users(config: UserQuestionsConfig) -> list[Question]:
    records = open_records(str(config.path), format=config.format)
    table = records.table(config.split or records.to_test_on())
    check_readable(table, records.where)
    if "question" not in table.columns or not {"answer", "answers"} & set(table.columns):
        missing = "answer or answers" if "question" in table.columns else "question"
        raise UserError(f"has no column {missing}, but {', '.join(table.columns)}", records.where, EXPECTED)
    names = [name for name in COLUMNS if name in table.columns]
    most = None if config.limit is None else config.limit + config.shots
    questions = named_rows(records, table, names, most, config.on_error, _row)
    if len(questions) < config.shots + 2:
        what = f"has {len(questions)} questions, too few behind {config.shots} examples"
        raise UserError(what, records.where, f"{EXPECTED}; data.shots=0 asks them all")
    return _behind_examples(questions, config.shots, sort=False)


def _row(record: dict[str, Any], name: str) -> tuple[str, Question]:
    """A row as a question, and its name. Raises BadRow that says why it is none."""
    text, id = text_cell(record.get("question"), "question"), record.get("id")
    several = record.get("answers")
    if (record.get("answer") is None) == (several is None):
        raise BadRow("has no answer" if several is None else "has answer and answers; one of them is meant")
    if several is not None and (not isinstance(several, list) or not several):
        raise BadRow(f"its answers are no list of texts: {excerpt(several)}")
    answers = [text_cell(each, "answer") for each in (several or [record["answer"]])]
    for answer in answers:
        if not plain(answer):
            raise BadRow(f"its answer {excerpt(answer)} has no word that could be looked for")
        if contains(text, answer):
            raise BadRow(f"its question holds its answer {excerpt(answer)}: to repeat the question would be right")
    name = name if id is None else str(id)
    return name, Question(name, text, tuple(answers), answers[0])
