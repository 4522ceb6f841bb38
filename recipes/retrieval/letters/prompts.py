"""A list of passages as a prompt that names each by a letter or number, an order of them as its answer, and back."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from string import ascii_uppercase

from recipes.core.data.text.text_ids import TextIds
from recipes.core.errors import UserError
from recipes.retrieval.letters.config import ALPHA, NUMERIC
from recipes.retrieval.listwise import Frame, cut_words, fitting

LETTERS = ascii_uppercase
BRACKET, BETWEEN, END = "[", "] > [", "]"
# What looks like the name of a passage, and names where a model writes an order in words of its own.
_MARKS = {ALPHA: re.compile(r"\[([A-Z])\]"), NUMERIC: re.compile(r"\[([0-9]+)\]")}
_NAMES = {ALPHA: re.compile(r"(?<![A-Za-z])[A-Z](?![A-Za-z])"), NUMERIC: re.compile(r"[0-9]+")}
_KINDS = {ALPHA: "letter", NUMERIC: "number"}


@dataclass(frozen=True)
class Asked:
    """A query with its candidates in the order of the prompt.

    Attributes:
        text: The query.
        passages: (title, text) of its candidates.
    """

    text: str
    passages: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class LetterPrompts:
    """Makes the prompts of a model, and reads its answers.

    Attributes:
        frame: Of its chat.
        words: Of a passage, at most; fewer where a prompt would not fit.
        longest: The model's context; None: no limit.
        where: Key and value of the model, for messages.
        kind: ALPHA or NUMERIC.
        answered: Whether room is kept for the answer behind the prompt.
    """

    frame: Frame
    words: int
    longest: int | None
    where: str
    kind: str = ALPHA
    answered: bool = True

    def names(self, count: int) -> Sequence[str]:
        """What so many passages are called. Raises UserError: there are more passages than letters."""
        if self.kind == NUMERIC:
            return [str(number) for number in range(1, count + 1)]
        if count > len(LETTERS):
            what = f"{count} passages have no letter each: there are {len(LETTERS)}"
            raise UserError(what, self.where, f"type a window of {len(LETTERS)} or less")
        return LETTERS[:count]

    def tokens(self, count: int) -> list[int]:
        """The token of each name behind an opening bracket. Raises UserError: one is no token of its own there."""
        rows = self._name_rows(count)
        for name, row in zip(self.names(count), rows, strict=True):
            if len(row) != 1 or rows.count(row) > 1:
                raise UserError(*self._no_token(name))
        return [row[0] for row in rows]

    def forms(self, count: int, merge: bool) -> list[list[int]]:
        """The tokens of each name whose logits count: behind an opening bracket; with `merge` all that say it.

        Raises:
            UserError: a name is no token of its own behind a bracket.
        """
        bare = self.tokens(count)
        return name_forms(self.frame.reader, self.names(count), bare) if merge else [[token] for token in bare]

    def prompt(self, asked: Asked) -> list[int]:
        """The prompt up to the bracket of the first name, all passages cut alike so that it fits. Raises UserError."""

        @cache
        def build(words: int) -> list[int]:
            return self._build(asked, words)

        if self.longest is None:
            return build(self.words)
        count = len(asked.passages)
        kept = len(self.answer(range(count))) if self.answered else 0
        return build(fitting(lambda words: len(build(words)), self.words, self.longest, count, self.where, kept))

    def answer(self, order: Sequence[int]) -> list[int]:
        """Tokens behind the prompt that say an order: B] > [A] > [C] and the end of the text."""
        reader, rows = self.frame.reader, self._name_rows(len(order))
        between = reader.ids(BETWEEN)
        ids = list(rows[order[0]])
        for place in order[1:]:
            ids += [*between, *rows[place]]
        return [*ids, *reader.ids(END), reader.tokenizer.eos_token_id]

    def places(self, answer: Sequence[int], count: int) -> list[int]:
        """Places that an answer names, in its order, as often as it names them; others than the list's as they are."""
        text = self.frame.reader.tokenizer.decode(list(answer), skip_special_tokens=True)
        named = _NAMES[self.kind].findall(text)
        return [LETTERS.index(name) if self.kind == ALPHA else int(name) - 1 for name in named]

    def _build(self, asked: Asked, words: int) -> list[int]:
        count, query, kind = len(asked.passages), without_names(asked.text, self.kind), _KINDS[self.kind]
        names = self.names(count)
        lines = [
            f"You rank passages by how relevant they are to a query. Here are {count} passages, each named by a "
            f"{kind} in brackets. Rank them for the search query: {query}.\n"
        ]
        for name, (title, text) in zip(names, asked.passages, strict=True):
            passage = f"{f'{cut_words(title, words)}: ' if title else ''}{cut_words(text, words)}"
            lines.append(f"[{name}] {without_names(passage, self.kind)}")
        example = "[B] > [A]" if self.kind == ALPHA else "[2] > [1]"
        lines.append(
            f"\nSearch query: {query}.\nRank the {count} passages above by relevance to the query, the most relevant "
            f"first, as [] > [], for example {example}. Answer with the ranking only."
        )
        reader = self.frame.reader
        return [*self.frame.before, *reader.ids("\n".join(lines)), *self.frame.behind, *reader.ids(BRACKET)]

    def _name_rows(self, count: int) -> list[list[int]]:
        """Tokens of each name behind an opening bracket."""
        reader, rows = self.frame.reader, list[list[int]]()
        bracket = reader.ids(BRACKET)
        for name in self.names(count):
            together = reader.ids(f"{BRACKET}{name}")
            if together[: len(bracket)] != bracket or len(together) == len(bracket):
                raise UserError(*self._no_token(name))
            rows.append(together[len(bracket) :])
        return rows

    def _no_token(self, name: str) -> tuple[str, str, str]:
        what = f"its tokenizer has no token {name!r} of its own behind '['"
        if self.kind == NUMERIC:
            return what, self.where, "type prompt.names=alpha, or prompt.window=9 or less"
        return what, self.where, "choose a model whose tokenizer has one for each capital letter"


def without_names(text: str, kind: str = ALPHA) -> str:
    """A text in which nothing in brackets looks like the name of a passage: [A] becomes (A)."""
    return _MARKS[kind].sub(r"(\1)", text)


def name_forms(reader: TextIds, names: Sequence[str], bare: Sequence[int]) -> list[list[int]]:
    """Of each name all tokens that say it, blanks aside: the bare one first, then " A" and others.

    Args:
        reader: Of the tokenizer.
        names: Of the passages.
        bare: [n] their tokens behind a bracket.
    """
    forms = [[token] for token in bare]
    place_of = {name: place for place, name in enumerate(names)}
    count = len(reader.tokenizer)
    for token, text in enumerate(reader.tokenizer.batch_decode([[token] for token in range(count)])):
        place = place_of.get(text.strip())
        if place is not None and token != bare[place] and token not in reader.control:
            forms[place].append(token)
    return forms
