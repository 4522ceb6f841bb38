"""Selection from sharded corpora: counting, scoring and writing, one shard per process at a time.

Counts and scores of every shard are cached by content, so a killed selection keeps its finished shards, and a new
size, seed or temperature reads no text before the selection is written. What is held in memory is a table of hashed
n-grams per process and a few numbers per document.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from recipes.core.data.text.corpora import CorpusShard
from recipes.core.data.text.ngrams import NgramHasher, Occurrences, batches, words_of
from recipes.core.data.text.shards import Document, Skipped
from recipes.core.errors import SteelyardError, UserError
from recipes.core.process.ray_settings import quiet_ray
from recipes.core.storage.cache import build_once, home
from recipes.core.storage.files import sha256_json, write_json
from recipes.pretraining.dsir import method

VERSION = 2  # of what the cache entries of a shard hold
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Corpus(Protocol):
    """Documents in the order of their shards."""

    @property
    def shards(self) -> Sequence[CorpusShard]: ...


class Scorer(Protocol):
    """Gives each document one number; larger is nearer to the target. Must be picklable."""

    def scores(self, occurrences: Occurrences) -> Floats: ...
    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class Features:
    """Hashed n-grams: how many buckets, and 1 for words only or 2 for words and bigrams."""

    buckets: int = 10_000
    ngrams: int = 2


@dataclass(frozen=True)
class Workers:
    """How shards are spread: processes, and joblib's backend ("loky" on this machine, "ray" on a cluster)."""

    count: int = 1
    backend: str = "loky"


ALONE = Workers()


@dataclass(frozen=True)
class LogRatio:
    """Scores documents by their log importance weight.

    Attributes:
        values: [buckets], log p - log q.
    """

    values: Floats

    def fingerprint(self) -> str:
        """Hash of what the scores depend on."""
        return sha256_json(["log-ratio", self.values.tolist()])

    def scores(self, occurrences: Occurrences) -> Floats:
        """Log importance weights, [documents] in nats."""
        return occurrences.dot(self.values)


@dataclass(frozen=True)
class Counts:
    """N-grams of a corpus: `ngrams` [buckets] summed over all of it, `documents` [shards], and what was left out."""

    ngrams: Integers
    documents: Integers
    skipped: Skipped = field(default_factory=Skipped)


@dataclass(frozen=True)
class Scored:
    """One entry per document of a corpus, in its order.

    Attributes:
        scores: What the scorer gave, [documents].
        lengths: Words, [documents].
        quality: Whether it passed the quality filter; true where that was not asked for.
    """

    scores: Floats
    lengths: Integers
    quality: NDArray[np.bool_]

    def eligible(self, min_words: int = 0) -> Integers:
        """Documents that may be selected: with at least `min_words` words (and one), of good quality."""
        return np.flatnonzero(self.quality & (self.lengths >= max(min_words, 1)))


def count(corpus: Corpus, features: Features, workers: Workers = ALONE) -> Counts:
    """Count the n-grams of a corpus.

    Raises:
        UserError: a shard cannot be read; the counts of the others are kept.
    """
    results = over_shards(_count_shard, [(shard, features) for shard in corpus.shards], workers)
    total, skipped = np.zeros(features.buckets, np.int64), Skipped()
    for ngrams, _, left_out in results:
        total += ngrams
        skipped.extend(left_out)
    return Counts(total, np.array([documents for _, documents, _ in results], np.int64), skipped)


def fit_log_ratio(target: Counts, raw: Counts, smoothing: float = 0.0) -> LogRatio:
    """The importance weights' model from counts.

    Args:
        target: Counts of the target sample.
        raw: Counts of the raw pool.
        smoothing: Laplace smoothing of the target.

    Raises:
        UserError: a corpus is empty, or they have no n-gram in common.
    """
    for name, counts in (("data.target", target), ("data.source", raw)):
        if not counts.ngrams.any():
            raise UserError(
                f"no word in {counts.documents.sum()} documents", where=name, hint="check the path and the text field"
            )
    if not (target.ngrams.astype(bool) & raw.ngrams.astype(bool)).any():
        raise UserError(
            "the target has no n-gram in common with the source",
            where="data.target",
            hint="both must be text in the same language and script; check data.source and data.target",
        )
    return LogRatio(method.log_ratio(method.fit(target.ngrams, smoothing), method.fit(raw.ngrams)))


