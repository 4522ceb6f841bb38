"""Results as CSV, numbers unrounded: one line for each arm and metric, and one for each run and metric."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

from recipes.core.runs.records import seconds_taken
from recipes.core.trial.report.arms import Arm, Metric
from recipes.core.trial.report.tables import ResultTable

ARM_COLUMNS = (
    *("recipe", "arm", "role", "metric", "title", "higher_is_better", "seeds", "mean", "deviation"),
    *("difference", "low", "high", "level", "unit", "n", "p_holm", "outcome", "seconds", "cost"),
)
RUN_COLUMNS = ("arm", "seed", "metric", "value")
SECONDS = "seconds"  # the metric that holds how long a run took


def arms_csv(table: ResultTable) -> str:
    """`ARM_COLUMNS` of every arm and metric; what was not measured has no line, what is not known an empty cell."""
    lines = []
    for row in table.rows:
        for metric, value in zip(table.metrics, row.values, strict=True):
            if value is None:
                continue
            interval = value.interval
            ends = [interval.low, interval.high, interval.level] if interval else [None] * 3
            lines.append(
                [table.recipe, row.arm, row.role, metric.name, metric.title, metric.higher_is_better, len(row.seeds)]
                + [value.mean, value.deviation, value.difference, *ends, value.unit, value.number or None]
                + [value.p_value, value.outcome, row.seconds, row.cost]
            )
    return _csv(ARM_COLUMNS, lines)


def runs_csv(arms: Sequence[Arm], metrics: Sequence[Metric]) -> str:
    """`RUN_COLUMNS` of every finished run; `seconds` is the metric of its time, if it was not cut off."""
    lines: list[list[Any]] = []
    for arm in arms:
        for seed, run in sorted(arm.runs.items()):
            final = arm.finals[seed]
            lines += [[arm.name, seed, one.name, final[one.name]] for one in metrics if one.name in final]
            seconds = seconds_taken(run.path)
            lines += [] if seconds is None else [[arm.name, seed, SECONDS, seconds]]
    return _csv(RUN_COLUMNS, lines)


def _csv(columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in line] for line in lines)
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if isinstance(value, float) and math.isnan(value) else value
