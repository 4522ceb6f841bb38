"""Users' preference rows in `trl`'s format as prompt, chosen and rejected text: plain, conversational, no prompt."""

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import TemplateError

from recipes.alignment.config import PreferencesConfig
from recipes.alignment.layouts import BadRow, with_pairs
from recipes.core.data.json_records import Bad
from recipes.core.data.records import open_records
from recipes.core.data.tables import Table

# The turns of a transcript in one text, as HH-RLHF marks them.
ASSISTANT = "\n\nAssistant:"
# What is read of a row, whatever its layout; other columns may hold anything.
NEEDED = (
    "prompt", "chosen", "rejected", "completion", "label", "info", "summaries", "choice", "tools",
    "chat_template_kwargs",
)  # fmt: skip
NO_TEMPLATE = "is a chat, and the tokenizer has no chat template"


@dataclass(frozen=True)
class Row:
    """One pair of answers as it stands in the data; `prompt` is None where the answers contain it."""

    id: str
    prompt: Any
    chosen: Any
    rejected: Any


@dataclass(frozen=True)
class Example:
    """A row as texts. `chat` answers come from a chat template, which sets its own marks around them.

    `asked` is the prompt without such marks.
    """

    id: str
    prompt: str
    chosen: str
    rejected: str
    chat: bool
    asked: str


@dataclass
class Dropped:
    """Rows that were left out: how many for each reason, and where the first of each stands."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, why: str, where: str) -> None:
        """Count one more."""
        self.counts[why] += 1
        self.first.setdefault(why, where)

    def lines(self) -> list[str]:
        """One line a reason, the most frequent first."""
        return [f"{count:,} rows: {why} (first: {self.first[why]})" for why, count in self.counts.most_common()]


def read_rows(config: PreferencesConfig) -> Iterator[Row | tuple[str, str]]:
    """Rows of `data.path`, or (id, reason) for a line that is no row.

    Raises:
        UserError: no such file, a format that is not known, or a missing column.
    """
    table = open_records(str(config.path), format=config.format).table(config.split)
    typed = [name for name in (config.prompt_column, config.chosen_column, config.rejected_column) if name is not None]
    rows = enumerate(table.rows([*NEEDED, *typed]))
    columns: tuple[str, str, str] | None = None
    for id, value in with_pairs((table.place(number), row) for number, row in rows):
        if isinstance(value, Bad):
            yield f"{id}, {value.detail}" if value.detail else id, value.what
            continue
        if isinstance(value, BadRow):
            yield id, str(value)
            continue
        if columns is None:
            columns = _columns(config, table, value)
        prompt, chosen, rejected = columns
        yield Row(id, value.get(prompt), value.get(chosen), value.get(rejected))


def example(row: Row, tokenizer: Any) -> Example:
    """A row as texts.

    Args:
        row: As it stands in the data.
        tokenizer: Its chat template renders conversations.

    Raises:
        BadRow: something is missing, empty or malformed.
    """
    chat = isinstance(row.chosen, list) or isinstance(row.prompt, list)
    if chat:
        prompt, chosen, rejected, asked = _rendered(row, tokenizer)
    else:
        prompt, chosen, rejected = _plain(row)
        asked = prompt
    for name, text in (("prompt", prompt), ("chosen answer", chosen), ("rejected answer", rejected)):
        if not text.strip():
            raise BadRow(f"the {name} is empty")
    return Example(row.id, prompt, chosen, rejected, chat, asked)


def _columns(config: PreferencesConfig, table: Table, first: Container[str]) -> tuple[str, str, str]:
    """Names of prompt, chosen and rejected. The prompt may be missing; what the first row lacks may stand in others."""

    def name(asked: str | None, usual: str) -> str:
        wanted = asked or usual
        return wanted if wanted in first else table.pick(asked, (usual,), f"data.{usual}_column")

    prompt = "prompt" if config.prompt_column is None else name(config.prompt_column, "prompt")
    return prompt, name(config.chosen_column, "chosen"), name(config.rejected_column, "rejected")


def _plain(row: Row) -> tuple[str, str, str]:
    for name in ("chosen", "rejected"):
        if not isinstance(getattr(row, name), str):
            raise BadRow(f"{name} is no text and no list of messages")
    if row.prompt is not None:
        if not isinstance(row.prompt, str):
            raise BadRow("prompt is no text and no list of messages")
        return row.prompt, row.chosen, row.rejected
    length = _common(row.chosen, row.rejected)
    turn = row.chosen.rfind(ASSISTANT, 0, length)
    if turn >= 0:  # what both say alike in their last turn belongs to the answers
        prompt = row.chosen[: turn + len(ASSISTANT)]
        return prompt, row.chosen[len(prompt) :], row.rejected[len(prompt) :]
    # A word that both answers begin alike belongs to the answers.
    while length > 0 and not row.chosen[length - 1].isspace():
        length -= 1
    prompt = row.chosen[:length].rstrip()
    return prompt, row.chosen[len(prompt) :], row.rejected[len(prompt) :]


def _rendered(row: Row, tokenizer: Any) -> tuple[str, str, str, str]:
    chosen, rejected = _messages(row.chosen, "chosen"), _messages(row.rejected, "rejected")
    if isinstance(row.prompt, list):
        start = _messages(row.prompt, "prompt")
    else:
        start = chosen[: min(_common(chosen, rejected), len(chosen) - 1, len(rejected) - 1)]
        chosen, rejected = chosen[len(start) :], rejected[len(start) :]
        if not start and isinstance(row.prompt, str):
            start = [{"role": "user", "content": row.prompt}]
    if not any(message["content"].strip() for message in start):
        raise BadRow("the prompt is empty")
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if not any(message["content"].strip() for message in answer):
            raise BadRow(f"the {name} answer is empty")
        if answer[0]["role"] != "assistant":
            raise BadRow(f"the {name} answer begins with a message of {answer[0]['role']!r}, not of 'assistant'")
    if not tokenizer.chat_template:
        raise BadRow(NO_TEMPLATE)
    try:
        head = tokenizer.apply_chat_template(start, tokenize=False, add_generation_prompt=True)
        answers = [tokenizer.apply_chat_template([*start, *answer], tokenize=False) for answer in (chosen, rejected)]
    except TemplateError as error:  # templates refuse what their model never saw: roles, or their order
        raise BadRow(f"the chat template refuses it: {error}") from error
    if not all(answer.startswith(head) for answer in answers):
        raise BadRow("the chat template writes the prompt in another way when an answer follows")
    asked = [message["content"] for message in start]
    if len(start) > 1:
        asked = [f"{message['role']}: {message['content']}" for message in start]
    return head, answers[0][len(head) :], answers[1][len(head) :], "\n\n".join(asked)


def _messages(value: Any, name: str) -> list[dict[str, str]]:
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    if not isinstance(value, list) or not value:
        raise BadRow(f"{name} holds no messages")
    for message in value:
        if not isinstance(message, dict):
            raise BadRow(f"a message of {name} is no object with role and content")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise BadRow(f"a message of {name} has no {key}")
    return [{"role": message["role"], "content": message["content"]} for message in value]


def _common(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Length of the longest common beginning."""
    for place, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return place
    return min(len(first), len(second))
