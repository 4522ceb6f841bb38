"""What scores passages for a query: looked-up weights, likelihoods of TILDE, BM25, a sentence encoder.

`scores(text)` gives [passages] scores of the whole collection, `score(text, passages)` those of candidates; the time of
the latter, from the text of a query to its scores, is what `query_ms` counts.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from recipes.core.data.text.text_ids import TextIds
from recipes.core.models.padded import pool
from recipes.core.models.sentences import load_sentence_encoder
from recipes.core.scoring.vectors import sentence_vectors
from recipes.core.search.bm25 import BM25
from recipes.core.search.collection import Passages
from recipes.retrieval.encoders import encode
from recipes.retrieval.tildev2.expansion import Texts
from recipes.retrieval.tildev2.index import TermIndex, query_terms
from recipes.retrieval.tildev2.method import log_likelihoods
from recipes.retrieval.tildev2.tilde import Tilde, mark_of, marked, vocabulary_logits, with_mark

HALF = 2  # bytes of a number in half precision, as dense indexes of others would be kept
Floats = NDArray[np.float32]


class Ranker(Protocol):
    """What scores passages.

    Attributes:
        bytes: Of its index, a passage.
    """

    bytes: float

    def score(self, text: str, passages: np.ndarray) -> Floats:
        """[k] scores of some passages, by their numbers."""

    def scores(self, text: str) -> Floats:
        """[passages] scores of all; 0 or less: no hit, for scorers that know such a thing."""


class LookUp:
    """Weights of terms from an index.

    Args:
        index: Of all passages; those that were not to be weighed have no terms there.
        texts: With tokenizer and stop words.
        query_tokens: Longest query.
        indexed: How many passages were weighed.
        weigh: From ids of a query to weights of its tokens (uniCOIL); None: each counts 1.
    """

    def __init__(self, index: TermIndex, texts: Texts, query_tokens: int, indexed: int, weigh: Any = None) -> None:
        self.index, self.texts, self.query_tokens, self.weigh = index, texts, query_tokens, weigh
        self.bytes = index.nbytes / max(indexed, 1)

    def terms(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Distinct terms of a query, and what each counts."""
        ids = self.texts.query(text, self.query_tokens)
        if self.weigh is None:
            return query_terms(ids, self.texts.stop)
        weights = np.where([number in self.texts.stop for number in ids], 0, self.weigh(ids))
        terms, place = np.unique(ids, return_inverse=True)
        return terms, np.bincount(place, weights, len(terms))

    def score(self, text: str, passages: np.ndarray) -> Floats:
        """Sum of count times weight."""
        return self.index.scores(*self.terms(text), passages)

    def scores(self, text: str) -> Floats:
        """The same of all passages."""
        return self.index.all_scores(*self.terms(text))


class ByLikelihood:
    """TILDE: alpha QL + (1 - alpha) DL.

    QL is the sum over the query's tokens of log10 of their probability by the passage; DL the mean over the passage's
    terms of log10 of theirs by the query, which then has to be encoded.

    Args:
        model: A TILDE.
        texts: With the passages' ids.
        numbers: Which passages are read; no others may be asked for.
        queries: Texts that will be asked: of the terms of others nothing is kept.
        alpha: Share of the former; 1: no query is encoded.
        query_tokens: Longest query.
        device: Where to encode.
        batch_tokens: Padded tokens of a forward.
    """

    def __init__(
        self,
        model: Tilde,
        texts: Texts,
        numbers: Sequence[int],
        queries: Sequence[str],
        alpha: float,
        query_tokens: int,
        device: str,
        batch_tokens: int,
    ) -> None:
        self.model, self.texts, self.alpha, self.query_tokens, self.device = model, texts, alpha, query_tokens, device
        asked = [query_terms(texts.query(text, query_tokens), texts.stop)[0] for text in queries]
        self.known = np.unique(np.concatenate(asked))
        self.values = np.zeros((len(numbers), len(self.known)), np.float32)
        self.row = rows_of(numbers, len(texts.plain))
        columns = torch.from_numpy(self.known).to(device)
        rows = marked(texts.tokenizer, [texts.plain[number] for number in numbers], "passage")
        for group, logits in vocabulary_logits(model, rows, device, batch_tokens, "reading passages with TILDE"):
            self.values[group] = log_likelihoods(logits[:, columns]).cpu().numpy()
        self.mark = mark_of(texts.tokenizer, "query")
        plain = texts.plain if alpha < 1 else []  # whose terms only the likelihood of passages asks for
        self.index = TermIndex.build(((row, np.ones(len(row))) for row in plain), texts.stop)
        self.bytes = float(HALF * int(model.config.vocab_size))

    def score(self, text: str, passages: np.ndarray) -> Floats:
        """alpha QL + (1 - alpha) DL."""
        ids = self.texts.query(text, self.query_tokens)
        terms, counts = query_terms(ids, self.texts.stop)
        columns = np.searchsorted(self.known, terms)
        of_query = self.values[np.ix_(self.row[passages], columns)] @ counts.astype(np.float32)
        if self.alpha == 1:
            return of_query
        asked = torch.tensor([with_mark(self.mark, ids)], device=self.device)
        with torch.no_grad():
            likely = log_likelihoods(self.model(asked, torch.ones_like(asked)).float()[0]).cpu().numpy()
        terms_of = [self.index.terms_of(int(passage)) for passage in passages]
        of_passage = [likely[held].mean() if len(held) else likely.min() for held in terms_of]  # the least without any
        return self.alpha * of_query + (1 - self.alpha) * np.array(of_passage, np.float32)

    def scores(self, text: str) -> Floats:
        """The same of all passages."""
        return self.score(text, np.arange(len(self.row)))


