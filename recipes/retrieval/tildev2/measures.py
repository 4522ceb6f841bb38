"""What TILDEv2 costs and covers: bytes, milliseconds, terms that queries ask for and passages lack."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recipes.core.evaluation.scores import Scores
from recipes.core.search.collection import Queries
from recipes.retrieval.first_stage import Candidates
from recipes.retrieval.tildev2.config import COVERAGE, TildeV2Config
from recipes.retrieval.tildev2.expansion import Texts
from recipes.retrieval.tildev2.index import TermIndex, query_terms
from recipes.retrieval.tildev2.rankers import Ranker


@dataclass(frozen=True)
class Timed:
    """Scores of candidates, and how long they took.

    Attributes:
        ids: The queries.
        scores: [k] of the candidates of each.
        milliseconds: Of each, from its text to its scores.
    """

    ids: Sequence[str]
    scores: Sequence[np.ndarray]
    milliseconds: Sequence[float]


def time_scores(ranker: Ranker, chosen: Candidates) -> Timed:
    """Scores of the candidates of each query; the first query is asked once before, so that no start is counted."""
    scores, milliseconds = list[np.ndarray](), list[float]()
    asked = list(zip(chosen.queries.texts, chosen.given, strict=True))
    for text, given in [*asked[:1], *asked]:
        start = time.perf_counter()
        values = ranker.score(text, given.passages)
        milliseconds.append(1000 * (time.perf_counter() - start))
        scores.append(values)
    return Timed(chosen.queries.ids, scores[1:], milliseconds[1:])


def add_costs(scores: Scores, timed: Timed, ranker: Ranker) -> dict[str, float]:
    """Add the time of each query; metrics of the run: bytes of the index for a passage, the 95th percentile."""
    scores.define("query_ms", "milliseconds from a query's text to the scores of its candidates", False)
    for id, value in zip(timed.ids, timed.milliseconds, strict=True):
        scores.add("query_ms", id, id, value)
    scores.define("query_ms/p95", "the same, of the slowest of 20 queries", False)
    scores.define("bytes", "bytes of the index for a passage", False)
    return {"query_ms/p95": float(np.percentile(timed.milliseconds, 95)), "bytes": ranker.bytes}


def add_coverage(scores: Scores, config: TildeV2Config, texts: Texts, asked: Queries) -> None:
    """Add, for each query, the share of its terms that its passage lacks and the expansion has; by relevant passage."""
    scores.define(COVERAGE, "share of the query's terms that the right passage lacks and its expansion has", True)
    for number, id in enumerate(asked.ids):
        terms = set(query_terms(texts.query(asked.texts[number], config.encoder.query_tokens), texts.words)[0].tolist())
        for passage in asked.relevant(number):
            plain, row = texts.plain[passage], texts.rows[passage]
            lacks = terms - set(plain)
            if lacks:
                scores.add(COVERAGE, f"{id} {passage}", id, len(lacks & set(row)) / len(lacks), len(lacks))


def add_expansion(scores: Scores, index: TermIndex, texts: Texts, numbers: Sequence[int]) -> dict[str, float]:
    """Metrics of the run: terms that the index has of a passage, and how many an expansion appends to it."""
    scores.define("terms", "terms of a passage in the index", False)
    scores.define("added", "terms that the expansion appends to a passage", False)
    added = np.mean([len(texts.rows[number]) - len(texts.plain[number]) for number in numbers])
    return {"terms": len(index.terms) / len(numbers), "added": float(added)}
