"""A few made-up reviews in the place of the asset, and a user's file of pairs."""

import json
from itertools import product
from pathlib import Path

import pytest

from recipes.core.data.tasks import reviews


@pytest.fixture(scope="session")
def asset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two files of the asset that are read, with words so short that a model of a few steps writes some."""
    folder = tmp_path_factory.mktemp("asset")
    nouns, endings = ["film", "plot", "cast", "end"], ["ok", "bad", "fun", "a", "t"]
    words = product(["the", "a", "this", "one"], nouns, ["is", "was"], endings)
    rows = [
        f"{number}\t{2.0 if 'fun' in line else -1.0}\t{' '.join(line)} and so on I say {line[3]}"
        for number, line in enumerate(words)
    ]
    (folder / "movieReviewSnippets_GroundTruth.txt").write_text("\n".join(rows * 2), "latin-1")
    lexicon = {"fun": 2.0, "ok": 1.0, "bad": -2.0, "t": 1.5, "a": -1.0, "i": 0.7}
    (folder / "vader_sentiment_lexicon.txt").write_text("\n".join(f"{word}\t{v}\t0" for word, v in lexicon.items()))
    return folder


@pytest.fixture
def made_up_reviews(asset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reviews, "asset_path", lambda name: asset)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A user's file of 24 pairs."""
    rows = [{"prompt": f"Is it {i} or not?", "chosen": f" It is {i}.", "rejected": " No idea."} for i in range(24)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return tmp_path / "pairs.jsonl"
