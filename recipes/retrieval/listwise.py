"""Prompts that hold a list of passages, as token ids: where each passage stands, and the letters that name them.

Pieces are tokenised one by one and joined, never the joined text again: so it is known which tokens are a passage's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from recipes.core.data.files.records import BadRow
from recipes.core.data.text.chats import Chat
from recipes.core.data.text.text_ids import TextIds, start_id
from recipes.core.errors import UserError

MARK = "\u2042 what is asked \u2042"  # stands in for what the template does not look at
LETTERS = ascii_uppercase
FEWEST_WORDS = 1


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
        words: Of a text, at most; the rest is cut off.
    """
    ids, spans = [*frame.before, *frame.reader.ids(opening)], list[Span]()
    for number, (title, text) in enumerate(passages, 1):
        start = len(ids)
        ids += frame.reader.ids(f"\n\n[{number}]")
        middle = len(ids)
        ids += frame.reader.ids(" " + (f"{title}\n" if title else "") + cut_words(text, words))
        spans.append(Span(start, middle, len(ids)))
    return PassageList(ids, spans)


def cut_words(text: str, words: int) -> str:
    """The first words of a text, which are parted by white space."""
    parts = text.split(maxsplit=words)
    return " ".join(parts[:words]) if len(parts) > words else text.strip()


def fitting(build: Callable[[int], int], words: int, room: int, count: int, where: str) -> int:
    """The most words of each passage with which a prompt fits: all passages are cut alike, none is dropped.

    Args:
        build: Tokens of the prompt at so many words a passage.
        words: To start from.
        room: Tokens that there are.
        count: Passages in the prompt.
        where: Key and value of the model, for the message.

    Raises:
        UserError: it does not fit with a single word of each.
    """
    while (over := build(words) - room) > 0:
        if words == FEWEST_WORDS:
            what = f"{count} passages of one word are {over:,} tokens more than the model's context of {room:,}"
            hint = "type a smaller first_stage.candidates (of letters: prompt.window); titles and queries are not cut"
            raise UserError(what, where, hint)
        words = max(words - max(1, over // (4 * count)), FEWEST_WORDS)
    return words


def letter_ids(reader: TextIds, count: int, where: str) -> list[int]:
    """The token of each of the first letters behind an opening bracket.

    Raises:
        UserError: there are more passages than letters, or one of these is no token of its own there.
    """
    if count > len(LETTERS):
        hint = f"type a window of {len(LETTERS)} or less"
        raise UserError(f"{count} passages have no letter each: there are {len(LETTERS)}", where, hint)
    bracket, ids = reader.ids("["), list[int]()
    for letter in LETTERS[:count]:
        together = reader.ids(f"[{letter}")
        if together[:-1] != bracket or together[-1] in ids:
            what = f"its tokenizer has no token {letter!r} of its own behind '['"
            raise UserError(what, where, "choose a model whose tokenizer has one for each capital letter")
        ids.append(together[-1])
    return ids


def letter_prompt(frame: Frame, query: str, passages: Sequence[tuple[str, str]], words: int) -> list[int]:
    """A prompt that asks for passages by their letters, the best first, up to the bracket of the first letter.

    Args:
        frame: Of the chat.
        query: What is searched for.
        passages: (title, text) of each, in the order of the prompt.
        words: Of a text, at most.
    """
    count, query = len(passages), without_letters(query)
    lines = [
        f"You rank passages by how relevant they are to a query. Here are {count} passages, each named by a letter in "
        f"brackets. Rank them for the search query: {query}.\n"
    ]
    for letter, (title, text) in zip(LETTERS, passages, strict=False):
        passage = f"{f'{title}: ' if title else ''}{cut_words(text, words)}"
        lines.append(f"[{letter}] {without_letters(passage)}")
    lines.append(
        f"\nSearch query: {query}.\nRank the {count} passages above by relevance to the query, the most relevant "
        "first, as [] > [], for example [B] > [A]. Answer with the ranking only."
    )
    reader = frame.reader
    return [*frame.before, *reader.ids("\n".join(lines)), *frame.behind, *reader.ids("[")]


def without_letters(text: str) -> str:
    """A text in which no letter in brackets looks like the name of a passage: [A] becomes (A)."""
    for letter in LETTERS:
        text = text.replace(f"[{letter}]", f"({letter})")
    return text
