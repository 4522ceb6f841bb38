"""Judges of texts: a lexicon, exact and additive over words, and a regression on scores that people gave."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.data.tasks.prompts import Prompt
from recipes.core.data.tasks.reviews import Review, Reviews
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json

WORD = re.compile(r"[a-z]+(?:['-][a-z]+)*")
NORMALIZER = 15.0  # of the published compound score
FEATURES = 1 << 16
VERSION = 1


@dataclass(frozen=True)
class LexiconJudge:
    """Scores a text by the valences of its words.

    Attributes:
        lexicon: Word in small letters -> valence.
    """

    lexicon: Mapping[str, float]

    def valences(self, pieces: Sequence[str]) -> np.ndarray:
        """float64 [pieces]: the valence of the word that each piece is part of, 0 for most.

        Args:
            pieces: Consecutive parts of one text.
        """
        ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
        values = np.zeros(len(pieces))
        for start, end, valence in self._words("".join(pieces)):
            # Pieces that begin before the word ends and end after it begins.
            values[(ends > start) & (ends - [len(piece) for piece in pieces] < end)] = valence
        return values

    def score(self, text: str) -> float:
        """Source: VADER's compound, s / sqrt(s^2 + 15) with s the sum of valences; without its rules of negation."""
        total = sum(valence for _, _, valence in self._words(text))
        return float(total / np.sqrt(total**2 + NORMALIZER))

    def _words(self, text: str) -> list[tuple[int, int, float]]:
        """(start, end, valence) of the words that have one."""
        words = [(match.start(), match.end(), self.lexicon.get(match.group())) for match in WORD.finditer(text.lower())]
        return [(start, end, valence) for start, end, valence in words if valence]


@dataclass(frozen=True)
class HumanJudge:
    """Predicts the score that people would give a sentence, in [-4, 4] or a little beyond.

    Attributes:
        weights: float32 [FEATURES] of hashed words and pairs of words.
        intercept: What a text without any gets.
        correlation: Of its predictions with the scores of held-out sentences.
    """

    weights: np.ndarray
    intercept: float
    correlation: float

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """float64 [texts]"""
        if not texts:
            return np.zeros(0)
        return np.asarray(_vectorizer().transform(texts) @ self.weights + self.intercept, np.float64)


@dataclass(frozen=True)
class Judges:
    """The judges, and the tokenizer's vocabulary as text: what is judged is what the tokens say.

    Attributes:
        lexicon: The first judge, whose scores make the pairs.
        human: The second, which has no part in training.
        pieces: Text of each token id; special tokens have none.
    """

    lexicon: LexiconJudge
    human: HumanJudge
    pieces: list[str]

    temperature = 1.0
    titles = {
        "reward": ("lexicon score of samples, -1 to 1", True),
        "reward_human": ("human score predicted for samples, second judge, -4 to 4", True),
    }

    def measure(self, prompts: Sequence[Prompt], completions: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """What both judges say: the lexicon of the completions, the other one of prompts with completions."""
        texts = [self.text(ids) for ids in completions]
        whole = [prompt.text + text for prompt, text in zip(prompts, texts, strict=True)]
        scores = np.array([self.lexicon.score(text) for text in texts])
        return {"reward": scores, "reward_human": self.human.scores(whole)}

    def text(self, ids: Sequence[int] | np.ndarray) -> str:
        """What tokens say."""
        return "".join(self.pieces[i] for i in ids)

    def score(self, ids: np.ndarray) -> float:
        """The lexicon's score of a completion."""
        return self.lexicon.score(self.text(ids))

    def important(self, ids: np.ndarray) -> np.ndarray:
        """bool [tokens]: parts of words that the lexicon knows."""
        return self.lexicon.valences([self.pieces[i] for i in ids]) != 0


def human_judge(reviews: Reviews) -> HumanJudge:
    """The judge fitted to the training sentences, or the one fitted before."""
    from safetensors.numpy import load_file, save_file

    def build(folder: Path) -> None:
        judge = fit_human_judge(reviews.train, reviews.test)
        numbers = np.array([judge.intercept, judge.correlation])
        save_file({"weights": judge.weights, "numbers": numbers}, folder / "judge.safetensors")

    rows = [[review.text, review.score] for part in (reviews.train, reviews.test) for review in part]
    stored = load_file(build_once("judges", sha256_json([VERSION, rows])[:32], build) / "judge.safetensors")
    return HumanJudge(stored["weights"], *(float(number) for number in stored["numbers"]))


def fit_human_judge(train: Sequence[Review], test: Sequence[Review]) -> HumanJudge:
    """Ridge regression on words and pairs of words."""
    from sklearn.linear_model import Ridge

    ridge = Ridge(alpha=1.0, solver="sparse_cg")
    ridge.fit(_vectorizer().transform([review.text for review in train]), [review.score for review in train])
    judge = HumanJudge(ridge.coef_.astype(np.float32), float(ridge.intercept_), 0.0)
    predicted = judge.scores([review.text for review in test])
    correlation = float(np.corrcoef(predicted, [review.score for review in test])[0, 1])
    return HumanJudge(judge.weights, judge.intercept, correlation if np.isfinite(correlation) else 0.0)


def _vectorizer() -> Any:
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(n_features=FEATURES, ngram_range=(1, 2), alternate_sign=False)
