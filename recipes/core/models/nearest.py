"""Exact nearest neighbours: the k keys with the largest product with a query, block by block with a running best."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recipes.core.errors import UserError

BLOCK = 4096  # keys, and queries, that are compared at once: 64 MiB of scores
LONGEST = 1e18  # of a vector, so that products stay finite in float32
Vectors = Tensor | np.ndarray


class Nearest(NamedTuple):
    """The keys nearest to each query, the best first.

    Attributes:
        scores: float32 [queries, k]
        indices: int64 [queries, k] numbers of the keys, counted over all blocks.
    """

    scores: Tensor
    indices: Tensor


@torch.no_grad()
def nearest(
    queries: Vectors,
    keys: Vectors | Iterable[Vectors],
    k: int,
    *,
    cosine: bool = False,
    exclude: tuple[Vectors, Vectors] | None = None,
    fewer: bool = False,
    block: int = BLOCK,
    device: str = "cpu",
) -> Nearest:
    """The k keys with the largest score for each query; of keys with equal scores those that come first.

    Scores are float32 and computed in blocks: memory grows with `block` squared, never with queries times keys. A key
    that is stored twice has equal scores as far as the matrix product gives equal numbers for equal rows.

    Args:
        queries: [Q, d]
        keys: [N, d], in memory or mapped from a file, or blocks [n, d] in order, which are read once.
        k: How many.
        cosine: Whether scores are cosines, 0 for a vector of zeros; else inner products.
        exclude: Number of the group of each query [Q], or of several [Q, g], and of each key [N]; a key of a group of
            the query's is not counted, such as the parts of the query's own document.
        fewer: Whether a query may have fewer than k keys: what is missing has the score -inf and the number -1.
        block: Keys and queries that are compared at once.
        device: Where to compute; the result is on the CPU.

    Raises:
        UserError: a value is not finite or too large for products in float32, or a query has fewer than k keys.
        ValueError: k or block is below 1, or there are not as many groups as queries and keys.
    """
    if k < 1 or block < 1:
        raise ValueError(f"k={k}, block={block}: both are at least 1")
    asked = _prepare(queries, cosine, "query", 0)
    owners, groups = (None, None) if exclude is None else map(torch.as_tensor, exclude)
    if owners is not None and len(owners) != len(asked):
        raise ValueError(f"there are groups of {len(owners)} queries for {len(asked)}")
    best = Nearest(torch.full((len(asked), k), -torch.inf), torch.full((len(asked), k), -1))
    for start, part in _blocks(keys, block, None if groups is None else len(groups)):
        tried = _prepare(part, cosine, "key", start).to(device)
        numbers = torch.arange(start, start + len(tried))
        for at in range(0, len(asked), block):
            rows = slice(at, at + block)
            scores = asked[rows].to(device) @ tried.T
            if owners is not None and groups is not None:
                _leave_out(scores, owners[rows], groups[numbers])
            _improve(best, at, scores, numbers)
    if not fewer:
        _check_all_have(best)
    return best


def _leave_out(scores: Tensor, owners: Tensor, groups: Tensor) -> None:
    """Set scores [rows, n] to -inf where a key's group [n] is one of a query's, [rows] or [rows, g], in place."""
    # Few queries have a group among the keys of a block: only their rows are looked through.
    rows = torch.isin(owners, groups).reshape(len(owners), -1).any(1).nonzero().squeeze(1)
    if not len(rows):
        return
    same = torch.zeros(len(rows), len(groups), dtype=torch.bool)
    for column in owners[rows].reshape(len(rows), -1).T:
        same |= column[:, None] == groups
    places = rows.to(scores.device)
    scores[places] = scores[places].masked_fill_(same.to(scores.device), -torch.inf)


def _blocks(keys: Vectors | Iterable[Vectors], block: int, count: int | None) -> Iterator[tuple[int, Vectors]]:
    """Pieces of at most `block` keys with the number of the first; they must be `count` in all, if it is known."""
    start = 0
    for part in [keys] if isinstance(keys, Tensor | np.ndarray) else keys:
        for at in range(0, len(part), block):
            piece = part[at : at + block]
            if count is not None and start + len(piece) > count:
                raise ValueError(f"there are groups of {count} keys, and more keys")
            yield start, piece
            start += len(piece)
    if count is not None and start != count:
        raise ValueError(f"there are groups of {count} keys for {start}")


def _check_all_have(best: Nearest) -> None:
    counts = (best.indices >= 0).sum(1)
    short = (counts < best.indices.shape[1]).nonzero()
    if len(short):
        row = int(short[0])
        what = f"there are only {int(counts[row])} keys to choose {best.indices.shape[1]} from"
        raise UserError(what, f"query {row}", "ask for fewer, or give more keys")


def _prepare(vectors: Vectors, cosine: bool, what: str, start: int) -> Tensor:
    rows = torch.as_tensor(np.array(vectors) if isinstance(vectors, np.ndarray) else vectors).float()
    if cosine:  # the largest entry is 1 before squares are taken, which leave float32 of very large or small ones
        rows = rows / rows.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    right = rows.norm(dim=1) < LONGEST
    if not bool(right.all()):
        raise UserError("has values that are not finite, or too large", f"{what} {start + int(right.int().argmin())}")
    return functional.normalize(rows, dim=1) if cosine else rows


def _improve(best: Nearest, start: int, scores: Tensor, numbers: Tensor) -> None:
    """Merge the scores [rows, n] of the next keys into the best of the queries from `start` on, in place."""
    k = best.scores.shape[1]
    # An equal score does not displace an earlier key: rows without a larger one than their last stay as they are.
    better = scores.amax(1).cpu() > best.scores[start : start + len(scores), -1]
    if not bool(better.all()):
        scores = scores[better.to(scores.device)]
    rows = start + better.nonzero().squeeze(1)
    values, columns = _top(scores, min(k, scores.shape[1]))
    indices = numbers[columns.cpu()].masked_fill(values.cpu() == -torch.inf, -1)
    # Keys of earlier blocks stand in front: a stable sort leaves them there where scores are equal.
    values, indices = torch.cat([best.scores[rows], values.cpu()], 1), torch.cat([best.indices[rows], indices], 1)
    order = values.argsort(dim=1, descending=True, stable=True)[:, :k]
    best.scores[rows], best.indices[rows] = values.gather(1, order), indices.gather(1, order)


def _top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`torch.topk` [rows, k] with the first columns of those that are equal, in rising order."""
    values, columns = scores.topk(min(k + 1, scores.shape[1]), 1)
    # topk takes any of the columns whose score is the k-th; where there are more, a stable sort takes the first.
    more = values[:, -1] == values[:, k - 1] if scores.shape[1] > k else torch.zeros_like(values[:, 0]).bool()
    columns = columns[:, :k].clone()
    if bool(more.any()):
        columns[more] = scores[more].argsort(dim=1, descending=True, stable=True)[:, :k]
    columns = columns.sort(1).values
    order = scores.gather(1, columns).argsort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, order)
    return scores.gather(1, columns), columns
