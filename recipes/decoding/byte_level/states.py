"""A text byte by byte: what a model of tokens says of the next one, in each of the ways that are compared."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from recipes.core.data.text.vocabulary_bytes import END, SYMBOLS, VocabularyBytes
from recipes.core.errors import UserError
from recipes.decoding.byte_level.canonical import Canonical
from recipes.decoding.byte_level.method import (
    Cover,
    Tail,
    accepted,
    covers_of,
    extend,
    next_symbols,
    valid_tails,
)

# (text, tails) -> of each tail float64 [vocabulary] log probabilities of the token behind the text and it
Predict = Callable[[Sequence[int], Sequence[Tail]], dict[Tail, np.ndarray]]
EXACT, EXACT_FAST, ALL, HEALING, TOKEN = "exact", "exact_fast", "all_segmentations", "healing", "token"
MODES = (EXACT, EXACT_FAST, ALL, HEALING, TOKEN)


class TextState(Protocol):
    """A text whose next byte is asked for.

    Attributes:
        leaked: Share of the probability that the last answer left out, given to tokens that cannot stand there.
    """

    leaked: float

    @property
    def covers(self) -> Sequence[object]:
        """Token lists that count."""

    def symbols(self) -> np.ndarray:
        """[257] probabilities of the next byte, and of the end of the text last; they sum to 1."""


class ByteState(TextState, Protocol):
    """A text that goes on byte by byte."""

    def push(self, byte: int) -> None:
        """The text goes on with this byte."""


@dataclass
class Language:
    """A model as it is asked about bytes.

    Attributes:
        vocabulary: Bytes of its tokens.
        canonical: What its tokenizer makes of bytes.
        predict: Probabilities of tokens.
        start: Token that stands before a text of which nothing is known.
        unchecked: Share of the next byte's probability whose tokens count as valid without being asked for.
        beam: all_segmentations: token lists that are kept.
        threshold: all_segmentations: least weight of a kept one, relative to the best.
    """

    vocabulary: VocabularyBytes
    canonical: Canonical
    predict: Predict
    start: int
    unchecked: float = 0.0
    beam: int = 5
    threshold: float = 0.05

    def read(self, mode: str, before: Sequence[int], text: bytes) -> "ByteState | AfterTokens":
        """A text, to be asked for its next byte.

        Args:
            mode: One of `MODES`.
            before: Tokens before the text, such as a begin of text or a chat.
            text: Bytes as the tokenizer has them (`Canonical.bytes_of`); they may end inside a character.
        """
        if mode == TOKEN:
            return AfterTokens(self, [*before, *self.canonical.encode(text)], b"")
        if mode == HEALING:
            tokens = self.canonical.encode(text)
            return AfterTokens(self, [*before, *tokens[:-1]], self.vocabulary.join(tokens[-1:]))
        head = self.canonical.stable(text)
        tail = text[len(self.vocabulary.join(head)) :]
        if mode == ALL:
            return Segmentations(self, [*before, *head], tail)
        return Covers(self, [*before, *head], tail, fast=mode == EXACT_FAST)

    def context(self, tokens: Sequence[int]) -> list[int]:
        """At least one token."""
        return list(tokens) or [self.start]


class Covers:
    """The method: all valid token lists that the text may be the beginning of.

    Args:
        language: The model.
        before: The stable part of the text.
        text: What stands behind it.
        fast: Whether tokens behind the text are not asked whether they may stand there.
    """

    def __init__(self, language: Language, before: Sequence[int], text: bytes, fast: bool = False) -> None:
        self.language, self.fast, self.leaked = language, fast, 0.0
        self._before, self._text = language.context(before), text
        self._allowed: dict[Tail, np.ndarray | None] = {}
        vocabulary, valid = language.vocabulary, language.canonical.valid
        tails = valid_tails(text, vocabulary, valid)
        self._ahead = language.predict(self._before, [tail for each in tails for tail in each])
        self.covers = covers_of(text, tails, self._ahead, vocabulary, valid, language.unchecked)
        self._check()

    def symbols(self) -> np.ndarray:
        """[257] probabilities of what comes next."""
        self._look_ahead()
        probabilities, self.leaked = next_symbols(
            self.covers, self._ahead, self.language.vocabulary, self._allowed_behind
        )
        return probabilities

    @property
    def beyond(self) -> float:
        """Share of the covers' probability that those hold whose last token runs past the end of the text."""
        top = max(cover.weight for cover in self.covers)
        shares = [(bool(cover.rest), float(np.exp(cover.weight - top))) for cover in self.covers]
        return sum(share for rest, share in shares if rest) / sum(share for _, share in shares)

    def push(self, byte: int) -> None:
        """The text goes on with this byte."""
        self._look_ahead()
        language = self.language
        self.covers = extend(
            self.covers, byte, self._ahead, language.vocabulary, language.canonical.valid, self._allowed_behind
        )
        self._text += bytes([byte])
        self._check()
        self._move_on()

    def _look_ahead(self) -> None:
        new = [cover.tail for cover in self.covers if not cover.rest and cover.tail not in self._ahead]
        if new:
            self._ahead |= self.language.predict(self._before, new)

    def _allowed_behind(self, cover: Cover) -> np.ndarray | None:
        """bool [vocabulary]: tokens that may stand behind a cover; those that make up next to nothing of all covers'
        probability are not asked.
        """
        if self.fast:
            return None
        if cover.tail not in self._allowed:
            vocabulary, valid = self.language.vocabulary, self.language.canonical.valid
            share = float(np.exp(cover.weight - np.logaddexp.reduce([one.weight for one in self.covers])))
            ids = np.flatnonzero(vocabulary.symbols < END)
            mask = vocabulary.symbols < SYMBOLS
            mask[ids] = accepted(
                np.exp(self._ahead[cover.tail][ids]),
                lambda number: valid((*cover.tail, int(ids[number]))),
                self.language.unchecked / share,
            )
            self._allowed[cover.tail] = mask
        return self._allowed[cover.tail]

    def _check(self) -> None:
        if not self.covers:
            what = f"no tokens of the model spell a text that ends in {self._text[-40:]!r}"
            raise UserError(what, self.language.canonical.where, "take a text of other characters")

    def _move_on(self) -> None:
        """Where all covers have begun another word, what stands before it is the stable part from now on."""
        shared = min((len(cover.tail) - 1 for cover in self.covers), default=0)
        if shared <= 0:
            return
        head = tuple(self.language.canonical.stable(self._text))
        if not head or any(cover.tail[: len(head)] != head or len(cover.tail) <= len(head) for cover in self.covers):
            return
        size = len(head)
        self._before += head
        self._text = self._text[len(self.language.vocabulary.join(head)) :]
        self.covers = [Cover(cover.tail[size:], cover.rest, cover.weight) for cover in self.covers]
        self._ahead = {tail[size:]: row for tail, row in self._ahead.items() if tail[:size] == head}
        self._allowed = {tail[size:]: mask for tail, mask in self._allowed.items() if tail[:size] == head}


