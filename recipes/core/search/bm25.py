"""BM25 over the passages of a collection."""

from pathlib import Path
from typing import Any

import bm25s
import numpy as np

from recipes.core.errors import UserError
from recipes.core.search.collection import Passages
from recipes.core.search.rankings import Ranking, best, by_scores
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json

STOPWORDS = "en"


class BM25:
    """An index of terms, built once for passages and settings.

    Args:
        passages: What is searched.
        k1: How soon repeated terms stop to count.
        b: How much long passages are discounted.
    """

    def __init__(self, passages: Passages, k1: float = 1.5, b: float = 0.75) -> None:
        key = sha256_json([passages.fingerprint, k1, b, STOPWORDS, bm25s.__version__])

        def build(folder: Path) -> None:
            index = bm25s.BM25(k1=k1, b=b)
            texts = [passages.whole(number) for number in range(len(passages))]
            tokens = bm25s.tokenize(texts, stopwords=STOPWORDS, show_progress=False)
            if not tokens.vocab:
                raise UserError("the passages have no word that BM25 could look for", "data", "give other passages")
            index.index(tokens, show_progress=False)
            index.save(folder / "index")

        self._index: Any = bm25s.BM25.load(build_once("bm25", key, build) / "index", load_corpus=False)

    @property
    def nbytes(self) -> int:
        """Bytes of the index, its words left out."""
        return sum(part.nbytes for part in self._index.scores.values() if isinstance(part, np.ndarray))

    def rank(self, query: str, count: int) -> Ranking:
        """At most so many passages that share a term with a query; of equal scores the first of the collection."""
        terms = bm25s.tokenize([query], stopwords=STOPWORDS, show_progress=False, return_ids=False)[0]
        known = [term for term in terms if term in self._index.vocab_dict]
        if not known:
            return by_scores([], [])
        return best(np.asarray(self._index.get_scores(known)), count)