def score(
    corpus: Corpus,
    features: Features,
    scorer: Scorer,
    quality: bool = False,
    workers: Workers = ALONE,
) -> Scored:
    """Score every document of a corpus.

    Args:
        corpus: The raw pool.
        features: As in `count`.
        scorer: `LogRatio` or a classifier.
        quality: Whether to judge documents by the quality filter as well.
        workers: Processes over shards.

    Raises:
        UserError: a shard cannot be read; the scores of the others are kept.
    """
    jobs = [(shard, features, scorer, scorer.fingerprint(), quality) for shard in corpus.shards]
    results = over_shards(_score_shard, jobs, workers)
    none: tuple[Any, ...] = (np.zeros(0), np.zeros(0, np.int64), np.zeros(0, bool))
    return Scored(*(np.concatenate(parts) for parts in zip(none, *results, strict=True)))


def select(scored: Scored, keys: Floats, size: int, min_words: int = 0) -> Integers:
    """The `size` eligible documents with the largest keys, as indices in corpus order.

    Args:
        scored: Of the raw pool.
        keys: [documents], from `method.gumbel_keys`, `method.pareto_keys`, or the scores themselves.
        size: How many to select.
        min_words: Shorter documents are left out.

    Raises:
        UserError: fewer documents are eligible.
    """
    eligible = scored.eligible(min_words)
    if size > len(eligible):
        left_out = len(scored.scores) - len(eligible)
        filtered = f"; {left_out} of {len(scored.scores)} are left out as too short or of low quality"
        raise UserError(
            f"{size} documents were asked for and the source has {len(eligible)}{filtered if left_out else ''}",
            where="select.n",
            hint=f"use select.n={len(eligible)} or less" + (", or loosen the filters" if left_out else ""),
        )
    return eligible[method.top_k(keys[eligible], size)]


def split_by_shard(chosen: Integers, documents: Integers) -> list[Integers]:
    """Corpus indices as indices within each shard.

    Args:
        chosen: Ascending indices.
        documents: Documents of each shard, [shards].
    """
    ends = np.cumsum(documents)
    parts = np.split(chosen, np.searchsorted(chosen, ends)[:-1])
    return [part - start for part, start in zip(parts, ends - documents, strict=True)]


def sparse_chosen(
    corpus: Corpus,
    features: Features,
    chosen: Sequence[Integers],
    workers: Workers = ALONE,
) -> Any:
    """Counts of each chosen document as a SciPy matrix [documents, buckets]; for samples that fit in memory."""
    from scipy.sparse import csr_matrix, vstack

    jobs = [(shard, features, part) for shard, part in zip(corpus.shards, chosen, strict=True) if len(part)]
    empty = csr_matrix((0, features.buckets), dtype=np.int32)
    return vstack([empty, *over_shards(_sparse_chosen_shard, jobs, workers)], format="csr")


def over_shards(task: Callable[..., Any], jobs: Iterable[tuple[Any, ...]], workers: Workers) -> list[Any]:
    """Results of `task` in the order of the jobs. One that fails does not stop the others; then the first is raised."""
    if workers.count == 1:
        results = [_result_or_error(task, job) for job in jobs]
    else:
        import joblib

        if workers.backend == "ray":
            from ray.util.joblib import register_ray

            quiet_ray()
            register_ray()
        parallel = joblib.Parallel(n_jobs=workers.count, backend=workers.backend)
        results = list(parallel(joblib.delayed(_in_worker)(str(home()), task, job) for job in jobs))
    for result in results:
        if isinstance(result, SteelyardError):
            raise result
    return results