class AfterTokens:
    """Baselines: the text is taken to be the tokens that the tokenizer gives it, or all but the last of them.

    It goes on by tokens.

    Args:
        language: The model.
        before: Tokens that the text is taken to have.
        typed: Bytes behind them with which the next token begins; empty: of nothing is known (token mode).
    """

    def __init__(self, language: Language, before: Sequence[int], typed: bytes) -> None:
        self.language, self.leaked = language, 0.0
        self._before, self._typed = language.context(before), typed
        vocabulary = language.vocabulary
        whole = [(token,) for token in vocabulary.spelling(typed)] if typed else []
        self._ahead = language.predict(self._before, [(), *whole])
        row = self._ahead[()]
        ids = vocabulary.starting_with(typed).tolist() if typed else []
        self.covers = [Cover((token,), vocabulary.table[token][len(typed) :], float(row[token])) for token in ids]
        self.covers = self.covers or [Cover((), b"", 0.0)]

    def symbols(self) -> np.ndarray:
        """[257] probabilities of what comes next."""
        probabilities, self.leaked = next_symbols(self.covers, self._ahead, self.language.vocabulary)
        return probabilities

    def next_token(self, choose: Callable[[np.ndarray], int]) -> tuple[bytes, bool]:
        """Continue by a token, as plain decoding does.

        Args:
            choose: Draws from [tokens] probabilities.

        Returns:
            Its bytes without those that were typed, and whether it ends the text.
        """
        vocabulary = self.language.vocabulary
        row = self.language.predict(self._before, [()])[()] if () not in self._ahead else self._ahead[()]
        ids = vocabulary.starting_with(self._typed) if self._typed else np.flatnonzero(vocabulary.symbols < SYMBOLS)
        shares = np.exp(row[ids] - row[ids].max())
        token = int(ids[choose(shares / shares.sum())])
        text, self._typed = vocabulary.table[token][len(self._typed) :], b""
        self._before.append(token)
        self._ahead = {}
        return text, vocabulary.symbols[token] == END


