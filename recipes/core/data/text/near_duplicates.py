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
from recipes.core.storage.files import read_json, sha256_json, write_json

RUN = 5  # words
PERMUTATIONS, MISSED = 128, 1e-6
_WORD = re.compile(r"\w+")


def near_duplicate_ids(
    documents: Callable[[], Iterable[Document]], fingerprint: str, threshold: float | None, where: str
) -> frozenset[str]:
    """Ids of the near-duplicates to leave out, found once for a content, and a warning of how many they are.

    Args:
        documents: Reads them, in an order that `fingerprint` settles.
        fingerprint: Of their content.
        threshold: Least similarity of a near-duplicate; None: all documents are kept.
        where: Which documents, for the warning.
    """
    if threshold is None:
        return frozenset()

    def build(folder: Path) -> None:
        write_json(folder / "originals.json", near_duplicates(documents(), threshold))

    folder = build_once("near-duplicates", sha256_json([fingerprint, threshold, 1]), build)
    skipped = Skipped()
    for copy, original in (originals := read_json(folder / "originals.json")).items():
        skipped.add(f"{copy} nearly repeats {original}")
    skipped.warn(where)
    return frozenset(originals)


def near_duplicates(documents: Iterable[Document], threshold: float) -> dict[str, str]:
    """The documents to leave out, each with the first one kept that it is similar to.

    A document is kept unless its similarity with one kept before is at least `threshold`: no two that are kept are that
    similar. A pair at the threshold is missed with a probability of at most 1e-6, a more similar one less.

    Args:
        documents: In the order in which they count as first.
        threshold: Jaccard similarity of the sets of runs of five words in lower case, from `LEAST_SIMILARITY` to 1.

    Returns:
        Id -> id of the document that is kept in its place.

    Source:
        Broder, On the resemblance and containment of documents (1997); bands as in Leskovec, Rajaraman and Ullman,
        Mining of Massive Datasets, section 3.4.
    """
    from datasketch import MinHash, MinHashLSH

    rows = band_rows(threshold)
    index = MinHashLSH(num_perm=PERMUTATIONS, params=(PERMUTATIONS // rows, rows))
    empty = MinHash(PERMUTATIONS, seed=1, hashfunc=int)
    kept: list[tuple[str, NDArray[np.uint64]]] = []
    originals: dict[str, str] = {}
    for document in documents:
        runs = word_runs(document.text)
        sketch: Any = empty.copy()
        sketch.update_batch((runs & np.uint64(2**32 - 1)).tolist())
        candidates = sorted(index.query(sketch))
        first = next((each for each in candidates if jaccard(runs, kept[each][1]) >= threshold), None)
        if first is None:
            index.insert(len(kept), sketch, check_duplication=False)
            kept.append((document.id, runs))
        else:
            originals[document.id] = kept[first][0]
    return originals


def band_rows(threshold: float) -> int:
    """Hashes of a band: as many as miss a pair at the threshold with a probability of at most `MISSED`.

    All `r` hashes of one of the `b` bands must agree, which a pair of similarity s fails with (1 - s^r)^b.
    """
    rows = range(PERMUTATIONS // 2, 0, -1)  # two bands at least
    return next(r for r in rows if (1 - threshold**r) ** (PERMUTATIONS // r) <= MISSED)


def word_runs(text: str) -> NDArray[np.uint64]:
    """Hashes of a text's runs of five words, distinct and ascending; a text of fewer words is one run."""
    words = _WORD.findall(text.lower()) or [text]
    runs = {" ".join(words[start : start + RUN]) for start in range(max(1, len(words) - RUN + 1))}
    hashes = (int.from_bytes(blake2b(run.encode(), digest_size=8).digest(), "big") for run in runs)
    return np.unique(np.fromiter(hashes, np.uint64, len(runs)))


def jaccard(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> float:
    """Shared elements of two sets over all of theirs; both as arrays of distinct elements, not both empty."""
    shared = len(np.intersect1d(first, second, assume_unique=True))
    return shared / (len(first) + len(second) - shared)
