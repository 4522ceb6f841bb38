"""Hashed n-grams of texts: words, buckets, and a table that makes hashing them again cheap.

An n-gram's bucket is SHA-256 of its UTF-8 text modulo the number of buckets. SHA-256 is the costly part, so words and
bigrams met before are looked up: words in a dictionary, bigrams in a direct-mapped table of NumPy arrays, which
answers for a whole batch at once. Both are bounded, whatever the size of the corpus.
"""

import hashlib
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WORD = re.compile(r"\w+|[^\w\s]+")
FIBONACCI = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: multiplying spreads neighbouring keys over the table


def words_of(text: str) -> list[str]:
    """Words and runs of punctuation of the lower-cased text, as NLTK's `WordPunctTokenizer` splits it."""
    return WORD.findall(text.lower())


def bucket_of(ngram: str, buckets: int) -> int:
    """Bucket of an n-gram whose words are joined by one space.

    Source:
        arXiv 2302.03169; package data-selection, hashed n-gram features.
    """
    # A lone surrogate, as broken JSON escapes leave them, must not stop a corpus.
    digest = hashlib.sha256(ngram.encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest, "big") % buckets


@dataclass(frozen=True)
class Occurrences:
    """The n-grams of a batch of documents, one entry each, unigrams before bigrams, both in document order.

    Attributes:
        buckets: [occurrences] int.
        rows: [occurrences] int, the document in the batch.
        lengths: [documents] int, words of each document.
    """

    buckets: NDArray[np.int64]
    rows: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def counts(self, buckets: int) -> NDArray[np.int64]:
        """Counts of all documents together, [buckets]."""
        return np.bincount(self.buckets, minlength=buckets)

    def dot(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum of `values` ([buckets]) over the n-grams of each document: [documents].

        Summed in the order of the text, so that it does not depend on the batch a document is in.
        """
        return np.bincount(self.rows, weights=values[self.buckets], minlength=len(self.lengths)).astype(np.float64)


class NgramHasher:
    """Turns documents into buckets of their uni- and bigrams, remembering what it has hashed.

    Args:
        buckets: Number of buckets that unigrams and bigrams share.
        ngrams: 1 for words only, 2 for words and bigrams.
        slots: Power of two, size of the table of bigrams: 13 bytes each.
        vocabulary: Words remembered, the first that come: about 200 bytes each.
    """

    def __init__(self, buckets: int, ngrams: int = 2, slots: int = 2**18, vocabulary: int = 2**15) -> None:
        if ngrams not in (1, 2):
            raise ValueError(f"ngrams must be 1 or 2, not {ngrams}")
        self.buckets, self.ngrams, self._limit = buckets, ngrams, vocabulary
        self._shift = np.uint64(65 - slots.bit_length())
        self._keys = np.zeros(slots if ngrams == 2 else 0, np.uint64)
        self._values = np.zeros(len(self._keys), np.int32)
        self._used = np.zeros(len(self._keys), bool)
        self._words = _Words(buckets, vocabulary)

    def occurrences(self, documents: Sequence[Sequence[str]]) -> Occurrences:
        """The n-grams of documents given as words. No bigram crosses from one document to the next."""
        lengths = np.fromiter(map(len, documents), np.int64, len(documents))
        flat = [word for document in documents for word in document]
        ids = np.fromiter(map(self._words.__getitem__, flat), np.int64, len(flat))
        rows = np.repeat(np.arange(len(documents)), lengths)
        buckets = np.array(self._words.buckets, np.int64)[ids]
        if self.ngrams == 2:
            starts = np.flatnonzero(rows[:-1] == rows[1:])
            buckets = np.concatenate([buckets, self._bigrams(flat, ids, starts)])
            rows = np.concatenate([rows, rows[starts]])
        if self._words.end_batch() > len(flat) / 4:  # the corpus has turned to other words
            self._words = _Words(self.buckets, self._limit)
            self._keys[:] = 0
        return Occurrences(buckets, rows, lengths)

    def _bigrams(self, flat: list[str], ids: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Buckets of the bigrams that begin at `starts`."""
        # Word ids start at 1, so that no key is 0, the mark of an empty slot.
        keys = ((ids[starts] + 1) << 32 | (ids[starts + 1] + 1)).astype(np.uint64)
        slots = (keys * FIBONACCI) >> self._shift
        buckets = self._values[slots].astype(np.int64)
        hit = self._keys[slots] == keys
        self._used[slots[hit]] = True
        missing = np.flatnonzero(~hit)
        new, first, back = np.unique(keys[missing], return_index=True, return_inverse=True)
        positions = starts[missing[first]]
        texts = [f"{flat[i]} {flat[i + 1]}" for i in positions.tolist()]
        hashed = np.fromiter((bucket_of(text, self.buckets) for text in texts), np.int64, len(new))
        buckets[missing] = hashed[back]
        lasting = np.flatnonzero(np.maximum(ids[positions], ids[positions + 1]) < self._limit)
        self._remember(slots[missing[first[lasting]]], new[lasting], hashed[lasting])
        return buckets

    def _remember(self, slots: NDArray[np.uint64], keys: NDArray[np.uint64], values: NDArray[np.int64]) -> None:
        """Store bigrams, but give those that were found since the last attempt on their slot a second chance."""
        taken, one = np.unique(slots, return_index=True)  # of keys that share a slot, one
        free = ~self._used[taken]
        self._used[taken] = False
        self._keys[taken[free]], self._values[taken[free]] = keys[one[free]], values[one[free]]


class _Words(dict[str, int]):
    """Numbers of words. The first `limit` words keep theirs, the others are numbered anew in each batch.

    Attributes:
        buckets: Bucket of each number.
    """

    def __init__(self, count: int, limit: int) -> None:
        self.count, self.limit, self.buckets = count, limit, array("q")
        self._passing: dict[str, int] = {}
        self._unknown = 0

    def __missing__(self, word: str) -> int:
        known, full = self._passing, len(self) >= self.limit
        self._unknown += full
        if word not in known:
            known = known if full else self
            known[word] = len(self.buckets)
            self.buckets.append(bucket_of(word, self.count))
        return known[word]

    def end_batch(self) -> int:
        """Forget the words that do not stay; returns how many lookups in the batch they took."""
        unknown, self._unknown = self._unknown, 0
        self._passing.clear()
        del self.buckets[self.limit :]
        return unknown


def batches(documents: Iterable[Sequence[str]], words: int = 2**13) -> Iterator[list[Sequence[str]]]:
    """Consecutive documents, given as words, in batches of at least `words` words (the last may be smaller)."""
    batch: list[Sequence[str]] = []
    held = 0
    for document in documents:
        batch.append(document)
        held += len(document)
        # Counted per document too: a corpus of empty ones must not pile up.
        if held + len(batch) >= words:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch
