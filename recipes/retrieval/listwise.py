"""Prompts that hold a list of passages, as token ids, and where each passage stands.

Pieces are tokenised one by one and joined, never the joined text again: so it is known which tokens are a passage's.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from recipes.core.data.files.records import BadRow
from recipes.core.data.text.chats import Chat
from recipes.core.data.text.text_ids import TextIds, start_id
from recipes.core.errors import UserError

MARK = "\u2042 what is asked \u2042"  # stands in for what the template does not look at
FEWEST_WORDS = 1
LONGEST_WORD = 40  # characters
WORD = re.compile(rf"\S{{1,{LONGEST_WORD}}}")


@dataclass(frozen=True)
class Frame:
    """What a chat template puts around what a user says; of a model without one its begin of a text, and a line break.

    Attributes:
        reader: Of the tokenizer.
        before: Ids in front of it.
        behind: Ids behind it, up to where the model answers.
    """

    reader: TextIds
    before: list[int]
    behind: list[int]


@dataclass(frozen=True)
class Span:
    """Tokens of a passage in a prompt.

    Attributes:
        start: The first one, that of its number.
        text: The first one of its text.
        end: One past the last.
    """

    start: int
    text: int
    end: int


@dataclass(frozen=True)
class PassageList:
    """Passages as the first part of a prompt, which different questions may follow.

    Attributes:
        ids: The tokens.
        spans: Where each passage stands, in the order in which they were given.
    """

    ids: list[int]
    spans: list[Span]


def chat_frame(tokenizer: Any) -> Frame:
    """The frame of a tokenizer. Raises UserError: its template does not write once what a user says."""
    reader = TextIds(tokenizer)
    if not tokenizer.chat_template:
        return Frame(reader, reader.start or [start_id(tokenizer)], reader.ids("\n"))
    try:
        parts = Chat(reader).text([{"role": "user", "content": MARK}], ask=True).split(MARK)
    except BadRow as error:
        raise UserError(f"its chat template cannot be used: {error}", "model") from error
    if len(parts) != 2:
        what = f"its chat template writes what a user says {len(parts) - 1} times, and once is meant"
        raise UserError(what, "model", "choose a model with another template")
    before, behind = (reader.template_ids([part])[0] if part else [] for part in parts)
    return Frame(reader, before, behind)


def passage_list(frame: Frame, opening: str, passages: Sequence[tuple[str, str]], words: int) -> PassageList:
    """A line, then each passage behind its number in brackets.

    Args:
        frame: Of the chat.
        opening: The line.
        passages: (title, text) of each, in the order of the prompt.
        words: Of a title and of a text, at most; the rest is cut off.
    """
    ids, spans = [*frame.before, *frame.reader.ids(opening)], list[Span]()
    for number, (title, text) in enumerate(passages, 1):
        start = len(ids)
        ids += frame.reader.ids(f"\n\n[{number}]")
        middle = len(ids)
        ids += frame.reader.ids(" " + (f"{cut_words(title, words)}\n" if title else "") + cut_words(text, words))
        spans.append(Span(start, middle, len(ids)))
    return PassageList(ids, spans)


def cut_words(text: str, words: int) -> str:
    """The first words of a text, parted by white space; one longer than `LONGEST_WORD` characters counts as several.

    So a text in a script without spaces, or one long address, is cut as any other.
    """
    pieces = list(islice(WORD.finditer(text), words + 1))
    return " ".join(text[: pieces[words - 1].end()].split()) if len(pieces) > words else text.strip()


def fitting(build: Callable[[int], int], words: int, context: int, count: int, where: str, kept: int = 0) -> int:
    """The most words of each passage with which a prompt fits: all passages are cut alike, none is dropped.

    Args:
        build: Tokens of the prompt at so many words a passage.
        words: To start from.
        context: Tokens that there are.
        count: Passages in the prompt.
        where: Key and value of the model, for the message.
        kept: Tokens of the context that an answer needs.

    Raises:
        UserError: it does not fit with a single word of each.
    """
    if build(words) + kept <= context:
        return words
    if (over := build(FEWEST_WORDS) + kept - context) > 0:
        answer = f" with the answer of {kept:,}" if kept else ""
        what = f"{count} passages of one word are {over:,} tokens more than the model's context of {context:,}{answer}"
        hint = "type a smaller first_stage.candidates (of letters: prompt.window); queries are not cut"
        raise UserError(what, where, hint)
    fits, long = FEWEST_WORDS, words  # it fits with the former, and does not with the latter
    while long - fits > 1:
        middle = (fits + long) // 2
        fits, long = (middle, long) if build(middle) + kept <= context else (fits, middle)
    return fits
