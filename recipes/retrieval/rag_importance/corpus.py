"""A corpus whose passages answer with their label, what is spoiled in it, and what is retrieved of it for questions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipes.core.data.tasks.labelled import LabelledSet, LabelledText
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.search.collection import Passages
from recipes.core.search.rankings import Ranking, best
from recipes.retrieval.rag_importance.config import FAKE, NOISE, CorpusConfig, RetrievalConfig
from recipes.retrieval.rag_importance.method import Sources

CHUNK = 256  # questions that are compared with all passages at once


@dataclass(frozen=True)
class Corpus:
    """What is retrieved from.

    Attributes:
        texts: Of the passages.
        answers: int [passages] number of the label that each gives.
        source: int [passages] number of who gives it.
        names: Of the sources.
        spoiled: bool [passages] whether a wrong label was planted.
    """

    texts: Sequence[str]
    answers: NDArray[np.int64]
    source: NDArray[np.int64]
    names: Sequence[str]
    spoiled: NDArray[np.bool_]

    @property
    def truth(self) -> NDArray[np.float64]:
        """[sources] share of passages that were not spoiled; 1 for a source without any."""
        counts = np.bincount(self.source, minlength=len(self.names))
        return 1 - np.bincount(self.source, self.spoiled, minlength=len(self.names)) / np.maximum(counts, 1)


@dataclass(frozen=True)
class Lists:
    """What was retrieved for questions.

    Attributes:
        ids: Of the questions.
        right: int [N] numbers of their labels.
        sources: Of the retrieved items [N, M].
        answers: int [N, M] what each item answers; 0 where a list has ended.
        lengths: int [N] items of each list.
    """

    ids: Sequence[str]
    right: NDArray[np.int64]
    sources: Sources
    answers: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @property
    def utilities(self) -> NDArray[np.float64]:
        """[N, M] 1 where an item by itself answers right; 0 elsewhere and where a list has ended."""
        return ((self.answers == self.right[:, None]) & self.there).astype(np.float64)

    @property
    def there(self) -> NDArray[np.bool_]:
        """[N, M] where lists have not ended."""
        return self.sources.passage >= 0


def divide(
    data: LabelledSet, weights: int, threshold: int, test: int, seed: int
) -> tuple[list[LabelledText], list[LabelledText], list[LabelledText], list[LabelledText]]:
    """Texts of the corpus, questions for weights, for the threshold and to test on; no document is in two of them.

    Args:
        data: Labelled texts.
        weights: Questions that weights are learnt from; a quarter of the training texts at most.
        threshold: Questions that the threshold is chosen by; an eighth at most.
        test: Questions to test on, at most.
        seed: Which.
    """
    total, rng = len(data.train), np.random.default_rng(seed)
    counts = [min(weights, max(total // 4, 1)), min(threshold, max(total // 8, 1))]
    if counts != [weights, threshold]:
        note(f"{total:,} texts: weights are learnt from {counts[0]:,} questions, the threshold from {counts[1]:,}")
    documents = sorted({each.document for each in data.train})
    of: dict[str, list[LabelledText]] = {}
    for each in data.train:
        of.setdefault(each.document, []).append(each)
    parts: list[list[LabelledText]] = [[], [], []]
    for number in rng.permutation(len(documents)):
        place = next((i for i in (0, 1) if len(parts[i]) < counts[i]), 2)
        parts[place] += of[documents[number]]
    if not all(parts):
        raise UserError(
            f"{total} training texts are too few for a corpus and two sets of questions",
            data.name, "give more texts, of more documents",
        )  # fmt: skip
    asked = np.sort(rng.permutation(len(data.test))[:test])
    return parts[2], parts[0], parts[1], [data.test[number] for number in asked]


def build_corpus(
    texts: Sequence[LabelledText], labels: np.ndarray, classes: int, config: CorpusConfig, corruption: str, seed: int
) -> Corpus:
    """Passages with sources and with planted faults.

    Args:
        texts: Of the passages; their source is theirs if they have one, else drawn.
        labels: int [passages] their right labels.
        classes: How many labels there are.
        config: How much is spoiled.
        corruption: What is spoiled: raw, noise or fake.
        seed: Which.
    """
    rng = np.random.default_rng([seed, 1])
    names = sorted({each.source for each in texts} - {""})
    if names:
        number_of = {name: number for number, name in enumerate(names)}
        source = np.array([number_of[each.source] for each in texts], np.int64)
    else:
        names = [f"source-{number:02}" for number in range(config.sources)]
        source = rng.permutation(np.arange(len(texts)) % config.sources)
    corpus = Corpus([each.text for each in texts], labels, source, names, np.zeros(len(texts), bool))
    if corruption == NOISE:
        return _with_noise(corpus, classes, config, rng)
    return _with_fakes(corpus, classes, config, rng) if corruption == FAKE else corpus


def _with_noise(corpus: Corpus, classes: int, config: CorpusConfig, rng: np.random.Generator) -> Corpus:
    """Each source gives wrong labels at its rate."""
    groups = rng.permutation(np.arange(len(corpus.names)) % len(config.accuracies))
    accuracy = np.array(config.accuracies)[groups][corpus.source]
    spoiled = rng.random(len(corpus.texts)) >= accuracy
    answers = np.where(spoiled, _wrong(corpus.answers, classes, rng), corpus.answers)
    return Corpus(corpus.texts, answers, corpus.source, corpus.names, spoiled)


def _with_fakes(corpus: Corpus, classes: int, config: CorpusConfig, rng: np.random.Generator) -> Corpus:
    """More sources copy passages and give wrong labels; neither the copy nor the passage stands first."""
    count = len(corpus.texts)
    copied = rng.permutation(count)[: max(round(config.copied * count), 1)]
    source = np.concatenate([corpus.source, len(corpus.names) + rng.integers(config.fakes, size=len(copied))])
    answers = np.concatenate([corpus.answers, _wrong(corpus.answers[copied], classes, rng)])
    texts = [*corpus.texts, *(corpus.texts[number] for number in copied)]
    order = rng.permutation(len(texts))
    names = [*corpus.names, *(f"fake-{number:02}" for number in range(config.fakes))]
    return Corpus(
        [texts[i] for i in order], answers[order], source[order], names, (np.arange(len(texts)) >= count)[order]
    )


def _wrong(labels: np.ndarray, classes: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Another label, all alike."""
    return (labels + 1 + rng.integers(classes - 1, size=len(labels))) % classes


