"""Prompts as token ids: the user's rows, the instructions that ship, or the openings of held-out documents."""

from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any

import numpy as np

from recipes.core.data.files.json_records import excerpt, is_unicode
from recipes.core.data.files.records import BadRow, check_readable, named_rows, open_records
from recipes.core.data.tasks.instructions import INSTRUCTIONS
from recipes.core.data.tasks.prompts import Prompt
from recipes.core.data.tasks.prompts_config import OpeningsConfig, PromptsConfig
from recipes.core.data.text.chats import Chat, Message, chat_text, message_text, read_messages, with_texts
from recipes.core.data.text.domains import domain_documents
from recipes.core.data.text.splits import TEST, split_of
from recipes.core.data.text.text_ids import TextIds, start_id
from recipes.core.errors import UserError

COLUMNS = ("prompt", "messages", "id")
OF_CHATS = ("tools", "chat_template_kwargs")  # what a conversation may have besides
EXPECTED = 'a row is {"prompt": TEXT} or {"messages": [{"role": "user", "content": TEXT}]}, with "id" where wanted'
TEST_FRACTION = 0.1  # of the documents of a domain, as in mixtures: what a toy model was not trained on


def load_prompts(config: PromptsConfig | OpeningsConfig, tokenizer: Any) -> list[Prompt]:
    """The prompts that a config describes, each with at least one token.

    Args:
        config: Which prompts.
        tokenizer: The model's.

    Raises:
        UserError: there are none, they cannot be read, or rows cannot be used (with on_error=fail).
    """
    if isinstance(config, OpeningsConfig):
        return _openings(config, tokenizer)
    if config.path is None:
        return _instructions(config, tokenizer)
    return [prompt for prompt, _ in read_prompts(config, config.path, tokenizer)]


def _openings(config: OpeningsConfig, tokenizer: Any) -> list[Prompt]:
    """First tokens of held-out documents that go on behind them; domains take turns."""
    reader, prompts, sources = TextIds(tokenizer), list[Prompt](), [held_out(name) for name in config.domains]
    while sources and len(prompts) < config.limit:
        for source in tuple(sources):
            # What is cut off must be there, or there is nothing to continue.
            texts = ((name, [*reader.start, *reader.ids(text[: 20 * config.tokens])]) for name, text in source)
            opening = next(((name, ids) for name, ids in texts if len(ids) > config.tokens), None)
            if opening is None:
                sources.remove(source)
            elif len(prompts) < config.limit:
                name, ids = opening[0], np.array(opening[1][: config.tokens], np.int32)
                text = tokenizer.decode(ids)
                prompts.append(Prompt(name, text, ids, (text,)))
    if not prompts:
        raise UserError("no document is so long", f"data.tokens={config.tokens}", "type a smaller data.tokens")
    return prompts


def held_out(domain: str) -> Iterator[tuple[str, str]]:
    """(id, text) of the documents of a domain that no mixture trains on, in an order that their ids decide."""
    documents = (each for each in domain_documents(domain) if split_of(each.id, TEST_FRACTION) == TEST)
    for document in sorted(documents, key=lambda each: sha256(each.id.encode()).digest()):
        yield document.id, document.text


def _instructions(config: PromptsConfig, tokenizer: Any) -> list[Prompt]:
    reader, names, kinds = TextIds(tokenizer), list[str](), dict[str, int]()
    for kind, _ in INSTRUCTIONS:
        kinds[kind] = kinds.get(kind, 0) + 1
        names.append(f"{kind}-{kinds[kind]}")
    has_template = config.template != "none" and bool(tokenizer.chat_template)
    prompts = []
    for name, (_, text) in list(zip(names, INSTRUCTIONS, strict=True))[: config.limit]:
        ids = _chat_ids(reader, [{"role": "user", "content": text}]) if has_template else _text_ids(reader, text)
        prompts.append(Prompt(name, text, ids, (text,)))
    return prompts


