"""An index of weighed terms: 6 bytes a term of a passage, looked up without a model.

    index = TermIndex.load(Path("index.npz"))
    index.scores(terms, counts, passages)    # of some passages
    index.search(terms, counts, 1000)        # of all

Terms of a passage lie behind each other (CSR). What a query reads is the same by term, made once when it is first
asked.
"""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recipes.core.search.rankings import Ranking, best
from recipes.core.storage.files import write_bytes

FILE = "index.npz"
LEVELS = 255  # of a weight in one byte


@dataclass(frozen=True)
class TermIndex:
    """Terms and weights of passages.

    Attributes:
        starts: int64 [passages + 1] where the terms of each passage begin.
        terms: int32 [pairs] ids, rising within a passage.
        weights: [pairs] float16, or uint8 in units of `scale`.
        scale: What a weight is multiplied by.
    """

    starts: NDArray[np.int64]
    terms: NDArray[np.int32]
    weights: NDArray[np.float16] | NDArray[np.uint8]
    scale: float = 1.0

    def __len__(self) -> int:
        return len(self.starts) - 1

    @classmethod
    def build(cls, rows: Iterable[tuple[Sequence[int], np.ndarray]], stop: frozenset[int]) -> "TermIndex":
        """Of each passage the ids of its tokens and their weights; of a term that stands several times the largest.

        Ids in `stop` are left out, and so is what weighs nothing: it would add nothing to a score.
        """
        left_out = np.array(sorted(stop), np.int64)
        counts, terms, weights = [0], list[np.ndarray](), list[np.ndarray]()
        for ids, values in rows:
            distinct, largest = largest_weights(np.asarray(ids, np.int64), np.asarray(values, np.float32))
            kept = ~np.isin(distinct, left_out) & (largest.astype(np.float16) > 0)
            terms.append(distinct[kept].astype(np.int32))
            weights.append(largest[kept].astype(np.float16))
            counts.append(int(kept.sum()))
        return cls(
            np.cumsum(counts, dtype=np.int64),
            np.concatenate([np.zeros(0, np.int32), *terms]),
            np.concatenate([np.zeros(0, np.float16), *weights]),
        )

    def quantise(self) -> "TermIndex":
        """The same with a byte a weight: w / max * 255, rounded; the maximum is that of all weights."""
        if self.weights.dtype == np.uint8:
            return self
        weights = self.weights.astype(np.float32)
        scale = float(weights.max(initial=0.0)) / LEVELS or 1.0
        return TermIndex(self.starts, self.terms, np.rint(weights / scale).astype(np.uint8), scale)

    @property
    def nbytes(self) -> int:
        """Bytes of what it holds."""
        return self.starts.nbytes + self.terms.nbytes + self.weights.nbytes

    def of(self, passage: int) -> dict[int, float]:
        """Term -> weight of a passage."""
        part = slice(int(self.starts[passage]), int(self.starts[passage + 1]))
        values = self.weights[part].astype(np.float32) * self.scale
        return dict(zip(self.terms[part].tolist(), values.tolist(), strict=True))

    def terms_of(self, passage: int) -> NDArray[np.int32]:
        """Ids of the terms of a passage."""
        return self.terms[int(self.starts[passage]) : int(self.starts[passage + 1])]

    def scores(self, terms: np.ndarray, counts: np.ndarray, passages: np.ndarray) -> NDArray[np.float32]:
        """[k] scores of some passages: sum over the terms of a query of count times weight.

        Args:
            terms: int [n] distinct ids.
            counts: [n] how often each stands in the query, or what it weighs there.
            passages: int [k] numbers.
        """
        total = np.zeros(len(passages), np.float32)
        order = np.argsort(passages)  # one behind the other they are searched from near to near
        numbers = passages[order].astype(np.int32)  # as in the lists, which would be copied for another type
        for postings, weights, count in self._postings(terms, counts):
            place = np.minimum(np.searchsorted(postings, numbers), len(postings) - 1)
            total += np.where(postings[place] == numbers, self._floats(weights[place]) * np.float32(count), 0)
        scores = np.empty_like(total)
        scores[order] = total
        return scores

    def all_scores(self, terms: np.ndarray, counts: np.ndarray) -> NDArray[np.float32]:
        """[passages] scores of all; arguments as in `scores`."""
        total = np.zeros(len(self), np.float32)
        for postings, weights, count in self._postings(terms, counts):
            total[postings] += self._floats(weights) * np.float32(count)
        return total

    def search(self, terms: np.ndarray, counts: np.ndarray, count: int) -> Ranking:
        """At most so many passages of all with a score above 0; of equal scores the first of the collection."""
        return best(self.all_scores(terms, counts), count)

    def save(self, path: Path, ids: Sequence[str]) -> None:
        """Write it with the ids of its passages, as a NumPy archive without pickles."""
        buffer = io.BytesIO()
        parts = {"starts": self.starts, "terms": self.terms, "weights": self.weights, "scale": np.float32(self.scale)}
        np.savez(buffer, **parts, ids=np.array(list(ids), dtype=str))  # type: ignore[arg-type]
        write_bytes(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> "TermIndex":
        """What `save` has written; the ids of the passages are `np.load(path)["ids"]`."""
        with np.load(path, allow_pickle=False) as parts:
            return cls(parts["starts"], parts["terms"], parts["weights"], float(parts["scale"]))

    def _floats(self, weights: np.ndarray) -> NDArray[np.float32]:
        """Weights as they are stored -> weights."""
        return weights.astype(np.float32) * np.float32(self.scale)

    def _postings(self, terms: np.ndarray, counts: np.ndarray) -> Iterable[tuple[np.ndarray, np.ndarray, float]]:
        """Of each term that the index has: passages with it, its weights in them as stored, its count in the query."""
        distinct, starts, passages, weights = self._by_term
        if not len(distinct):
            return
        for term, count in zip(np.asarray(terms), np.asarray(counts), strict=True):
            place = int(np.searchsorted(distinct, term))
            if place < len(distinct) and distinct[place] == term:
                part = slice(int(starts[place]), int(starts[place + 1]))
                yield passages[part], weights[part], float(count)

    @cached_property
    def _by_term(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """[t] terms, [t + 1] where the passages of each begin, [pairs] passages, rising in a term, [pairs] weights."""
        order = np.argsort(self.terms, kind="stable")
        passages = np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.starts))[order]
        distinct, first = np.unique(self.terms[order], return_index=True)
        return distinct, np.append(first, len(order)), passages, self.weights[order]


def largest_weights(ids: np.ndarray, weights: np.ndarray) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Each id once, rising, with the largest of its weights."""
    distinct, place = np.unique(ids, return_inverse=True)
    largest = np.zeros(len(distinct), np.float32)
    np.maximum.at(largest, place, weights)
    return distinct, largest


def query_terms(ids: Sequence[int], stop: frozenset[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct ids of a query that are terms, and how often each stands in it."""
    return np.unique(np.array([number for number in ids if number not in stop], np.int64), return_counts=True)
