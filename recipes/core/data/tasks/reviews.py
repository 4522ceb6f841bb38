"""Film review sentences scored by people, and the lexicon of valences, from the asset `vader-reviews`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipes.core.storage.assets import asset_path
from recipes.core.storage.files import sha256_json

ASSET = "vader-reviews"


@dataclass(frozen=True)
class Review:
    """One sentence; `score` is the mean of its readers in [-4, 4]."""

    id: str
    text: str
    score: float


@dataclass(frozen=True)
class Reviews:
    """Sentences for training, and those held out for prompts and for the judges."""

    train: list[Review]
    test: list[Review]

    @property
    def fingerprint(self) -> str:
        """Hash of the training texts."""
        return sha256_json([review.text for review in self.train])


def load_reviews(test_fraction: float, seed: int) -> Reviews:
    """All sentences, split at random.

    Args:
        test_fraction: Share that is held out.
        seed: Decides which.

    Raises:
        UserError: the asset cannot be had.
    """
    reviews = read_reviews(asset_path(ASSET) / "movieReviewSnippets_GroundTruth.txt")
    order = np.random.default_rng(seed).permutation(len(reviews))
    held_out = max(round(test_fraction * len(reviews)), 1)
    return Reviews([reviews[i] for i in order[held_out:]], [reviews[i] for i in order[:held_out]])


def load_lexicon() -> dict[str, float]:
    """Mean valence of each entry, in [-4, 4].

    Raises:
        UserError: the asset cannot be had.
    """
    return read_lexicon(asset_path(ASSET) / "vader_sentiment_lexicon.txt")


def read_reviews(path: Path) -> list[Review]:
    """Sentences from lines of id, score and text between tabs."""
    rows = [line.split("\t", 2) for line in path.read_text("latin-1").splitlines() if line.strip()]
    return [Review(f"review {row[0]}", " ".join(row[2].split()), float(row[1])) for row in rows]


def read_lexicon(path: Path) -> dict[str, float]:
    """Valences from lines that start with an entry and its mean valence between tabs."""
    rows = [line.split("\t") for line in path.read_text("latin-1").splitlines() if line.strip()]
    return {row[0].strip().lower(): float(row[1]) for row in rows}
