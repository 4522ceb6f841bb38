"""What finished runs measured, read once, and the examples two of them share."""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from recipes.core.errors import UserError
from recipes.core.runs.records import RunRecord


@dataclass(frozen=True)
class Examples:
    """One metric's columns of `examples.parquet`, each [examples]."""

    ids: NDArray[Any]
    groups: NDArray[Any]
    values: NDArray[np.float64]
    counts: NDArray[np.float64]

    def take(self, rows: NDArray[np.intp]) -> "Examples":
        """These rows, in this order."""
        return Examples(self.ids[rows], self.groups[rows], self.values[rows], self.counts[rows])


@dataclass(frozen=True)
class Measured:
    """A run with all that it measured: per-example scores and final values by metric, and what the metrics mean."""

    run: RunRecord
    examples: dict[str, Examples]
    final: dict[str, float]
    info: dict[str, Any]

    def only(self, metric: str) -> "Measured":
        """This metric alone: a comparison computes nothing of the others."""
        return replace(
            self,
            examples={name: values for name, values in self.examples.items() if name == metric},
            final={name: value for name, value in self.final.items() if name == metric},
        )


def read_measurements(run: RunRecord) -> Measured:
    """Read everything that a comparison needs from the folder of a finished run."""
    return Measured(run, _read_examples(run.path / "examples.parquet"), run.metrics, run.info)


def paired_examples(mine: Measured, theirs: Measured) -> dict[str, tuple[Examples, Examples]]:
    """The examples that both runs scored, by metric, in the same order on both sides.

    Raises:
        UserError: both runs have scores per example, but none in common.
    """
    joined = {
        metric: _join(mine.examples[metric], theirs.examples[metric])
        for metric in mine.examples
        if metric in theirs.examples
    }
    shared = {metric: both for metric, both in joined.items() if len(both[0].ids)}
    if mine.examples and theirs.examples and not shared:
        raise UserError(
            "the two runs have no example in common",
            where=f"{mine.run.path} and {theirs.run.path}",
            hint="run both arms with the same data and evaluation keys",
        )
    return shared


def shared_rows(run: Measured, metric: str, other: str) -> tuple[Examples, Examples] | None:
    """The examples of a run that have both metrics, in the same order; None if there are none."""
    if not {metric, other} <= run.examples.keys():
        return None
    both = _join(run.examples[metric], run.examples[other])
    return both if len(both[0].ids) else None


def final_only(mine: Measured, theirs: Measured) -> list[str]:
    """Metrics that both runs ended with but did not both score per example (areas under curves)."""
    scored = mine.examples.keys() & theirs.examples.keys()
    return [metric for metric in mine.final if metric in theirs.final and metric not in scored]


def _read_examples(path: Path) -> dict[str, Examples]:
    import pyarrow.parquet as pq

    if not path.exists():
        return {}
    with pq.ParquetFile(path) as file:  # `read_table` would import pandas
        table = file.read()
    names, ids, groups, values, counts = (
        table[name].to_numpy(zero_copy_only=False) for name in ("metric", "example", "group", "value", "count")
    )
    everything = Examples(ids.astype(str), groups.astype(str), values, counts)
    examples = {metric: everything.take(np.flatnonzero(names == metric)) for metric in dict.fromkeys(names)}
    return {
        metric: replace(one, ids=_shared(one.ids), groups=_shared(one.groups), counts=_shared(one.counts))
        for metric, one in examples.items()
    }


_known: "WeakValueDictionary[Hashable, NDArray[Any]]" = WeakValueDictionary()


def _shared(column: NDArray[Any]) -> NDArray[Any]:
    """The column or, where one is held that is equal, that one: thousands of runs name the same examples."""
    key = column.dtype.str, len(column), hash(column.tobytes())
    known = _known.get(key)
    if known is not None and np.array_equal(known, column):
        return known
    column.flags.writeable = False
    _known[key] = column
    return column


def _join(mine: Examples, theirs: Examples) -> tuple[Examples, Examples]:
    _, left, right = np.intersect1d(mine.ids, theirs.ids, return_indices=True)
    return mine.take(left), theirs.take(right)
