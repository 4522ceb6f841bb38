"""Learning curves of a run or trial: what was measured in training, over the steps."""

import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

from recipes.core.report.charts import (
    LARGE,
    SMALL,
    STEPS,
    Chart,
    Frame,
    Series,
    geometry,
    value_axis,
    value_limits,
    with_names,
)
from recipes.core.runs.folder import RunFolder
from recipes.core.runs.records import RunRecord
from recipes.core.statistics.texts import number_text


def read_curves(run: RunRecord) -> dict[str, dict[int, float]]:
    """Metric -> step -> value of a run's evaluations. A step measured again after a resume counts once."""
    curves: dict[str, dict[int, float]] = {}
    for step, metrics in RunFolder(run.path).read_metrics("eval"):
        for name, value in metrics.items():
            if math.isfinite(value):
                curves.setdefault(name, {})[step] = value
    return curves


def closest_first(names: Iterable[str], main_metric: str) -> list[str]:
    """Metrics ordered by how much of their name they share with the main metric, which may not be one of them."""
    return sorted(names, key=lambda name: (name != main_metric, -len(os.path.commonprefix([name, main_metric]))))


def learning_curves(run: RunRecord, baseline: RunRecord | None, info: dict[str, Any], main_metric: str) -> list[Chart]:
    """One chart per evaluated metric; first, and larger, the one closest in name to the main metric.

    Args:
        run: The arm's run.
        baseline: The run beside it, if there is one.
        info: Titles and directions of metrics, as of `metrics_info.json`.
        main_metric: Name of the main metric; it may be an area under one of the curves and not a curve itself.
    """
    sources = [(run.arm, "arm", read_curves(run))]
    if baseline is not None:
        sources.append((baseline.arm, "baseline", read_curves(baseline)))
    charts: list[Chart] = []
    longest = max(len(arm) for arm, _, _ in sources)
    for name in closest_first(sources[0][2], main_metric):
        series = [Series(arm, role, sorted(curves[name].items())) for arm, role, curves in sources if name in curves]
        charts.append(chart(name, series, info.get(name, {}), with_names(LARGE, longest) if not charts else SMALL))
    return charts


def chart(
    name: str,
    series: Sequence[Series],
    info: dict[str, Any],
    frame: Frame,
    limits: tuple[float, float] | None = None,
) -> Chart:
    """One metric's curves.

    Args:
        name: The metric.
        series: What to draw, each with at least one point.
        info: Its entry of `metrics_info.json`.
        frame: Size of the chart.
        limits: Smallest and largest value shown; those of the series if left out.
    """
    last = max(step for one in series for step, _ in one.points)
    steps = value_axis(0, last, max(3, round(frame.width / 120)), whole=True)
    values = value_axis(*(limits or value_limits(series)), 5 if frame.height > SMALL.height else 4)
    note = {True: "higher is better", False: "lower is better", None: ""}[info.get("higher_is_better")]
    title, words = info.get("title", name), "; ".join(map(_in_words, series))
    return Chart(name, title, note, words, STEPS, frame, *geometry(series, frame, steps, values))


def _in_words(series: Series) -> str:
    (first, start), (last, end) = series.points[0], series.points[-1]
    return f"{series.arm} from {number_text(start)} at step {first:.0f} to {number_text(end)} at step {last:.0f}"