class ByBM25:
    """BM25 of all passages, whatever the first stage is.

    Args:
        passages: What is searched.
        k1, b: Its settings.
    """

    def __init__(self, passages: Passages, k1: float, b: float) -> None:
        self.bm25, self.count = BM25(passages, k1, b), len(passages)
        self.bytes = self.bm25.nbytes / len(passages)

    def scores(self, text: str) -> Floats:
        """0 for a passage that shares no word with the query."""
        ranking, scores = self.bm25.rank(text, self.count), np.zeros(self.count, np.float32)
        scores[ranking.passages] = ranking.scores
        return scores

    def score(self, text: str, passages: np.ndarray) -> Floats:
        """The same of some."""
        return self.scores(text)[passages]


class ByEncoder:
    """Cosines of all-MiniLM-L6-v2, a bi-encoder: a query is encoded when it is asked.

    Args:
        passages: What is searched.
        numbers: Which of them are encoded.
        device: Where it runs.
    """

    def __init__(self, passages: Passages, numbers: Sequence[int], device: str) -> None:
        self.encoder = load_sentence_encoder(None, "model", device)
        texts = [passages.whole(number) for number in numbers]
        self.row = rows_of(numbers, len(passages))
        self.vectors = sentence_vectors(self.encoder, texts)
        self.bytes = float(HALF * self.vectors.shape[1])

    @torch.no_grad()
    def encode(self, text: str) -> Floats:
        """[d] vector of a query, of length 1."""
        encoder = self.encoder
        ids = TextIds(encoder.tokenizer).with_special_tokens([text], encoder.max_tokens)
        asked = torch.tensor(ids, device=encoder.device)
        mask = torch.ones_like(asked)
        states = encoder.model(input_ids=asked, attention_mask=mask).last_hidden_state
        vector: Floats = normalize(pool(states, mask.bool(), encoder.pooling), dim=-1)[0].cpu().numpy()
        return vector

    def score(self, text: str, passages: np.ndarray) -> Floats:
        """Cosines with some passages."""
        return np.asarray(self.vectors[self.row[passages]] @ self.encode(text), np.float32)

    def scores(self, text: str) -> Floats:
        """Cosines with all."""
        return self.score(text, np.arange(len(self.row)))


def weigh_passages(
    model: Any, texts: Texts, numbers: Sequence[int], device: str, batch_tokens: int
) -> dict[int, np.ndarray]:
    """Number of a passage -> float32 [tokens] weights of its tokens; 1 each where there is no model.

    Args:
        model: A `TermWeights`, or None.
        texts: With the passages' ids.
        numbers: Which passages.
        device: Where to compute.
        batch_tokens: Padded tokens of a forward.
    """
    rows = [texts.rows[number] for number in numbers]
    if model is None:
        return {number: np.ones(len(row), np.float32) for number, row in zip(numbers, rows, strict=True)}
    vectors = encode(model, rows, device=device, batch_tokens=batch_tokens, what="weighing terms")
    return {number: vectors.of(place)[:, 0] for place, number in enumerate(numbers)}


def rows_of(numbers: Sequence[int], count: int) -> NDArray[np.int64]:
    """int64 [count] the row that each passage has in a table of some; -1 for those it lacks, which nobody asks for."""
    rows = np.full(count, -1, np.int64)
    rows[np.asarray(numbers, np.int64)] = np.arange(len(numbers))
    return rows
