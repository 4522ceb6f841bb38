"""How much meaning an answer loses without one of its tokens, and how alike the answers to a question are."""

import re
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from recipes.attribution.sar.answers import Answer, Reading
from recipes.attribution.sar.config import ANSWERS, BOTH, SHUFFLED, STOPWORD, TOKENS, UNIFORM, RelevanceConfig
from recipes.attribution.sar.method import normalised
from recipes.attribution.sar.questions import Question, plain
from recipes.core.storage.files import sha256_json

Vectors = Callable[[Sequence[str]], Tensor]
Answered = Sequence[tuple[Question, Sequence[Answer]]]


def without_each(answer: Answer, reading: Reading) -> list[str]:
    """The answer without its first token, without its second, ...: one position of the ids is left out each time."""
    return [reading.text([*answer.ids[:at], *answer.ids[at + 1 :]]) for at in range(len(answer.ids))]


def behind(question: Question, text: str, with_question: bool) -> str:
    """What is compared: an answer alone, or behind its question, as a text."""
    return f"{question.text} {text}" if with_question else text


def token_relevance(
    answered: Answered, reading: Reading, vectors: Vectors, with_question: bool
) -> list[list[np.ndarray]]:
    """R_T of each token of each answer (equation 2): 1 - |cosine of the text with it and the text without it|.

    Args:
        answered: Questions with their answers.
        reading: Makes texts of ids.
        vectors: Of texts; of length 1.
        with_question: Whether texts begin with the question.

    Returns:
        For each question and answer float64 [tokens] in [0, 1]; 0 where nothing changes, 1 for the only token.
    """
    whole, parts = list[str](), list[list[str]]()
    for question, answers in answered:
        for answer in answers:
            whole.append(behind(question, answer.text, with_question))
            parts.append([behind(question, text, with_question) for text in without_each(answer, reading)])
    table = _Table([*whole, *(text for texts in parts for text in texts)], vectors)
    relevance = iter(
        np.ones(1) if len(texts) == 1 else np.array([1 - abs(table.cosine(text, other)) for other in texts])
        for text, texts in zip(whole, parts, strict=True)
    )
    return [[next(relevance) for _ in answers] for _, answers in answered]


def likeness(answered: Answered, vectors: Vectors, with_question: bool) -> list[np.ndarray]:
    """float64 [answers, answers] of each question: cosines of its answers, cut to [0, 1]."""
    texts = [[behind(question, answer.text, with_question) for answer in answers] for question, answers in answered]
    table = _Table([text for row in texts for text in row], vectors)
    return [np.clip([[table.cosine(one, other) for other in row] for one in row], 0, 1) for row in texts]


def token_words(answer: Answer, reading: Reading) -> list[frozenset[str]]:
    """The words of which each token is a part, without case and accents; none for points and blanks."""
    text = reading.decode(answer.ids)
    words = [(match.start(), match.end(), match.group()) for match in re.finditer(r"\w+", text)]
    return [
        frozenset(plain(word) for first, last, word in words if first < end and start < last)
        for start, end in reading.spans(answer.ids)
    ]


def copied_tokens(question: Question, answer: Answer, reading: Reading) -> np.ndarray:
    """bool [tokens]: which are parts of words that stand in the question."""
    asked = set(plain(question.text).split())
    return np.array([bool(words) and words <= asked for words in token_words(answer, reading)])


def stop_tokens(answer: Answer, reading: Reading) -> np.ndarray:
    """bool [tokens]: which are parts of stop words, or of no word."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return np.array([words <= ENGLISH_STOP_WORDS for words in token_words(answer, reading)])


def token_weights(
    config: RelevanceConfig, answered: Answered, reading: Reading, vectors: Vectors, seed: int
) -> list[list[np.ndarray]]:
    """Weights of the tokens of each answer, summing to 1.

    Args:
        config: What weighs.
        answered: Questions with their answers.
        reading: Makes texts of ids.
        vectors: Of texts; asked only where relevance is.
        seed: Of what is shuffled.
    """
    if config.weights in (UNIFORM, STOPWORD):
        raw = [[np.ones(len(answer.ids)) for answer in answers] for _, answers in answered]
    else:
        raw = token_relevance(answered, reading, vectors, config.with_question in (BOTH, TOKENS))
    for (question, answers), rows in zip(answered, raw, strict=True):
        for place, answer in enumerate(answers):
            if config.weights == SHUFFLED:
                number = int(sha256_json(question.id)[:12], 16)
                rows[place] = np.random.default_rng([seed, number, place]).permutation(rows[place])
            if config.weights == STOPWORD:
                rows[place] = rows[place] * ~stop_tokens(answer, reading)
            if config.copied == "zero":
                rows[place] = rows[place] * ~copied_tokens(question, answer, reading)
    return [[normalised(row) for row in rows] for rows in raw]


def reads_question(config: RelevanceConfig) -> bool:
    """Whether answers are compared behind their question."""
    return config.with_question in (BOTH, ANSWERS)


class _Table:
    """Vectors of texts, by text."""

    def __init__(self, texts: Sequence[str], vectors: Vectors) -> None:
        distinct = list(dict.fromkeys(texts))
        self._rows = dict(zip(distinct, vectors(distinct).double().numpy(), strict=True))

    def cosine(self, one: str, other: str) -> float:
        """Exactly 1 for equal texts."""
        return 1.0 if one == other else float(np.clip(self._rows[one] @ self._rows[other], -1, 1))
