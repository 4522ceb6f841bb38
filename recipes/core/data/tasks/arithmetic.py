"""Sums answered by running sums: an answer is right or wrong, and its first wrong token is known."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from recipes.core.data.tasks.prompts import Prompt
from recipes.core.data.text.text_ids import TextIds
from recipes.core.storage.files import sha256_json


@dataclass(frozen=True)
class Sums:
    """Problems as triples of numbers.

    Attributes:
        learned: Those whose answers a model learns.
        questions: Those that it answers then.
        test: Those that are held out.
        digits: Of every number in an answer.
    """

    learned: list[tuple[int, ...]]
    questions: list[tuple[int, ...]]
    test: list[tuple[int, ...]]
    digits: int

    def texts(self) -> Iterator[str]:
        """Problems with their answers, for a tokenizer and for training."""
        return (question(terms) + answer(terms, self.digits) for terms in self.learned)

    @property
    def fingerprint(self) -> str:
        """Hash of what is learned."""
        return sha256_json([self.learned, self.digits])


@dataclass(frozen=True)
class ExactJudge:
    """Compares what an answer ends in with the sum that the prompt asks for.

    Attributes:
        pieces: Text of each token id; special tokens have none.
        eos_id: Ends an answer; without it, it is wrong.
    """

    pieces: list[str]
    eos_id: int

    temperature = 0.0
    titles = {"accuracy": ("held-out problems answered right, greedy decoding", True)}

    def measure(self, prompts: Sequence[Prompt], completions: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """1 for a right answer, 0 for a wrong one."""
        right = [self.final(ids) == total(p.text) for p, ids in zip(prompts, completions, strict=True)]
        return {"accuracy": np.array(right, float)}

    def text(self, ids: Sequence[int] | np.ndarray) -> str:
        """What tokens say."""
        return "".join(self.pieces[i] for i in ids)

    def final(self, ids: np.ndarray) -> int | None:
        """The number behind the last comma; None of an answer that is cut off or ends in no number."""
        number = self.text(ids).rpartition(",")[2]
        ended = len(ids) > 0 and ids[-1] == self.eos_id
        return int(number) if ended and number.isascii() and number.isdigit() else None

    def first_wrong(self, ids: np.ndarray, right: str) -> np.ndarray:
        """bool [tokens]: the first token of an answer that leaves the right one; nowhere if none does."""
        marks = np.zeros(len(ids), bool)
        length = 0
        for number, token in enumerate(ids):
            piece = self.pieces[token]
            ended = token == self.eos_id
            if (ended and length < len(right)) or not right.startswith(piece, length):
                marks[number] = True
                break
            length += len(piece)
        return marks


def question(terms: Sequence[int]) -> str:
    """A problem as text: `12+34+45=`."""
    return "+".join(map(str, terms)) + "="


def answer(terms: Sequence[int], digits: int) -> str:
    """The running sums, all with the same number of digits: `046,091`."""
    return ",".join(f"{value:0{digits}d}" for value in np.cumsum(terms)[1:])


def total(text: str) -> int:
    """What a problem asks for."""
    return sum(int(term) for term in text.rstrip("=").split("+"))


def split_sums(low: int, high: int, questions: int, test: int, seed: int) -> Sums:
    """All problems, in random order: those held out, those for pairs, and the others.

    Args:
        low: Smallest number that is added.
        high: Largest number that is added.
        questions: Problems to be answered.
        test: Problems that are held out.
        seed: Decides the order.
    """
    problems = list(product(range(low, high + 1), repeat=3))
    order = np.random.default_rng(seed).permutation(len(problems))
    shuffled = [problems[i] for i in order]
    digits = len(str(3 * high))
    return Sums(shuffled[test + questions :], shuffled[test : test + questions], shuffled[:test], digits)


def encode_sums(sums: Sums, tokenizer: Any) -> list[np.ndarray]:
    """Token ids of what is learned, from begin to end of text; problem and answer tokenised apart."""
    reader, end = TextIds(tokenizer), tokenizer.eos_token_id
    questions = reader.batch([question(terms) for terms in sums.learned])
    answers = reader.batch([answer(terms, sums.digits) for terms in sums.learned])
    rows = zip(questions, answers, strict=True)
    return [np.array([*reader.start, *asked, *right, end], np.int32) for asked, right in rows]


def sum_prompts(problems: Sequence[Sequence[int]], tokenizer: Any) -> list[Prompt]:
    """Problems as prompts of a model with this tokenizer."""
    texts, reader = [question(terms) for terms in problems], TextIds(tokenizer)
    rows = zip(texts, reader.batch(texts), strict=True)
    return [Prompt(text.rstrip("="), text, np.array([*reader.start, *ids], np.int32)) for text, ids in rows]
