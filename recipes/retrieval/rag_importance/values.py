"""What else may value an item or a source: Shapley values, leave-one-out; and the vote that all are judged by."""

import numpy as np
from numpy.typing import NDArray

from recipes.retrieval.rag_importance.method import Floats, Sources, differences, used

NOBODY = -1  # answer where no item is left


def nearest_shapley(utilities: np.ndarray, lengths: np.ndarray, k: int) -> Floats:
    """[N, M] exact Shapley value of each item times K, in O(M): that of K nearest neighbours.

    With m items, s_m = u_m min(K, m) / m and s_i = s_{i+1} + (u_i - u_{i+1}) min(K, i) / i.

    Args:
        utilities: [N, M], 0 behind the end of a list.
        lengths: [N] items of each list.
        k: How many are used.

    Source: arXiv 1908.08619.
    """
    u, places = np.asarray(utilities, np.float64), np.arange(1, utilities.shape[1] + 1)
    # A telescope from the last item, behind which an item worth nothing may stand: u_{m+1} = 0, s_{m+1} = 0.
    steps = (u - np.pad(u, ((0, 0), (0, 1)))[:, 1:]) * np.minimum(k, places) / places
    return np.where(places <= lengths[:, None], steps[:, ::-1].cumsum(1)[:, ::-1], 0.0)


def sampled_shapley(utilities: np.ndarray, lengths: np.ndarray, k: int, draws: int, rng: np.random.Generator) -> Floats:
    """[N, M] the same from drawn sub-corpora: all items of a list exist with one probability, drawn uniformly.

    That probability is the moment at which a random order has come: who stands before i are those drawn.
    """
    there, total = np.arange(utilities.shape[1]) < lengths[:, None], np.zeros(utilities.shape)
    for _ in range(draws):
        exists = (rng.random(utilities.shape) < rng.random((len(utilities), 1))) & there
        total += differences(utilities, exists, k)
    return np.where(there, total / draws, 0.0)


def vote(answers: np.ndarray, keep: np.ndarray, k: int) -> NDArray[np.int64]:
    """[N] the answer that most of the first K kept items give; of equally many the first seen; -1 without items.

    Args:
        answers: int [N, M], at least 0 where an item is kept.
        keep: bool [N, M].
        k: How many items are used.
    """
    voters = used(keep, k)
    rows, columns = np.nonzero(voters)
    given = answers[rows, columns]
    shape = (len(answers), int(given.max(initial=0)) + 1)
    counts, first = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    np.add.at(counts, (rows, given), 1)
    np.maximum.at(first, (rows, given), answers.shape[1] - columns)
    best = (counts * (answers.shape[1] + 1) + first).argmax(1)
    return np.where(voters.any(1), best, NOBODY)


def leave_one_out(answers: np.ndarray, right: np.ndarray, sources: Sources, k: int) -> Floats:
    """[sources] right answers of the vote with all sources, less those without the source.

    Only a source of the first K items changes a vote: O(N M K), not O(N M sources).

    Args:
        answers: int [N, M].
        right: int [N].
        sources: Of the items.
        k: How many items are used.
    """
    item = sources.of_item
    there = item >= 0
    base, total = (vote(answers, there, k) == right).astype(np.int64), np.zeros(sources.count)
    for place in range(min(k, item.shape[1])):
        source = item[:, place]
        first = there[:, place] & ~(item[:, :place] == source[:, None]).any(1)
        without = vote(answers, there & (item != source[:, None]), k) == right
        np.add.at(total, source[first], (base - without)[first])
    return total


def removals(weights: np.ndarray, counts: np.ndarray, shares: tuple[float, ...]) -> list[NDArray[np.bool_]]:
    """Which sources are kept, [sources] bool for each share: the lowest go until so much of what was retrieved is gone.

    Sources of equal weight go together or not at all; where that would be all, none does.

    Args:
        weights: [sources].
        counts: [sources] items retrieved of each; a source without is not touched.
        shares: Of the retrieved items, in [0, 1).
    """
    known = counts > 0
    levels, level = np.unique(weights[known], return_inverse=True)
    gone = np.bincount(level, counts[known], minlength=len(levels)).cumsum() / max(counts.sum(), 1)
    kept = []
    for share in shares:
        # So many of the lowest levels that at least the share is gone.
        cut = int(np.searchsorted(gone, share - 1e-12)) + 1 if share > 0 else 0
        keep = np.ones(len(weights), bool)
        if 0 < cut < len(levels):
            keep[known] = level >= cut
        kept.append(keep)
    return kept


def draw_sources(weights: np.ndarray, draws: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """[draws, sources] bool: each kept with a probability of its weight."""
    return rng.random((draws, len(weights))) < weights
