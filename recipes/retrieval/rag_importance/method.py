"""Weights of data sources by the multilinear extension of a retrieval-augmented utility: pure numbers, no data.

For one question the retriever returns items 1..M in order; item i exists with probability p_i and is worth u_i in
[0, 1] by itself. A sub-corpus S is worth the sum of u over the first K items that exist in it, divided by K, and

    U~(p) = E_{S ~ p}[U(S)],   dU~ / dp_i = E[U | i exists] - E[U | i absent]

as U~ is linear in each p_i. All functions take many questions at once; where a list is shorter, it ends with items of
p = 0 and u = 0. Source: arXiv 2307.03027.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from math import ceil, log
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BLOCK = 2**20  # numbers of an array of one block of questions: what fits a core's cache is fastest
ROUNDED = 2  # decimals of utilities in form B, as the official code has them


def gradient(utilities: np.ndarray, exists: np.ndarray, k: int, epsilon: float = 0.0) -> Floats:
    """Exact gradient, form A: O(M K) a question, in memory that does not grow with their number.

        V_i[r] = expected utility of the first r existing items among i..M
               = V_{i+1}[r] + p_i D_i[r],    D_i[r] = u_i + V_{i+1}[r-1] - V_{i+1}[r]
        P_i[j] = P(exactly j of the items 1..i-1 exist)
        g_i    = sum_{j < K} P_i[j] D_i[K - j]

    Args:
        utilities: [N, M] u.
        exists: [N, M] p.
        k: K, how many items are used.
        epsilon: Above 0 lists end at the first item behind which K + 1 items exist with probability 1 - epsilon or
            more: no entry of the result then lies further from the exact one than epsilon.

    Returns:
        [N, M] K dU~ / dp.
    """
    result = np.zeros(utilities.shape)
    for rows in _blocks(utilities.shape, k):
        u, p = (np.ascontiguousarray(each[rows].T, np.float64) for each in (utilities, exists))  # [M, n]
        if epsilon > 0:
            seen = _fewer(p, k + 1)  # [M, n] P(at most K of the items before exist)
            u, p = np.where(seen > epsilon, u, 0), np.where(seen > epsilon, p, 0)
            last = int((seen > epsilon).any(1).sum())
            result[rows, :last] = np.where(seen > epsilon, _form_a(u, p, k, last), 0)[:last].T
        else:
            result[rows] = _form_a(u, p, k, len(u)).T
    return result


def _form_a(u: Floats, p: Floats, k: int, last: int) -> Floats:
    """[M, n] entries of K dU~ / dp up to item `last`, for lists [M, n]."""
    count, width = u.shape
    differences = np.empty((last, k, width))  # of item i at [i, j]: D_i[K - j]
    worth = np.zeros((k + 1, width))  # V_{i+1}, by K - r, so that it is added to differences as it stands
    for i in range(last - 1, -1, -1):
        row = differences[i]
        np.subtract(worth[1:], worth[:-1], out=row)
        row += u[i]
        worth[:-1] += p[i] * row
    result, before = np.zeros((count, width)), np.zeros((k, width))
    before[0] = 1.0
    for i in range(last):
        np.einsum("jn,jn->n", before, differences[i], out=result[i])
        moved = p[i] * before
        before -= moved
        before[1:] += moved[:-1]
    return result


def utility(utilities: np.ndarray, exists: np.ndarray, k: int) -> Floats:
    """[N] expected utility U~ of each question; arguments as of `gradient`."""
    result = np.empty(len(utilities))
    for rows in _blocks(utilities.shape, k):
        u, p = (np.ascontiguousarray(each[rows].T, np.float64) for each in (utilities, exists))
        result[rows] = (p * u * _fewer(p, k)).sum(0) / k
    return result


def _fewer(p: Floats, k: int) -> Floats:
    """[M, n] probability that fewer than k of the items before exist."""
    result, before = np.empty(p.shape), np.zeros((k, p.shape[1]))
    before[:1] = 1.0
    for i, each in enumerate(p):
        before.sum(0, out=result[i])
        moved = each * before
        before -= moved
        before[1:] += moved[:-1]
    return result


def gradient_by_counts(utilities: np.ndarray, exists: np.ndarray, k: int) -> Floats:
    """The same in form B, that of the official code: G1 where fewer than K others exist, G2 where i displaces one.

    O(M K (K + E)) a question with E distinct utilities, which are rounded to two decimals.

    Returns:
        [N, M] K dU~ / dp.
    """
    rounded = np.asarray(utilities).astype(np.float64).round(ROUNDED)
    kinds = np.unique(rounded)
    result = np.zeros(rounded.shape)
    for rows in _blocks(rounded.shape, k * (len(kinds) + 1)):
        result[rows] = _form_b(rounded[rows].T, np.asarray(exists[rows], np.float64).T, k, kinds).T
    return result


def _form_b(u: Floats, p: Floats, k: int, kinds: Floats) -> Floats:
    count, width = u.shape
    # Of items i..M: exactly j exist [M + 1, k, n]; the j-th that exists is worth e [M + 1, k + 1, E, n].
    behind, nth = np.zeros((count + 1, k, width)), np.zeros((count + 1, k + 1, len(kinds), width))
    behind[count, 0] = 1.0
    for i in range(count - 1, -1, -1):
        behind[i] = (1 - p[i]) * behind[i + 1]
        behind[i, 1:] += p[i] * behind[i + 1, :-1]
        nth[i, 1:] = (1 - p[i]) * nth[i + 1, 1:]
        nth[i, 2:] += p[i] * nth[i + 1, 1:-1]
        nth[i, 1] += p[i] * (u[i] == kinds[:, None])
    result, before = np.zeros((count, width)), np.zeros((k, width))
    before[0] = 1.0
    for i in range(count):
        few = sum((before[: n + 1] * behind[i + 1, n::-1]).sum(0) for n in range(k))  # G1: n < K others exist
        displaced = (before[:, None] * nth[i + 1, k:0:-1]).sum(0)  # [E, n] P(i displaces one that is worth e)
        result[i] = u[i] * few + ((u[i] - kinds[:, None]) * displaced).sum(0)
        moved = p[i] * before
        before = before - moved
        before[1:] += moved[:-1]
    return result


def gradient_by_enumeration(utilities: np.ndarray, exists: np.ndarray, k: int) -> Floats:
    """The same by all 2^M sub-corpora, for lists of a dozen items at most."""
    result = np.zeros(utilities.shape)
    for row, (u, p) in enumerate(zip(utilities, exists, strict=True)):
        for chosen in product((0, 1), repeat=len(u)):
            worth = used(np.array([chosen], bool), k)[0] @ u
            chances = np.where(chosen, p, 1 - p)
            for i, here in enumerate(chosen):
                result[row, i] += (1 if here else -1) * worth * np.delete(chances, i).prod()
    return result


def used(exists: np.ndarray, k: int) -> NDArray[np.bool_]:
    """[N, M] which items a model uses: the first K that exist, of [N, M] bool."""
    return exists & (exists.cumsum(1) <= k)


def differences(utilities: np.ndarray, exists: np.ndarray, k: int) -> Floats:
    """[N, M] what each item adds to K times the utility of one sub-corpus, [N, M] bool, or takes from it if absent."""
    order = exists.cumsum(1)
    before = order - exists

    def worth(place: int) -> Floats:
        """[N, 1] of the item that is the `place`-th to exist; 0 if fewer do."""
        return (utilities * (exists & (order == place))).sum(1, keepdims=True)

    # Without i the K-th of the others is used: of all that exist the K + 1st if i is one of the first K, else the K-th.
    return (before < k) * (utilities - np.where(exists, worth(k + 1), worth(k)))


def draws_needed(epsilon: float, delta: float) -> int:
    """Draws after which a mean of values in [-1, 1] is off by more than epsilon with probability delta at most.

    By Hoeffding: width^2 ln(2 / delta) / (2 epsilon^2), with a width of 2.
    """
    return ceil(2 * log(2 / delta) / epsilon**2)


def sampled_gradient(utilities: np.ndarray, exists: np.ndarray, k: int, draws: int, rng: np.random.Generator) -> Floats:
    """[N, M] estimate of K dU~ / dp from so many sub-corpora."""
    total = np.zeros(utilities.shape)
    for _ in range(draws):
        total += differences(utilities, rng.random(utilities.shape, np.float32) < exists, k)
    return total / draws


@dataclass(frozen=True)
class Sources:
    """Who an item comes from.

    Attributes:
        passage: int [N, M] number of the passage, -1 where a list has ended.
        of_passage: int [passages] number of its source.
        count: How many sources there are.
    """

    passage: NDArray[np.int64]
    of_passage: NDArray[np.int64]
    count: int

    @property
    def of_item(self) -> NDArray[np.int64]:
        """int [N, M] number of the source, -1 where a list has ended."""
        return np.where(self.passage >= 0, self.of_passage[self.passage], -1)

    def mean(self, values: np.ndarray, missing: float = 0.0) -> Floats:
        """[sources] mean of values [N, M] over the items of each; `missing` where it has none."""
        items = self.of_item
        there = items >= 0
        counts = np.bincount(items[there], minlength=self.count)
        sums = np.bincount(items[there], values[there], minlength=self.count)
        return np.where(counts > 0, sums / np.maximum(counts, 1), missing)


class Learnt(NamedTuple):
    """Weights after the last step.

    Attributes:
        weights: [sources] in [0, 1]; where no item is of a source, what it began with.
        utilities: [steps] mean of U~ over questions before each step.
    """

    weights: Floats
    utilities: Floats


def ascend(
    utilities: np.ndarray,
    sources: Sources,
    k: int,
    slope: Callable[[np.ndarray, np.ndarray, int], Floats] = gradient,
    *,
    steps: int = 50,
    rate: float = 0.2,
    grouping: str = "mean_after_step",
    start: float = 0.5,
) -> Learnt:
    """Projected gradient ascent of the mean U~ over the weights of sources.

    Args:
        utilities: [N, M].
        sources: Of the items.
        k: How many items are used.
        slope: (utilities, p, K) -> K dU~ / dp.
        steps: How many.
        rate: Of a step, times N K / 1 of the gradient of the mean: the same for any number of questions and items.
        grouping: "mean_after_step": each passage takes its own step, then sources become the mean of their passages;
            "shared": one parameter a source, whose derivative is the mean over its items.
        start: Weight of all before the first step.
    """
    item = sources.of_item
    there = item >= 0
    passages, place = np.unique(sources.passage[there], return_inverse=True)
    of_passage = sources.of_passage[passages]
    members = np.maximum(np.bincount(of_passage, minlength=sources.count), 1)
    weights, course = np.full(sources.count, start), np.zeros(steps)
    retrieved = np.bincount(of_passage, minlength=sources.count) > 0
    for step in range(steps):
        exists = np.where(there, weights[item], 0.0)
        course[step] = utility(utilities, exists, k).mean()
        slopes = slope(utilities, exists, k)
        if grouping == "shared":
            weights = np.clip(weights + rate * sources.mean(slopes), 0, 1)
            continue
        each = np.clip(weights[of_passage] + rate * np.bincount(place, slopes[there]), 0, 1)
        means = np.bincount(of_passage, each, minlength=sources.count) / members
        weights = np.where(retrieved, means, weights)
    return Learnt(weights, course)


def _blocks(shape: tuple[int, ...], k: int) -> Iterator[slice]:
    """Questions of lists [N, M] in blocks whose arrays [M, K, n] stay below `BLOCK` numbers."""
    count, length = shape
    size = max(BLOCK // max(length * k, 1), 1)
    for start in range(0, count, size):
        yield slice(start, start + size)
