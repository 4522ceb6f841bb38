"""Search of a collection's tokens, and what is made of the tokens that it returns."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.core.models.nearest import Nearest, nearest
from recipes.core.runs.progress import progress
from recipes.core.search.rankings import Ranking, by_scores
from recipes.retrieval.encoders import TokenVectors
from recipes.retrieval.xtr.config import SearchConfig
from recipes.retrieval.xtr.method import Scored, impute, score_all, score_retrieved

GROUP = 256  # queries that are searched for together
PART = 2**18  # tokens that are compared with a query at once
LEAST, MOST = 39, 64  # tokens of a list, of which faiss learns its centre
TURNS = 10  # of learning the centres: faiss takes 25, and 256 tokens a list, an hour for 5 million tokens


class TokenIndex:
    """The tokens of all passages.

    Args:
        vectors: Of length 1.
        probes: Lists of an inverted index (faiss) that a search looks into; None: it compares all tokens.
        device: Where to compute; an inverted index is on the CPU.
    """

    def __init__(self, vectors: TokenVectors, probes: int | None = None, device: str = "cpu") -> None:
        self.vectors, self.device = vectors, device
        self.owners = torch.from_numpy(vectors.owners())
        self._lists = None if probes is None else _inverted_lists(vectors.values, probes)

    def search(self, queries: np.ndarray, k: int) -> Nearest:
        """The k tokens with the highest products with each of [n, d]; scores fall.

        An approximate search may return fewer: the last one then stands for the others, as often as they are missing.
        """
        if self._lists is None:
            return nearest(queries, self.vectors.values, k, device=self.device)
        asked = np.ascontiguousarray(queries, np.float32)
        scores, indices = self._lists.search(asked, k)
        if len(empty := np.flatnonzero(indices[:, 0] < 0)):  # nothing lies in the lists that were searched
            exact = nearest(asked[empty], self.vectors.values, k)
            scores[empty], indices[empty] = exact.scores, exact.indices
        return _without_gaps(scores, indices)

    def gather(self, passages: Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor]:
        """All tokens [t, d] of some passages, and the place [t] of each one's passage among them."""
        numbers = np.asarray(passages, np.int64)
        ends = self.vectors.ends[numbers]
        starts = np.where(numbers > 0, self.vectors.ends[numbers - 1], 0)
        lengths = ends - starts
        rows = np.repeat(ends - np.cumsum(lengths), lengths) + np.arange(lengths.sum())
        values = torch.from_numpy(self.vectors.values[rows].astype(np.float32, copy=False))
        owners = torch.from_numpy(np.repeat(np.arange(len(numbers)), lengths))
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
    scores = near.scores[:, : k or config.k_prime]
    indices = near.indices[:, : scores.shape[1]].numpy()
    again = indices[:, 1:] == indices[:, :-1]  # see `_without_gaps`
    counted = np.pad(~again, ((0, 0), (1, 0)), constant_values=True) if again.any() else None
    missing = impute(scores, how or config.imputation, config.const)
    return score_retrieved(scores, index.owners.numpy()[indices], missing, counted)


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


def _inverted_lists(values: np.ndarray, probes: int) -> Any:
    """An index of 4 sqrt(tokens) lists, as faiss advises, whose centres are seeded."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    tokens = np.ascontiguousarray(values, np.float32)
    count = max(min(int(4 * len(tokens) ** 0.5), len(tokens) // LEAST), 1)
    lists = faiss.IndexIVFFlat(faiss.IndexFlatIP(tokens.shape[1]), tokens.shape[1], count, faiss.METRIC_INNER_PRODUCT)
    lists.cp.max_points_per_centroid, lists.cp.niter = MOST, TURNS
    lists.train(tokens)
    lists.add(tokens)
    lists.nprobe = probes
    return lists


def _without_gaps(scores: np.ndarray, indices: np.ndarray) -> Nearest:
    """Neighbours [n, k] of which those that were not returned, -1 at the end of a row, are the last one again."""
    last = (indices >= 0).sum(1, keepdims=True) - 1
    places = np.minimum(np.arange(indices.shape[1]), last)
    return Nearest(*(torch.from_numpy(np.take_along_axis(part, places, 1)) for part in (scores, indices)))