def _in_worker(cache: str, task: Callable[..., Any], job: tuple[Any, ...]) -> Any:
    # Workers are reused, and on other nodes start with an environment of their own.
    os.environ["STEELYARD_HOME"] = cache
    return _result_or_error(task, job)


def _result_or_error(task: Callable[..., Any], job: tuple[Any, ...]) -> Any:
    # Handed back, not raised: joblib would cancel the other shards and put a remote traceback into the message.
    try:
        return task(*job)
    except SteelyardError as error:
        return error


@lru_cache(maxsize=1)
def _hasher(features: Features) -> NgramHasher:
    """One per process, so that later shards find the n-grams of earlier ones."""
    return NgramHasher(features.buckets, features.ngrams)


def forget_ngrams() -> None:
    """Free what this process remembers of hashed n-grams."""
    _hasher.cache_clear()


def _count_shard(shard: CorpusShard, features: Features) -> tuple[Integers, int, Skipped]:
    def build(folder: Path) -> None:
        hasher, total, documents = _hasher(features), np.zeros(features.buckets, np.int64), 0
        skipped = Skipped()
        for batch in batches(words_of(document.text) for document in shard.read(skipped)):
            total += hasher.occurrences(batch).counts(features.buckets)
            documents += len(batch)
        np.save(folder / "ngrams.npy", total)
        write_json(folder / "documents.json", {"documents": documents, "skipped": asdict(skipped)})

    folder = build_once("ngram-counts", _key(shard, features), build)
    record = json.loads((folder / "documents.json").read_text(encoding="utf-8"))
    return np.load(folder / "ngrams.npy"), record["documents"], Skipped(**record["skipped"])


def _score_shard(
    shard: CorpusShard, features: Features, scorer: Scorer, scorer_key: str, quality: bool
) -> tuple[Floats, Integers, NDArray[np.bool_]]:
    def build(folder: Path) -> None:
        hasher, judge = _hasher(features), _judge() if quality else _accept
        scores, lengths, good = [np.zeros(0)], [np.zeros(0, np.int64)], [np.zeros(0, bool)]
        for batch in batches(words_of(document.text) for document in shard.read()):
            occurrences = hasher.occurrences(batch)
            scores.append(scorer.scores(occurrences))
            lengths.append(occurrences.lengths)
            good.append(np.fromiter(map(judge, batch), bool, len(batch)))
        for name, parts in (("scores", scores), ("lengths", lengths), ("quality", good)):
            np.save(folder / f"{name}.npy", np.concatenate(parts))

    folder = build_once("ngram-scores", _key(shard, features, scorer_key, quality), build)
    scores, lengths, good = (np.load(folder / f"{name}.npy", "r") for name in ("scores", "lengths", "quality"))
    return scores, lengths, good


def _sparse_chosen_shard(shard: CorpusShard, features: Features, chosen: Integers) -> Any:
    from scipy.sparse import vstack

    from recipes.pretraining.dsir.heuristic import sparse_counts

    hasher = _hasher(features)
    parts = batches(words_of(document.text) for document in read_chosen(shard, chosen))
    return vstack([sparse_counts(hasher.occurrences(batch), features.buckets) for batch in parts], format="csr")


def read_chosen(shard: CorpusShard, chosen: Integers) -> Iterator[Document]:
    """The documents of a shard at ascending indices.

    Raises:
        UserError: the shard has become shorter than it was.
    """
    wanted = iter(chosen.tolist())
    following = next(wanted, None)
    for index, document in enumerate(shard.read()):
        if following is None:
            return
        if index == following:
            yield document
            following = next(wanted, None)
    if following is not None:
        raise UserError(
            "has fewer documents than when it was scored",
            where=shard.name,
            hint="leave the data unchanged while a selection runs, and type the same command again",
        )


def _key(shard: CorpusShard, features: Features, *more: Any) -> str:
    return sha256_json([VERSION, shard.fingerprint(), features.buckets, features.ngrams, *more])


def _judge() -> Callable[[Sequence[str]], bool]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return lambda words: method.passes_quality(words, ENGLISH_STOP_WORDS)


def _accept(words: Sequence[str]) -> bool:
    return True