def retrieve(
    corpus: Corpus, questions: Sequence[Sequence[LabelledText]], labels: Sequence[np.ndarray], config: RetrievalConfig
) -> list[Lists]:
    """What is retrieved for each set of questions.

    Args:
        corpus: What is searched.
        questions: Sets of them.
        labels: int [N] right labels of each set.
        config: How.
    """
    search = _Search(corpus.texts, config.name)
    items, results = min(config.items, len(corpus.texts)), []
    for asked, right in zip(questions, labels, strict=True):
        passage = np.full((len(asked), items), -1, np.int64)
        for row, ranking in enumerate(search.rank([each.text for each in asked], items)):
            passage[row, : len(ranking)] = ranking.passages
        answers = np.where(passage >= 0, corpus.answers[passage], 0)
        sources = Sources(passage, corpus.source, len(corpus.names))
        results.append(Lists([each.id for each in asked], right, sources, answers, (passage >= 0).sum(1)))
    return results


class _Search:
    """Passages by TF-IDF cosine, or by BM25."""

    def __init__(self, texts: Sequence[str], name: str) -> None:
        self._index: Any
        if name == "bm25":
            from recipes.core.search.bm25 import BM25

            self._index = BM25(Passages([str(number) for number in range(len(texts))], [""] * len(texts), texts))
            return
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._index, self._words = None, TfidfVectorizer(sublinear_tf=True, dtype=np.float32)
        try:
            self._passages = self._words.fit_transform(texts)
        except ValueError:  # what scikit-learn says of an empty vocabulary
            raise UserError("the passages have no word to search for", "data", "give other texts") from None

    def rank(self, questions: Sequence[str], count: int) -> Iterable[Ranking]:
        if self._index is not None:
            yield from (self._index.rank(question, count) for question in questions)
            return
        for start in range(0, len(questions), CHUNK):
            scores = self._words.transform(questions[start : start + CHUNK]) @ self._passages.T
            yield from (best(row, count) for row in scores.toarray())
