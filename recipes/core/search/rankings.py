"""An order of passages for each query, and the files in which TREC keeps them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recipes.core.data.files.tables import reading
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.search.collection import Passages, Queries
from recipes.core.storage.files import home_path, write_text

FILE = "run.trec"
LARGEST = 1e37  # score, so that all of a ranking fall in single precision


@dataclass(frozen=True)
class Ranking:
    """Passages of one query, the best first.

    Attributes:
        passages: int64 [k] their numbers, each once.
        scores: float64 [k], non-increasing.
    """

    passages: NDArray[np.int64]
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.passages)

    def first(self, count: int) -> "Ranking":
        """Its first passages."""
        return Ranking(self.passages[:count], self.scores[:count])

    def reordered(self, order: Sequence[int] | np.ndarray, scores: Sequence[float] | np.ndarray) -> "Ranking":
        """The same passages by scores of somebody else.

        Args:
            order: [k] places of its passages, from 0, in their new order.
            scores: [k] in that order, non-increasing.
        """
        return Ranking(self.passages[np.asarray(order, np.int64)], np.asarray(scores, np.float64))


def by_scores(passages: Sequence[int] | np.ndarray, scores: Sequence[float] | np.ndarray) -> Ranking:
    """Passages [k] by falling scores [k]; of equal scores the first stays in front."""
    values = np.asarray(scores, np.float64)
    order = np.argsort(-values, kind="stable")
    return Ranking(np.asarray(passages, np.int64)[order], values[order])


def best(scores: np.ndarray, count: int) -> Ranking:
    """At most so many passages with a score above 0, of scores [passages] of all; of equal ones the first."""
    hits = np.flatnonzero(scores > 0)
    if len(hits) > count:
        edge = np.partition(scores[hits], len(hits) - count)[len(hits) - count]
        hits = hits[scores[hits] >= edge]
    return by_scores(hits, scores[hits]).first(count)


def falling(scores: np.ndarray) -> NDArray[np.float32]:
    """[k] float32 that fall strictly and lie as near to non-increasing scores as they can.

    Who reads a run sorts it by score and breaks ties by id, in single precision: equal scores would change the order.
    """
    values = np.asarray(scores, np.float64).astype(np.float32)
    for place in range(1, len(values)):
        if not values[place] < values[place - 1]:
            values[place] = np.nextafter(values[place - 1], np.float32(-np.inf))
    return values


def write_run(path: Path, rankings: Sequence[Ranking], queries: Queries, passages: Passages, tag: str) -> None:
    """A TREC run: a line for each passage of each query, `query Q0 passage rank score tag`.

    Args:
        path: The file.
        rankings: One for each query.
        queries: What was asked.
        passages: What was ranked.
        tag: What made the run, without spaces.
    """
    lines = []
    for id, ranking in zip(queries.ids, rankings, strict=True):
        rows = zip(ranking.passages, falling(ranking.scores), strict=True)
        lines += [f"{id} Q0 {passages.ids[n]} {rank} {score!s} {tag}" for rank, (n, score) in enumerate(rows, 1)]
    write_text(path, "\n".join(lines) + "\n" if lines else "")


def read_run(path: str, key: str, queries: Queries, passages: Passages) -> list[Ranking]:
    """The rankings of a TREC run, sorted by score; of equal scores the lower rank stays in front.

    Args:
        path: The file.
        key: Config key that it came from.
        queries: Those to read; others of the run are left out, and one that the run lacks has no passage.
        passages: The collection.

    Raises:
        UserError: the file cannot be read, is no run, or one of another collection.
    """
    file, where = home_path(path), f"{key}={path}"
    if not file.is_file():
        raise UserError("there is no such file", where, "give a TREC run: query Q0 passage rank score tag on each line")
    rows: dict[str, list[tuple[float, int, int]]] = {id: [] for id in queries.ids}
    with reading(file):
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        query, passage, rank, score = _cells(line, where, number)
        if query not in rows:
            continue
        if passage not in passages.number_of:
            what = f"line {number} ranks the passage {passage!r}, which the collection does not have"
            raise UserError(what, where, "it is a run of another collection")
        rows[query].append((-score, rank, passages.number_of[passage]))
    if not any(rows.values()):
        raise UserError("ranks passages for no query of the collection", where, "it is a run of another collection")
    if absent := sum(not each for each in rows.values()):
        note(f"warning: {where}: {absent:,} of {len(rows):,} queries are not in the run, and have no candidates")
    return [_ranking(sorted(rows[id]), id, where) for id in queries.ids]


def _cells(line: str, where: str, number: int) -> tuple[str, str, int, float]:
    cells = line.split()
    try:
        if len(cells) != 6:
            raise ValueError
        score = float(cells[4])
        if not abs(score) < LARGEST:
            raise ValueError
        return cells[0], cells[2], int(cells[3]), score
    except ValueError:
        hint = "a line is: query Q0 passage rank score tag"
        raise UserError(f"line {number} is no line of a TREC run: {line[:60]!r}", where, hint) from None


def _ranking(rows: list[tuple[float, int, int]], query: str, where: str) -> Ranking:
    numbers = [passage for _, _, passage in rows]
    if len(set(numbers)) < len(numbers):
        raise UserError(f"ranks a passage twice for the query {query!r}", where, "give each passage once")
    return Ranking(np.array(numbers, np.int64), np.array([-score for score, _, _ in rows], np.float64))