def read_prompts(
    config: PromptsConfig, path: str, tokenizer: Any, column: str = "", check: Callable[[str], None] | None = None
) -> list[tuple[Prompt, str]]:
    """The prompts of a user's rows, each with the text in another column.

    Args:
        config: How rows are read.
        path: Where they lie.
        tokenizer: The model's.
        column: A column of texts that every row must have; empty: none.
        check: Raises BadRow for a text of the column that is of no use.

    Raises:
        UserError: as in `load_prompts`.
    """
    records = open_records(path, format=config.format)
    table = records.table(config.split or records.to_test_on())
    check_readable(table, records.where)
    names = [name for name in (*COLUMNS, *OF_CHATS, column) if name in table.columns]
    if not {"prompt", "messages"} & set(names):
        raise UserError(f"has no column prompt or messages, but {', '.join(table.columns)}", records.where, EXPECTED)
    if column and column not in names:
        raise UserError(
            f"has no column {column}, but {', '.join(table.columns)}", records.where, f'give each row "{column}"'
        )
    reader = TextIds(tokenizer)

    def parse(record: dict[str, Any], name: str) -> tuple[str, tuple[Prompt, str]]:
        prompt = _prompt(record, name, reader, config.template)
        text = text_cell(record.get(column), column) if column else ""
        if check is not None:
            check(text)
        return prompt.id, (prompt, text)

    rows = named_rows(records, table, names, config.limit, config.on_error, parse)
    if not rows:
        raise UserError("has no prompt", records.where, EXPECTED)
    return rows


def _prompt(record: dict[str, Any], name: str, reader: TextIds, template: str) -> Prompt:
    """A row as a prompt. Raises BadRow that says why it is none."""
    text, messages, id = (record.get(column) for column in COLUMNS)
    beside = [record.get(column) for column in OF_CHATS]
    if (text is None) == (messages is None):
        raise BadRow("has a prompt and messages; one of them is meant" if text is not None else "has no prompt")
    name = name if id is None else str(id)
    if any(beside) and (template == "none" or (template == "auto" and isinstance(text, str))):
        raise BadRow(f"its {' and '.join(OF_CHATS)} are for what goes through a chat template, and this row does not")
    if text is None:
        chat = read_messages(messages, "messages")
        if template == "none":
            text = "\n\n".join(map(message_text, chat))
            return _from_text(name, text, reader)
        parts = tuple(map(message_text, chat))
        return Prompt(name, parts[-1], _chat_ids(reader, chat, *beside), parts)
    if isinstance(text, list):
        return _prompt({**record, "prompt": None, "messages": text, "id": name}, name, reader, template)
    text = text_cell(text, "prompt")
    if template == "chat":
        return Prompt(name, text, _chat_ids(reader, [{"role": "user", "content": text}], *beside), (text,))
    return _from_text(name, text, reader)


def text_cell(value: Any, column: str) -> str:
    """A cell as text. Raises BadRow that says why it is none."""
    if not isinstance(value, str) or not value:
        raise BadRow(f"its {column} is empty" if value == "" else f"its {column} is no text: {excerpt(value)}")
    if not is_unicode(value):
        raise BadRow(f"its {column} holds half of a surrogate pair")
    return value


def text_prompt(name: str, text: str, tokenizer: Any) -> Prompt:
    """A text as a prompt, continued as it stands."""
    return _from_text(name, text, TextIds(tokenizer))


def _from_text(name: str, text: str, reader: TextIds) -> Prompt:
    return Prompt(name, text, _text_ids(reader, text), (text,))


def _text_ids(reader: TextIds, text: str) -> np.ndarray:
    """Begun as the tokenizer begins texts; a text without a token starts from what stands before texts."""
    ids = [*reader.start, *reader.ids(text)]
    return np.array(ids or [start_id(reader.tokenizer)], np.int32)


def _chat_ids(reader: TextIds, messages: list[Message], tools: Any = None, variables: Any = None) -> np.ndarray:
    """A conversation up to where the model answers. Raises BadRow: its template does not read what stands beside it."""
    chat = Chat(reader, tools, variables)
    if not chat_text(chat, [messages]):
        messages = with_texts(messages)
    if unread := chat.unread(messages):
        raise BadRow(f"its {' and '.join(unread)} would be lost: the chat template never reads them")
    return np.array(chat.ids(messages, ask=True), np.int32)
