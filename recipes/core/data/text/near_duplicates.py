"""Near-duplicates: documents that share most of their runs of words with an earlier one, by MinHash.

Left out before any split, so that no test document has its copy among those trained on. MinHash only proposes pairs;
the similarity of each is computed from the documents themselves. What is kept stays in memory: about 10 kB a document,
and 8 bytes a word.
"""

import re
from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipes.core.data.text.shards import Document, Skipped
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import read_json, write_json

RUN = 5  # words
PERMUTATIONS, MISSED = 128, 1e-6
_WORD = re.compile(r"\w+")


def near_duplicate_ids(search: Callable[[], dict[str, str]], key: str, where: str) -> frozenset[str]:
    """Ids of the near-duplicates to leave out, searched for once, and a warning of how many they are.

    Args:
        search: Returns them as `near_duplicates` does.
        key: Hash of all that the result depends on: documents, their order, the threshold.
        where: Which documents, for the warning.
    """

    def build(folder: Path) -> None:
        write_json(folder / "originals.json", search())

    folder = build_once("near-duplicates", key, build)
    skipped = Skipped()
    for copy, original in (originals := read_json(folder / "originals.json")).items():
        skipped.add(f"{copy} nearly repeats {original}")
    skipped.warn(where)
    return frozenset(originals)


def near_duplicates(documents: Iterable[Document], threshold: float) -> dict[str, str]:
    """The documents to leave out: id -> id of the document that is kept in its place.

    Args:
        documents: In order of precedence: of similar ones the first is kept.
        threshold: See `NearDuplicates`.
    """
    search = NearDuplicates(threshold)
    for document in documents:
        search.repeats(document)
    return search.originals


class NearDuplicates:
    """A search through documents that come one by one; only those passed to `repeats` are compared.

    A document is kept unless its similarity with one kept before is at least `threshold`: no two that are kept are that
    similar. A pair at the threshold is missed with a probability of at most 1e-6, a more similar one less.

    Args:
        threshold: Jaccard similarity of the sets of runs, from `LEAST_SIMILARITY` to 1.
        runs: Makes them of a text; by default runs of five words in lower case.

    Attributes:
        originals: Id of every near-duplicate -> id of the first document kept that it is similar to.

    Source:
        Broder, On the resemblance and containment of documents (1997); bands as in Leskovec, Rajaraman and Ullman,
        Mining of Massive Datasets, section 3.4.
    """

    def __init__(self, threshold: float, runs: Callable[[str], NDArray[np.uint64]] | None = None) -> None:
        from datasketch import MinHash, MinHashLSH

        rows = band_rows(threshold)
        self.originals: dict[str, str] = {}
        self._threshold, self._runs = threshold, runs or word_runs
        self._kept: list[tuple[str, NDArray[np.uint64]]] = []
        self._index = MinHashLSH(num_perm=PERMUTATIONS, params=(PERMUTATIONS // rows, rows))
        self._empty = MinHash(PERMUTATIONS, seed=1, hashfunc=int)

    def repeats(self, document: Document) -> bool:
        """Whether the next document is a near-duplicate; it is kept if not."""
        runs = self._runs(document.text)
        sketch: Any = self._empty.copy()
        sketch.update_batch((runs & np.uint64(2**32 - 1)).tolist())
        candidates = sorted(self._index.query(sketch))
        first = next((each for each in candidates if jaccard(runs, self._kept[each][1]) >= self._threshold), None)
        if first is None:
            self._index.insert(len(self._kept), sketch, check_duplication=False)
            self._kept.append((document.id, runs))
            return False
        self.originals[document.id] = self._kept[first][0]
        return True


def band_rows(threshold: float) -> int:
    """The most hashes per band that still miss a pair at the threshold with a probability of at most `MISSED`.

    All `r` hashes of one of the `b` bands must agree, which a pair of similarity s fails with (1 - s^r)^b.
    """
    rows = range(PERMUTATIONS // 2, 0, -1)  # two bands at least
    return next(r for r in rows if (1 - threshold**r) ** (PERMUTATIONS // r) <= MISSED)


def word_runs(text: str) -> NDArray[np.uint64]:
    """Hashes of a text's runs of five words, distinct and ascending; a text of fewer words is one run."""
    words = _WORD.findall(text.lower()) or [text]
    return _hashes({" ".join(words[start : start + RUN]) for start in range(max(1, len(words) - RUN + 1))})


def character_runs(text: str, length: int) -> NDArray[np.uint64]:
    """Hashes of a text's runs of so many characters, distinct and ascending; a shorter text is one run."""
    return _hashes({text[start : start + length] for start in range(max(1, len(text) - length + 1))})


def _hashes(runs: set[str]) -> NDArray[np.uint64]:
    hashes = (int.from_bytes(blake2b(run.encode(), digest_size=8).digest(), "big") for run in runs)
    return np.unique(np.fromiter(hashes, np.uint64, len(runs)))


def jaccard(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> float:
    """Shared elements of two sets over all of theirs; both as arrays of distinct elements, not both empty."""
    shared = len(np.intersect1d(first, second, assume_unique=True))
    return shared / (len(first) + len(second) - shared)
