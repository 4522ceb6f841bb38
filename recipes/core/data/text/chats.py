"""Conversations as the tokenizer's chat template writes them: tools, tool calls, reasoning, parts, variables."""

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

from recipes.core.data.files.records import BadRow
from recipes.core.data.text.chat_dates import CHAT_DATE, CLOCK, with_fixed_date
from recipes.core.data.text.text_ids import TextIds, mark, unmark

Message = Mapping[str, Any]
# What an answer may consist of beside its content, or instead of it.
BESIDE = ("tool_calls", "reasoning_content", "reasoning", "thinking")
ALLOWED = ("documents", "chat_template")  # arguments of the renderer that belong to the conversation
NO_TEMPLATE = "is a chat, and the tokenizer has no chat template"


class Chat:
    """A chat template with what one row says to it.

    Args:
        reader: Of the tokenizer whose template it is.
        tools: List of tools, or JSON text of one, or None.
        variables: The row's own variables of the template (`chat_template_kwargs`), or None.
        date: What the template takes for today.

    Attributes:
        dated: Whether the template asks for today's date.

    Raises:
        BadRow: there is no template, or these are malformed.
    """

    def __init__(self, reader: TextIds, tools: Any = None, variables: Any = None, date: str = CHAT_DATE) -> None:
        self.reader, self.tokenizer = reader, reader.tokenizer
        if not self.tokenizer.chat_template:
            raise BadRow(NO_TEMPLATE)
        self.tools, self.variables = _tools(tools), _variables(variables, self.tokenizer)
        self._template = with_fixed_date(_template(self.variables.pop("chat_template", None), self), date)
        self.dated = CLOCK in self._template

    def text(self, messages: Sequence[Message], ask: bool = False) -> str:
        """A conversation as text.

        Args:
            messages: The conversation.
            ask: Whether the mark follows behind which the model answers.

        Raises:
            BadRow: the template refuses it.
        """
        return self._text(messages, ask, ())

    def ids(self, messages: Sequence[Message], ask: bool = False) -> list[int]:
        """A conversation as token ids, control tokens in messages being text. Arguments and errors as of `text`."""
        text, marked = self.marked_text(messages, ask)
        return self.marked_ids(text) if marked else self.reader.template_ids([text])[0]

    def marked_text(self, messages: Sequence[Message], ask: bool = False) -> tuple[str, bool]:
        """A conversation as text, and whether control tokens in it are marked as text; see `text`."""
        text = self.text(messages, ask)
        typed = self.reader.control_tokens(
            json.dumps([messages, self.tools, self.variables], ensure_ascii=False, default=str)
        )
        # What a template itself looks for in messages ("</think>") means to it what it says.
        literal = [name for name in typed if unmark(self._text(messages, ask, [name])) == text]
        return (self._text(messages, ask, literal), True) if literal else (text, False)

    def marked_ids(self, text: str) -> list[int]:
        """Token ids of a text in which control tokens are marked as text.

        Raises:
            BadRow: the tokenizer reads one of them in any text.
        """
        try:
            options = {"add_special_tokens": False, "sanitize_control_tokens": True, "verbose": False}
            return list(self.tokenizer(text, **options)["input_ids"])
        except ValueError as error:
            raise BadRow(str(error)) from error

    def unread(self, messages: Sequence[Message]) -> list[str]:
        """What the conversation holds and the template never looks at."""
        present = [name for name in BESIDE if any(message.get(name) for message in messages)]
        present += [*(["tools"] if self.tools else []), *(name for name in self.variables if name not in ALLOWED)]
        return [name for name in present if name not in self._template]

    def _text(self, messages: Sequence[Message], ask: bool, literal: Sequence[str]) -> str:
        """What the template writes of the conversation, with some control tokens marked as text."""
        values = [[dict(message) for message in messages], self.tools or None, self.variables]
        conversation, tools, variables = (mark(value, literal) for value in values)
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    conversation,
                    tools=tools,
                    add_generation_prompt=ask,
                    tokenize=False,
                    chat_template=self._template,
                    **variables,
                )
            )
        except Exception as error:  # a template may refuse a row by name, or stumble in any way over what it holds
            raise BadRow(f"the chat template refuses it: {error}") from error


def read_messages(value: Any, name: str) -> list[Message]:
    """Messages of a cell, checked; text is one answer.

    Args:
        value: The cell.
        name: Of the column, for messages.

    Raises:
        BadRow: it holds none, or a malformed one.
    """
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    if not isinstance(value, list) or not value:
        raise BadRow(f"{name} holds no messages")
    return [_message(message, name) for message in value]


def message_text(message: Message) -> str:
    """The content as text, its parts one behind another."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part["text"] for part in content)
    return content or ""


def says_something(message: Message) -> bool:
    """Whether a message has content, calls a tool or reasons."""
    return bool(message_text(message).strip()) or any(message.get(name) for name in BESIDE)


def chat_text(chat: Chat, conversations: Sequence[Sequence[Message]]) -> bool:
    """Whether the template writes contents that are no text as it should; else they are to be given as text.

    A template that knows texts alone writes Python's list in the place of parts, and None where a message that calls
    a tool has no content.

    Args:
        chat: The template.
        conversations: Whole ones, which share the answer to this.
    """
    return not any(_misread(chat, messages) for messages in conversations)


def with_texts(messages: Sequence[Message]) -> list[Message]:
    """The messages, each content as text."""
    return [{**message, "content": message_text(message)} for message in messages]


def _misread(chat: Chat, messages: Sequence[Message]) -> bool:
    odd = {str(message.get("content")) for message in messages if not isinstance(message.get("content"), str)}
    if not odd:
        return False
    try:
        text = chat.text(messages)
    except BadRow:
        return True
    plain = chat.text(with_texts(messages))
    return any(text.count(each) > plain.count(each) for each in odd)


def _message(message: Any, name: str) -> Message:
    if not isinstance(message, dict):
        raise BadRow(f"a message of {name} is no object with role and content")
    if not isinstance(message.get("role"), str):
        raise BadRow(f"a message of {name} has no role")
    # Tables fill what a message does not have with nulls; content alone may be null and mean it.
    kept = {key: value for key, value in message.items() if value is not None or key == "content"}
    content = kept.get("content")
    if isinstance(content, list):
        kept["content"] = [_part(part, name) for part in content]
    elif content is None and not any(kept.get(key) for key in BESIDE):
        raise BadRow(f"a message of {name} has no content")
    elif content is not None and not isinstance(content, str):
        raise BadRow(f"the content of a message of {name} is no text and no list of parts")
    return kept


def _part(part: Any, name: str) -> dict[str, Any]:
    kind = part.get("type", "text") if isinstance(part, dict) else type(part).__name__
    if kind != "text" or not isinstance(part.get("text"), str):
        raise BadRow(f"a message of {name} has a part of type {kind!r}, and only text is read")
    return {key: value for key, value in part.items() if value is not None}


def _template(named: Any, chat: Chat) -> str:
    """The template of a conversation: what its row names or brings, else the tokenizer's."""
    try:
        template = chat.tokenizer.get_chat_template(named, tools=chat.tools or None)
    except ValueError as error:
        raise BadRow(f"the tokenizer has no such chat template: {error}") from error
    if not isinstance(template, str):
        raise BadRow("chat_template_kwargs sets chat_template to what is no text")
    return template


def _tools(value: Any) -> list[Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except ValueError as error:
            raise BadRow("tools is no JSON text of a list") from error
    if value is not None and not isinstance(value, list):
        raise BadRow("tools is no list")
    return value or []


def _variables(value: Any, tokenizer: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise BadRow("chat_template_kwargs is no object")
    variables = {name: each for name, each in (value or {}).items() if each is not None}
    arguments = set(inspect.signature(tokenizer.apply_chat_template).parameters) - set(ALLOWED)
    if wrong := sorted(arguments & variables.keys()):
        raise BadRow(f"chat_template_kwargs sets {wrong[0]}, which is no variable of a chat template")
    return variables
