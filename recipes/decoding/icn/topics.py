"""What is asked for and which answers are right: the lists that ship, or a user's rows. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recipes.core.data.files.json_records import Bad, excerpt, is_unicode
from recipes.core.data.files.records import BadRow, check_readable, judge, open_records
from recipes.core.errors import UserError
from recipes.decoding.icn.config import PLAIN, ListsConfig
from recipes.decoding.icn.lists import LISTS
from recipes.decoding.icn.method import normalise

COLUMNS = ("instruction", "items", "id")
EXPECTED = 'a row is {"instruction": TEXT, "items": [TEXT or [TEXT, OTHER NAME, ...], ...]}, with "id" where wanted'
INSTRUCTIONS = {
    True: "A numbered list of different {topic}, one per line, no repeats:",
    False: "Please show me some {topic}.",
}


@dataclass(frozen=True)
class Topic:
    """Something that is asked for.

    Attributes:
        id: What tables call it.
        instruction: What the model reads.
        answers: Every name of every right answer, normalised -> the usual name of the answer.
    """

    id: str
    instruction: str
    answers: Mapping[str, str]

    @property
    def usual(self) -> list[str]:
        """The usual names of all answers."""
        return list(dict.fromkeys(self.answers.values()))

    def judge(self, item: str) -> str | None:
        """The usual name of the answer that an item is; None if it is wrong."""
        return self.answers.get(normalise(item))


def prompt_text(instruction: str, items: Sequence[str], form: str) -> str:
    """What the model goes on from: the instruction, the explored items in a numbered list, the next number."""
    quote, head = ("", f"{instruction}\n") if form == PLAIN else ('"', f"{instruction}\n\nAnswer:\n")
    lines = "".join(f"{number}. {quote}{item}{quote}\n" for number, item in enumerate(items, 1))
    return f"{head}{lines}{len(items) + 1}.{f' {quote}' if quote else ''}"


def load_topics(config: ListsConfig, form: str) -> list[Topic]:
    """The topics that a config describes, at least one.

    Args:
        config: Which.
        form: "plain" or "quoted": how the lists that ship are asked for.

    Raises:
        UserError: the rows cannot be read, or some cannot be used (with on_error=fail).
    """
    if config.path:
        return _read_topics(config, config.path)
    named = {each.id: each for each in LISTS}
    topics = []
    for name in (config.topics or tuple(named))[: config.limit]:
        asked = INSTRUCTIONS[form == PLAIN].format(topic=named[name].topic)
        topics.append(Topic(name, asked, _answers(named[name].answers)))
    return topics


def _answers(names: Sequence[Sequence[str]]) -> dict[str, str]:
    return {normalise(name): each[0] for each in names for name in each}


def _read_topics(config: ListsConfig, path: str) -> list[Topic]:
    records = open_records(path, format=config.format)
    table = records.table(config.split or records.to_test_on())
    check_readable(table, records.where)
    for column in COLUMNS[:2]:
        if column not in table.columns:
            raise UserError(f"has no column {column}, but {', '.join(table.columns)}", records.where, EXPECTED)
    topics, bad, places = list[Topic](), list[str](), dict[str, str]()
    for number, record in enumerate(table.rows([name for name in COLUMNS if name in table.columns])):
        if len(topics) == config.limit:
            break
        place = table.place(number)
        try:
            if isinstance(record, Bad):
                raise BadRow(str(record))
            topic = _topic(record, f"row-{number}")
            if topic.id in places:
                raise BadRow(f"has the id {topic.id!r} of {places[topic.id]}")
            topics.append(topic)
            places[topic.id] = place
        except BadRow as error:
            bad.append(f"{place}: {error}")
    judge(bad, len(topics) + len(bad), records.where, config.on_error)
    return topics


def _topic(record: dict[str, Any], name: str) -> Topic:
    """A row as a topic. Raises BadRow that says why it is none."""
    instruction, items, id = (record.get(column) for column in COLUMNS)
    asked = _text(instruction, "instruction")
    if not isinstance(items, list) or not items:
        raise BadRow("its items are an empty list" if items == [] else f"its items are no list: {excerpt(items)}")
    names, owner = [], dict[str, int]()
    for number, item in enumerate(items):
        if item == [] or not isinstance(item, str | list):
            raise BadRow(f"item {number + 1} is no text and no list of names: {excerpt(item)}")
        names.append([_text(each, f"item {number + 1}") for each in (item if isinstance(item, list) else [item])])
        for each in names[-1]:
            if not normalise(each):
                raise BadRow(f"item {number + 1} has neither letters nor digits: {excerpt(each)}")
            if owner.setdefault(normalise(each), number) != number:
                raise BadRow(f"item {number + 1} is item {owner[normalise(each)] + 1} again: {excerpt(each)}")
    return Topic(name if id is None else str(id), asked, _answers(names))


def _text(value: Any, what: str) -> str:
    """A cell as text. Raises BadRow that says why it is none."""
    if not isinstance(value, str) or not value.strip():
        raise BadRow(f"its {what} is empty" if isinstance(value, str) else f"its {what} is no text: {excerpt(value)}")
    if not is_unicode(value):
        raise BadRow(f"its {what} holds half of a surrogate pair")
    return value
