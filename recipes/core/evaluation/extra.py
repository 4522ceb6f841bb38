"""A user's own questions, asked of the final model: prompts with an answer, or with choices of which one is right.

A row is a JSON object as `EXPECTED` says, with `id` and `group` where wanted. Nothing is generated: what the model says
of the tokens of the texts is read in one scoring pass. Texts are joined to prompts as the LM Evaluation Harness joins
them, and cut where the tokens of both stop being those of the prompt alone: a token that holds the end of the prompt
and the begin of the text counts for the text. (The harness cuts after as many tokens as the prompt alone has.)

Source:
    https://github.com/EleutherAI/lm-evaluation-harness: `acc`, `acc_norm`, `is_greedy`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.data.files.data_files import TABLES, kind_of
from recipes.core.data.files.json_records import Bad, excerpt
from recipes.core.data.files.records import BadRow, open_records
from recipes.core.data.text.text_ids import TextIds, start_id
from recipes.core.errors import UserError
from recipes.core.evaluation.extra_config import EXTRA
from recipes.core.evaluation.scores import Scores
from recipes.core.scoring.rows import Row
from recipes.core.scoring.score import score
from recipes.core.scoring.statistics import Ask
from recipes.core.storage.files import home_path

KEY = "evaluation.extra"
COLUMNS = ("prompt", "answer", "choices", "id", "group")
EXPECTED = (
    'a row is {"prompt": TEXT, "answer": TEXT} or {"prompt": TEXT, "choices": [TEXT, TEXT], "answer": INDEX or TEXT}'
)
SHOWN = 5  # bad rows that a message shows
TITLES = {
    "nll": ("NLL of the right answer (nats per token)", False),
    "exact": ("answer is the greedy continuation", True),
    "acc": ("right choice is the likeliest", True),
    "acc_norm": ("right choice is the likeliest by character", True),
}


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        id: What tables call it.
        group: The unit that a bootstrap resamples.
        prompt: What stands before the texts.
        texts: The choices, or the only answer.
        right: Which of them is right.
        place: Where it stands, for messages.
    """

    id: str
    group: str
    prompt: str
    texts: tuple[str, ...]
    right: int
    place: str = ""


@dataclass(frozen=True)
class Questions:
    """Questions of a file as rows for the scoring pass, those of each question behind each other.

    Attributes:
        name: What metrics are named after: the file's name without its ending (`my.v1` of `my.v1.jsonl.gz`).
        questions: The questions.
        rows: (context, completion) of every text of every question.
    """

    name: str
    questions: tuple[Question, ...]
    rows: tuple[Row, ...]


def load_questions(path: str) -> list[Question]:
    """The questions of a file, whoever is asked.

    Args:
        path: JSONL or another table of records.

    Raises:
        UserError: it is no such file, or rows cannot be used; names their lines and what is expected.
    """
    if kind_of(home_path(path), TABLES) is None or not home_path(path).is_file():
        raise UserError("is no file of questions", f"{KEY}={path}", f"type a JSONL file: {EXPECTED}")
    table = open_records(path, KEY).table("train")
    questions, bad, lines = list[Question](), list[str](), dict[str, str]()
    for number, record in enumerate(table.rows(COLUMNS)):
        place = table.place(number)
        try:
            if isinstance(record, Bad):
                raise BadRow(str(record))
            question = _question(record, f"row {number + 1}", place)
            if question.id in lines:
                raise BadRow(f"has the id {question.id!r} of {lines[question.id]}")
            lines[question.id] = place
            questions.append(question)
        except BadRow as error:
            bad.append(f"{place}: {error}")
    _refuse(path, bad, len(table))
    if not questions:
        raise UserError("has no rows", f"{KEY}={path}", EXPECTED)
    return questions


def read_questions(path: str, questions: Sequence[Question], tokenizer: Any) -> Questions:
    """The questions of a file as a tokenizer reads them.

    Args:
        path: The file.
        questions: What `load_questions` has read of it.
        tokenizer: Of the model that is asked.

    Raises:
        UserError: a text holds what the tokenizer does not know.
    """
    reader = TextIds(tokenizer)
    rows, bad = list[Row](), list[str]()
    for question in questions:
        try:
            rows += [_row(reader, question.prompt, text) for text in question.texts]
        except BadRow as error:
            bad.append(f"{question.place}: {error}")
    _refuse(path, bad, len(questions))
    name = re.sub(r"[^\w.-]+", "-", Path(home_path(path).name.removesuffix(".gz")).stem)
    return Questions(name, tuple(questions), tuple(rows))


