"""Per-example scores: the raw material of every paired comparison."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.storage.files import write_bytes, write_json

MEANING = "metrics"  # key of the file metadata
COLUMNS = ("metric", "example", "group", "value", "count")


@dataclass(frozen=True)
class Metric:
    """What a metric means: its title for people and which direction is good."""

    title: str
    higher_is_better: bool


@dataclass
class Scores:
    """A long table of (metric, example, group, value, count).

    A metric's overall value is sum(value * count) / sum(count): with count 1 a mean over examples, with token counts
    a mean over tokens. `group` is the source item, the unit that a bootstrap resamples.
    """

    metrics: dict[str, Metric] = field(default_factory=dict)
    rows: list[tuple[str, str, str, float, float]] = field(default_factory=list)

    def define(self, name: str, title: str, higher_is_better: bool) -> None:
        """Say what a metric means, before its first row."""
        self.metrics[name] = Metric(title, higher_is_better)

    def add(self, metric: str, example: str, group: str, value: float, count: float = 1.0) -> None:
        """One example's score. Raises KeyError if the metric was not defined."""
        self.metrics[metric]
        self.rows.append((metric, example, group, float(value), float(count)))

    def overall(self) -> dict[str, float]:
        """Overall value of every metric that has rows."""
        sums: dict[str, np.ndarray] = {}
        for metric, _, _, value, count in self.rows:
            sums.setdefault(metric, np.zeros(2))[:] += (value * count, count)
        return {metric: float(total / count) for metric, (total, count) in sums.items() if count > 0}

    def values(self, metric: str) -> dict[str, float]:
        """Value of each example of a metric."""
        return {example: value for name, example, _, value, _ in self.rows if name == metric}

    def without_empty_rows(self) -> "Scores":
        """The same without rows that count 0, and without the metrics that have only such rows."""
        rows = [row for row in self.rows if row[4]]
        absent = {row[0] for row in self.rows} - {row[0] for row in rows}
        return Scores({name: metric for name, metric in self.metrics.items() if name not in absent}, rows)

    def write(self, folder: Path) -> None:
        """Write `examples.parquet`, if there are any, and `metrics_info.json` (see docs of the run folder)."""
        if self.rows:
            self.write_rows(folder / "examples.parquet")
        write_json(folder / "metrics_info.json", {name: asdict(metric) for name, metric in self.metrics.items()})

    def write_rows(self, path: Path) -> None:
        """Write the table as Parquet, atomically; what the metrics mean stands in the file's metadata."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        *names, values, counts = zip(*self.rows, strict=True) if self.rows else [()] * len(COLUMNS)
        arrays = [_strings(column) for column in names] + [_numbers(column) for column in (values, counts)]
        sink = pa.BufferOutputStream()
        meaning = json.dumps({name: asdict(metric) for name, metric in self.metrics.items()})
        table = pa.Table.from_arrays(arrays, names=list(COLUMNS)).replace_schema_metadata({MEANING: meaning})
        pq.write_table(table, sink)
        write_bytes(path, sink.getvalue().to_pybytes())


def _strings(column: Sequence[str]) -> Any:
    from pyarrow.lib import StringBuilder

    builder = StringBuilder()  # `pyarrow.array` would import pandas
    builder.append_values(column)
    return builder.finish()


def _numbers(column: Sequence[float]) -> Any:
    import pyarrow as pa

    return pa.Array.from_buffers(pa.float64(), len(column), [None, pa.py_buffer(np.array(column, np.float64))])


def add_class_mean(scores: Scores, metric: str, prefix: str, title: str, higher_is_better: bool = True) -> None:
    """Add a metric that is the mean over classes of the metrics `<prefix><class>`.

    An example counts 1 / (examples of its class), so the mean over classes is a weighted mean over examples, and can
    be paired and resampled like any other.
    """
    rows = [row for row in scores.rows if row[0].startswith(prefix)]
    if not rows:
        return
    sizes = Counter(row[0] for row in rows)
    scores.define(metric, title, higher_is_better)
    for name, example, group, value, _ in rows:
        scores.add(metric, example, group, value, 1 / sizes[name])


def read_rows(path: Path) -> Scores:
    """Scores from a table that `write_rows` wrote."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:  # `read_table` would import pandas
        table = file.read()
    columns = table.to_pydict()
    meaning = json.loads((table.schema.metadata or {}).get(MEANING.encode(), b"{}"))
    metrics = {name: Metric(**entry) for name, entry in meaning.items()}
    return Scores(metrics, list(zip(*(columns[name] for name in COLUMNS), strict=True)))
