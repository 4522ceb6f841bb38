"""A row of preferences as prompt and answers, plain or as a conversation, and as token ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recipes.alignment.rows import Row
from recipes.core.data.files.records import BadRow
from recipes.core.data.text.chat_dates import CHAT_DATE
from recipes.core.data.text.chats import (
    BESIDE,
    Chat,
    Message,
    chat_text,
    message_text,
    read_messages,
    says_something,
    with_texts,
)
from recipes.core.data.text.text_ids import TextIds
from recipes.core.errors import UserError

# The turns of a transcript in one text, as HH-RLHF marks them.
ASSISTANT = "\n\nAssistant:"
TIE = "chosen and rejected are the same"
# The prompt alone and with each answer, and of each whether control tokens in it are marked as text.
Texts = list[tuple[str, bool]]


@dataclass(frozen=True)
class Example:
    """A row as texts, or as messages that a chat template writes.

    `asked` is the prompt as text, without the marks of a template.
    """

    id: str
    prompt: Any
    chosen: Any
    rejected: Any
    chat: Chat | None
    asked: str

    def unread(self) -> list[str]:
        """What the row holds and its chat template never looks at."""
        if self.chat is None:
            return []
        return self.chat.unread([*self.prompt, *self.chosen, *self.rejected])


@dataclass(frozen=True)
class ExampleIds:
    """An example as token ids.

    Attributes:
        prompt: What stands before both answers.
        chosen: The chosen answer, end of text or turn included.
        rejected: The other.
        lost: Tokens at the end of the prompt alone that are not there, or are others, once an answer follows.
    """

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    lost: int


def example(row: Row, reader: TextIds, date: str = CHAT_DATE) -> Example:
    """A row as prompt and answers.

    Args:
        row: As it stands in the data.
        reader: Of the tokenizer whose chat template writes conversations.
        date: What the template takes for today.

    Raises:
        BadRow: something is missing, empty or malformed.
    """
    if isinstance(row.chosen, list) or isinstance(row.prompt, list):
        return _conversation(row, reader, date)
    prompt, chosen, rejected = _plain(row)
    for name, text in (("prompt", prompt), ("chosen answer", chosen), ("rejected answer", rejected)):
        if not text.strip():
            raise BadRow(f"the {name} is empty")
    return Example(row.id, prompt, chosen, rejected, None, prompt)


def example_ids(example: Example, reader: TextIds) -> ExampleIds:
    """Prompt and answers as the tokenizer reads them together; see `ids_of`. Raises BadRow as it does."""
    texts = example_texts(example, reader)
    if isinstance(texts, BadRow):
        raise texts
    return ids_of(example, texts, reader.template_ids([text for text, _ in texts]), reader)


def example_texts(example: Example, reader: TextIds) -> Texts | BadRow:
    """The texts that an example's ids are made from, or why there are none."""
    if example.chosen == example.rejected:
        return BadRow(TIE)
    if example.chat is None:
        # An answer ends once: an end-of-text token typed behind it is its end.
        end = str(reader.tokenizer.eos_token)
        answers = [answer.removesuffix(end) for answer in (example.chosen, example.rejected)]
        return [(text, False) for text in (example.prompt, *(example.prompt + answer for answer in answers))]
    try:
        wholes = [example.chat.marked_text([*example.prompt, *answer]) for answer in (example.chosen, example.rejected)]
        return [example.chat.marked_text(example.prompt, ask=True), *wholes]
    except BadRow as error:
        return error