def _refuse(path: str, bad: Sequence[str], total: int) -> None:
    """Raise what is wrong with rows, if anything is."""
    if bad:
        lines = [*bad[:SHOWN], *([f"and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else []), EXPECTED]
        raise UserError(f"{len(bad)} of {total} rows cannot be used", f"{KEY}={path}", "\n".join(lines))


def check_length(questions: Questions, room: int) -> None:
    """Refuse questions of more tokens than the context of a model. Raises UserError that names the longest."""
    longest = max(len(before) + len(text) for before, text in questions.rows)
    if longest > room:
        at = next(i for i, (before, text) in enumerate(questions.rows) if len(before) + len(text) == longest)
        owners = [question for question in questions.questions for _ in question.texts]
        what = f"question {owners[at].id!r} has {longest} tokens, and the model's context {room}"
        raise UserError(what, KEY, "shorten it, or leave it out")


def ask(questions: Questions, model: Any, device: str) -> Scores:
    """What a model answers.

    Args:
        questions: From `read_questions`.
        model: A `TextModel`; its training mode is left as it was.
        device: Where to compute.

    Returns:
        `extra/<name>/` with nll (a mean over the tokens of all right answers), exact of questions with one answer, acc
        and acc_norm of those with choices; an example is a question.
    """
    scored = score(model, questions.rows, Ask(rank=True), device=device, what="asking your own questions")
    scores, start = Scores(), 0
    for question in questions.questions:
        numbers = range(start, start + len(question.texts))
        logprobs = [scored.row("logprob", number).astype(np.float64) for number in numbers]
        greedy = bool((scored.row("rank", start + question.right) == 1).all())
        for name, value, count in _measures(question, logprobs, greedy):
            metric = f"{EXTRA}/{questions.name}/{name}"
            if metric not in scores.metrics:
                title, higher = TITLES[name]
                scores.define(metric, f"{questions.name}: {title}", higher)
            scores.add(metric, question.id, question.group, value, count)
        start += len(question.texts)
    return scores


def _measures(question: Question, logprobs: Sequence[np.ndarray], greedy: bool) -> list[tuple[str, float, float]]:
    """(name, value, count) of what is measured of a question, from the log-probs of the tokens of its texts."""
    right = logprobs[question.right]
    measures = [("nll", -float(right.mean()), float(len(right)))]
    if len(question.texts) == 1:
        return [*measures, ("exact", float(greedy), 1.0)]
    sums = np.array([values.sum() for values in logprobs])
    by_character = sums / [len(text) for text in question.texts]
    accuracies = {"acc": sums, "acc_norm": by_character}
    return [*measures, *((name, float(values.argmax() == question.right), 1.0) for name, values in accuracies.items())]


def _question(record: dict[str, Any], usual_id: str, place: str) -> Question:
    """A record as a question. Raises BadRow."""
    prompt, answer, choices = record.get("prompt"), record.get("answer"), record.get("choices")
    if not isinstance(prompt, str):
        raise BadRow(f"prompt is no text: {excerpt(prompt)}" if "prompt" in record else "has no prompt")
    id, group = (_name(record, key) for key in ("id", "group"))
    id = id or usual_id
    if choices is None:
        if isinstance(answer, str) and not answer.strip():
            raise BadRow("answer is empty")
        if not isinstance(answer, str):
            raise BadRow(f"answer is no text: {excerpt(answer)}" if "answer" in record else "has no answer")
        return Question(id, group or id, prompt, (answer,), 0, place)
    if not isinstance(choices, list) or not all(isinstance(one, str) and one.strip() for one in choices):
        raise BadRow(f"choices are no list of texts: {excerpt(choices)}")
    if len(choices) < 2 or len(set(choices)) < len(choices):
        raise BadRow("choices are fewer than two, or the same twice")
    if isinstance(answer, str) and answer in choices:
        answer = choices.index(answer)
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise BadRow(f"answer is none of the choices, nor a number from 0 to {len(choices) - 1}: {excerpt(answer)}")
    return Question(id, group or id, prompt, tuple(choices), answer, place)


def _name(record: dict[str, Any], key: str) -> str:
    value = record.get(key)
    if value is not None and (not isinstance(value, str | int) or isinstance(value, bool) or value == ""):
        raise BadRow(f"{key} is neither a text nor a whole number: {excerpt(value)}")
    return "" if value is None else str(value)


def _row(reader: TextIds, prompt: str, text: str) -> Row:
    """A text behind its prompt, one blank between them where neither has any; it belongs to the text.

    There is none where the tokenizer has no blanks, as one of digits and signs may have none.
    """
    unknown = reader.tokenizer.unk_token_id
    joined = not prompt or prompt[-1].isspace() or text[0].isspace()
    blank = "" if joined or (unknown is not None and unknown in reader.ids(" ")) else " "
    before = prompt.rstrip()
    whole = reader.ids(prompt + blank + text)
    ahead = reader.ids(before) if before else []
    shared = next((i for i, pair in enumerate(zip(ahead, whole, strict=False)) if pair[0] != pair[1]), len(ahead))
    completion = whole[shared:]
    if not completion:
        raise BadRow(f"{excerpt(text)} adds no token to its prompt")
    if unknown is not None and unknown in completion:
        raise BadRow(f"{excerpt(text)} holds what the model's tokenizer does not know")
    context = [*reader.start, *whole[:shared]]
    return (context or [start_id(reader.tokenizer)]), completion
