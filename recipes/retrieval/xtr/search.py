"""Search of a collection's tokens, and what is made of the tokens that it returns."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.core.models.nearest import Nearest, nearest
from recipes.core.runs.progress import progress
from recipes.retrieval.encoders import TokenVectors
from recipes.retrieval.rankings import Ranking, by_scores
from recipes.retrieval.xtr.config import SearchConfig
from recipes.retrieval.xtr.method import Scored, impute, score_all, score_retrieved

GROUP = 256  # queries that are searched for together
PART = 2**18  # tokens that are compared with a query at once


class TokenIndex:
    """The tokens of all passages.

    Args:
        vectors: Of length 1.
        approximate: Search by a graph (usearch) in place of all products.
        device: Where to compute.
    """

    def __init__(self, vectors: TokenVectors, approximate: bool = False, device: str = "cpu") -> None:
        self.vectors, self.device = vectors, device
        self.owners = torch.from_numpy(vectors.owners())
        self._graph = _graph(vectors.values) if approximate else None

    def search(self, queries: np.ndarray, k: int) -> Nearest:
        """The k tokens with the highest products with each of [n, d]; scores fall."""
        if self._graph is None:
            return nearest(queries, self.vectors.values, k, device=self.device)
        matches = self._graph.search(np.asarray(queries, np.float32), k)
        keys = np.asarray(matches.keys, np.int64).reshape(len(queries), -1)
        scores = 1 - np.asarray(matches.distances, np.float32).reshape(keys.shape)
        return _without_gaps(scores, keys, np.asarray(matches.counts).reshape(-1))

    def gather(self, passages: Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor]:
        """All tokens [t, d] of some passages, and the place [t] of each one's passage among them."""
        parts = [self.vectors.of(int(number)) for number in passages]
        owners = torch.arange(len(parts)).repeat_interleave(torch.tensor([len(part) for part in parts]))
        values = torch.from_numpy(np.concatenate(parts).astype(np.float32))
        return values.to(self.device), owners.to(self.device)


def searches(index: TokenIndex, queries: TokenVectors, k: int) -> Iterator[Nearest]:
    """What each query's tokens return, one query after the other: [n, k]."""
    ends = [0, *queries.ends.tolist()]
    with progress("searching tokens", len(queries)) as show:
        for start in range(0, len(queries), GROUP):
            stop = min(start + GROUP, len(queries))
            near = index.search(np.asarray(queries.values[ends[start] : ends[stop]]), k)
            for number in range(start, stop):
                rows = slice(ends[number] - ends[start], ends[number + 1] - ends[start])
                yield Nearest(near.scores[rows], near.indices[rows])
            show(stop)


def score(
    near: Nearest, index: TokenIndex, config: SearchConfig, k: int | None = None, how: str | None = None
) -> Scored:
    """Candidates of a query by the tokens that were returned.

    Args:
        near: From `searches`.
        index: The same.
        config: k' and imputation.
        k: Another k', up to what was returned.
        how: Another imputation.
    """
    scores, indices = near.scores[:, : k or config.k_prime], near.indices[:, : k or config.k_prime]
    return score_retrieved(scores, index.owners[indices], impute(scores, how or config.imputation, config.const))


def score_fully(query: np.ndarray, index: TokenIndex, passages: Tensor) -> Ranking:
    """Passages by the sum of maxima over all their tokens, which are gathered for it.

    Args:
        query: [n, d]
        index: Holds the tokens.
        passages: [c] their numbers.
    """
    vectors, owners = index.gather(passages.numpy())
    asked = torch.from_numpy(np.asarray(query, np.float32)).to(index.device)
    return by_scores(passages.numpy(), score_all(asked, vectors, owners, len(passages)).cpu().numpy())


def score_exhaustively(query: np.ndarray, index: TokenIndex) -> Ranking:
    """All passages by the sum of maxima over their tokens; memory does not grow with the collection."""
    ends, first, rankings = index.vectors.ends, 0, list[Ranking]()
    while first < len(ends):
        begin = int(ends[first - 1]) if first else 0
        stop = max(int(np.searchsorted(ends, begin + PART, side="right")), first + 1)
        rankings.append(score_fully(query, index, torch.arange(first, stop)))
        first = stop
    passages = np.concatenate([each.passages for each in rankings])
    scores = np.concatenate([each.scores for each in rankings])
    order = np.argsort(passages)
    return by_scores(passages[order], scores[order])


def ranking(scored: Scored) -> Ranking:
    """Candidates by their scores; of equal ones the first of the collection."""
    return by_scores(scored.passages.numpy(), scored.scores.numpy())


def _graph(values: np.ndarray) -> Any:
    from usearch.index import Index

    graph = Index(ndim=values.shape[1], metric="ip", dtype="f16")
    graph.add(np.arange(len(values)), np.asarray(values, np.float32))
    return graph


def _without_gaps(scores: np.ndarray, keys: np.ndarray, counts: np.ndarray) -> Nearest:
    """Neighbours that an approximate search did not return, or that are no numbers, are the last one again."""
    scores[np.arange(scores.shape[1]) >= counts[:, None]] = np.nan
    order = np.argsort(-scores, axis=1, kind="stable")  # what is no number comes last
    scores, keys = np.take_along_axis(scores, order, 1), np.take_along_axis(keys, order, 1)
    last = np.maximum((~np.isnan(scores)).sum(1) - 1, 0)[:, None]
    places = np.minimum(np.arange(scores.shape[1]), last)
    scores, keys = np.take_along_axis(scores, places, 1), np.take_along_axis(keys, places, 1)
    return Nearest(torch.from_numpy(scores), torch.from_numpy(keys))
