"""The tokens of a run: letters or pieces of text, symbols of look-ups, and marks that keep a vector of their own."""

import string
from dataclasses import dataclass
from typing import Any

import numpy as np

from recipes.core.errors import UserError
from recipes.pretraining.lexinvariant.config import LETTERS

BLANK = " "
LEAST_LETTERS = 0.5  # of a text that is folded to letters


@dataclass(frozen=True)
class Lexicon:
    """Tokens by number: those of text, symbols, and behind them the marks, which are never predicted.

    Attributes:
        text: Names of the tokens of text.
        symbols: How many symbols there are; look-ups in training are made of the first half.
        fold: int64, id of the tokenizer -> number here.
    """

    text: tuple[str, ...]
    symbols: int
    fold: np.ndarray

    marks = 2  # between texts, and in look-ups

    @property
    def count(self) -> int:
        """Tokens that may be predicted."""
        return len(self.text) + self.symbols

    @property
    def end(self) -> int:
        """What stands between texts."""
        return self.count

    @property
    def arrow(self) -> int:
        """What stands between a key and its value."""
        return self.count + 1

    @property
    def halves(self) -> tuple[np.ndarray, np.ndarray]:
        """Symbols of look-ups in training, and those that are held out."""
        numbers = len(self.text) + np.arange(self.symbols)
        return numbers[: self.symbols // 2], numbers[self.symbols // 2 :]

    def name(self, token: int) -> str:
        """For people."""
        if token < len(self.text):
            return self.text[token]
        return {self.end: "<end>", self.arrow: "->"}.get(token, f"#{token - len(self.text)}")


def make_lexicon(tokenizer: Any, alphabet: str, symbols: int) -> Lexicon:
    """Letters and a blank, or all tokens of a tokenizer; its special tokens become the mark between texts."""
    special, size = set(tokenizer.all_special_ids), len(tokenizer)
    plain = [token for token in range(size) if token not in special]
    if alphabet == LETTERS:
        text = (*string.ascii_lowercase, BLANK)
        numbers = {token: _letter(tokenizer.convert_ids_to_tokens(token), text) for token in plain}
    else:
        text = tuple(tokenizer.convert_ids_to_tokens(plain))
        numbers = {token: number for number, token in enumerate(plain)}
    fold = np.full(size, len(text) + symbols, np.int64)
    fold[list(numbers)] = list(numbers.values())
    return Lexicon(text, symbols, fold)


def check_letters(sequences: np.ndarray, domain: str) -> None:
    """Refuse text of which folding to letters leaves little. Raises UserError."""
    share = float((sequences < len(string.ascii_lowercase)).mean())
    if share < LEAST_LETTERS:
        raise UserError(
            f"of domain {domain!r} only {share:.0%} of the characters are letters from a to z",
            "alphabet=letters",
            "type alphabet=all, which keeps every character",
        )


def _letter(character: str, text: tuple[str, ...]) -> int:
    lower = character.lower()
    return text.index(lower if lower in text else BLANK)