def ids_of(example: Example, texts: Texts, given: Sequence[list[int]], reader: TextIds) -> ExampleIds:
    """Prompt and answers as the tokenizer reads them together.

    Each answer is read behind its prompt. Both are cut off where the prompt alone and the prompt with an answer part,
    as in `trl`: mostly behind the prompt, earlier where a token reaches across the border, or where a template writes
    the prompt in another way when an answer follows.

    Args:
        example: From `example`.
        texts: From `example_texts`.
        given: What `TextIds.template_ids` makes of them as they stand.
        reader: Of the tokenizer.

    Raises:
        BadRow: the answers have the same ids though they differ, or nothing is left of the prompt or of an answer.
    """
    alone, *wholes = [_ids(example, reader, *text, ids) for text, ids in zip(texts, given, strict=True)]
    if example.chat is None:
        wholes = [[*whole, reader.tokenizer.eos_token_id] for whole in wholes]
    if wholes[0] == wholes[1]:
        raise BadRow(_same(example))
    cut = min(common(alone, whole) for whole in wholes)
    if not cut:
        raise BadRow("no token of the prompt stands alike before both answers")
    chosen, rejected = (whole[cut:] for whole in wholes)
    for name, ids in (("chosen", chosen), ("rejected", rejected)):
        if not ids:
            raise BadRow(f"nothing of the {name} answer is left by the chat template")
    return ExampleIds(alone[:cut], chosen, rejected, len(alone) - cut)


def _ids(example: Example, reader: TextIds, text: str, marked: bool, given: list[int]) -> list[int]:
    """Ids of one of the texts, from what the tokenizer makes of it as it stands."""
    if example.chat is not None:
        return example.chat.marked_ids(text) if marked else given
    try:
        return [*reader.start, *reader.ids(text, given)]
    except UserError as error:
        raise BadRow(str(error)) from error


def common(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Length of the longest common beginning."""
    if first == second[: len(first)]:
        return len(first)
    for index, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return index
    return min(len(first), len(second))


def _same(example: Example) -> str:
    """Why answers that differ have the same ids."""
    unread = [name for name in example.unread() if name in BESIDE]
    if not unread:
        return TIE
    return f"the answers differ only in {' and '.join(unread)}, which the chat template never reads"


def _plain(row: Row) -> tuple[str, str, str]:
    for name in ("chosen", "rejected"):
        if not isinstance(getattr(row, name), str):
            raise BadRow(f"{name} is no text and no list of messages")
    if row.prompt is not None:
        if not isinstance(row.prompt, str):
            raise BadRow("prompt is no text and no list of messages")
        return row.prompt, row.chosen, row.rejected
    length = common(row.chosen, row.rejected)
    turn = row.chosen.rfind(ASSISTANT, 0, length)
    if turn >= 0:  # what both say alike in their last turn belongs to the answers
        prompt = row.chosen[: turn + len(ASSISTANT)]
        return prompt, row.chosen[len(prompt) :], row.rejected[len(prompt) :]
    # A word that both answers begin alike belongs to the answers.
    while length > 0 and not row.chosen[length - 1].isspace():
        length -= 1
    prompt = row.chosen[:length].rstrip()
    return prompt, row.chosen[len(prompt) :], row.rejected[len(prompt) :]


def _conversation(row: Row, reader: TextIds, date: str) -> Example:
    start, chosen, rejected = _turns(row)
    if not any(says_something(message) for message in start):
        raise BadRow("the prompt is empty")
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if not any(says_something(message) for message in answer):
            raise BadRow(f"the {name} answer is empty")
        if answer[0]["role"] != "assistant":
            raise BadRow(f"the {name} answer begins with a message of {answer[0]['role']!r}, not of 'assistant'")
    chat = Chat(reader, row.tools, row.variables, date)
    if not chat_text(chat, [[*start, *chosen], [*start, *rejected]]):
        start, chosen, rejected = (with_texts(messages) for messages in (start, chosen, rejected))
    asked = [message_text(message) for message in start]
    if len(start) > 1:
        asked = [f"{message['role']}: {message_text(message)}" for message in start]
    return Example(row.id, start, chosen, rejected, chat, "\n\n".join(asked))


def _turns(row: Row) -> tuple[list[Message], list[Message], list[Message]]:
    """Messages of the prompt and of the two answers."""
    chosen, rejected = read_messages(row.chosen, "chosen"), read_messages(row.rejected, "rejected")
    if isinstance(row.prompt, list):
        return read_messages(row.prompt, "prompt"), chosen, rejected
    shared = min(common(chosen, rejected), len(chosen) - 1, len(rejected) - 1)
    start, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    if not start and isinstance(row.prompt, str):
        start = [{"role": "user", "content": row.prompt}]
    return start, chosen, rejected