@dataclass
class _Branch:
    """Tokens of a text in any segmentation, and bytes of the next one.

    Attributes:
        tail: Its tokens.
        typed: Bytes behind them.
        weight: Log probability of the tail.
        mass: Log probability of the tail and that more than `typed` begins the next token.
    """

    tail: Tail
    typed: bytes
    weight: float
    mass: float = field(default=0.0)


class Segmentations:
    """A beam over all ways to write the text in tokens, whether the tokenizer writes it so or not.

    Args:
        language: The model.
        before: The stable part of the text.
        text: What stands behind it.
    """

    def __init__(self, language: Language, before: Sequence[int], text: bytes) -> None:
        self.language, self.leaked = language, 0.0
        self._before, self._ahead = language.context(before), dict[Tail, np.ndarray]()
        self.covers = [_Branch((), b"", 0.0)]
        for byte in text:
            self.push(byte)

    def symbols(self) -> np.ndarray:
        """[257] probabilities of what comes next."""
        self._look_ahead()
        vocabulary, top = self.language.vocabulary, max(branch.mass for branch in self.covers)
        sums = np.zeros(SYMBOLS + 1)
        for branch in self.covers:
            shares = np.exp(branch.weight - top + self._ahead[branch.tail])
            if not branch.typed:
                sums += np.bincount(vocabulary.symbols, shares, SYMBOLS + 1)
                continue
            for token in self._longer(branch.typed).tolist():
                sums[vocabulary.table[token][len(branch.typed)]] += shares[token]
        probabilities: np.ndarray = sums[:SYMBOLS] / sums[:SYMBOLS].sum()
        return probabilities

    def push(self, byte: int) -> None:
        """The text goes on with this byte."""
        self._look_ahead()
        branches = []
        for branch in self.covers:
            typed, row = branch.typed + bytes([byte]), self._ahead[branch.tail]
            longer = self._longer(typed)
            if len(longer):
                mass = branch.weight + float(np.logaddexp.reduce(row[longer]))
                branches.append(_Branch(branch.tail, typed, branch.weight, mass))
            for token in self.language.vocabulary.spelling(typed):
                weight = branch.weight + float(row[token])
                branches.append(_Branch((*branch.tail, token), b"", weight, weight))
        if not branches:
            raise UserError("the beam holds no way to write this text", self.language.canonical.where, "widen it")
        branches.sort(key=lambda branch: -branch.mass)
        least = branches[0].mass + np.log(max(self.language.threshold, 1e-300))
        kept = [branch for branch in branches[: self.language.beam] if branch.mass >= least]
        # Tokens that begin so may all go on otherwise: one list ends here, behind which any byte can stand.
        ended = next((branch for branch in branches if not branch.typed), None)
        self.covers = kept if ended is None or ended in kept else [*kept, ended]

    def _longer(self, typed: bytes) -> np.ndarray:
        """Tokens that begin with bytes and go on."""
        ids, same = self.language.vocabulary.starting_with(typed), self.language.vocabulary.spelling(typed)
        return ids[~np.isin(ids, same)] if same else ids

    def _look_ahead(self) -> None:
        new = [branch.tail for branch in self.covers if branch.tail not in self._ahead]
        if new:
            self._ahead |= self.language.predict(self._before, new)
