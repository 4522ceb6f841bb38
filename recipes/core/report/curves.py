"""Learning curves as geometry for inline SVG: colours stay in the style sheet, so both themes work."""

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from recipes.core.compare import number_text
from recipes.core.records import RunRecord
from recipes.core.runs import RunFolder

LABEL_GAP = 15.0  # least distance of two labels at the ends of lines, in SVG units


@dataclass(frozen=True)
class Frame:
    """Size of a chart and the margins around its plot, in SVG units."""

    width: float
    height: float
    left: float = 46
    right: float = 14
    top: float = 12
    bottom: float = 40

    @property
    def plot_right(self) -> float:
        """Right edge of the plot."""
        return self.width - self.right

    @property
    def plot_bottom(self) -> float:
        """Lower edge of the plot."""
        return self.height - self.bottom


LARGE = Frame(960, 350, right=104)
SMALL = Frame(290, 190)


@dataclass(frozen=True)
class Line:
    """One arm's curve. `points` are (x, y, step, value); `label_y` is where its name stands at the right end."""

    arm: str
    role: str
    points: list[tuple[float, float, int, float]]
    label_y: float

    @property
    def path(self) -> str:
        """The `points` attribute of an SVG polyline."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in self.points)


@dataclass(frozen=True)
class Chart:
    """One metric over the steps, for both arms."""

    metric: str
    title: str
    note: str
    frame: Frame
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[Line]

    @property
    def description(self) -> str:
        """The chart in words, for people who do not see it."""
        return "; ".join(
            f"{line.arm} from {number_text(line.points[0][3])} at step {line.points[0][2]}"
            f" to {number_text(line.points[-1][3])} at step {line.points[-1][2]}"
            for line in self.lines
        )

    @property
    def table(self) -> list[tuple[int, list[str]]]:
        """(step, value of each line) for the table under the chart."""
        values = [{step: value for _, _, step, value in line.points} for line in self.lines]
        steps = sorted({step for line in values for step in line})
        return [(step, [number_text(line[step]) if step in line else "" for line in values]) for step in steps]


def read_curves(run: RunRecord) -> dict[str, dict[int, float]]:
    """Metric -> step -> value of a run's evaluations. A step measured again after a resume counts once."""
    curves: dict[str, dict[int, float]] = {}
    for step, metrics in RunFolder(run.path).read_metrics("eval"):
        for name, value in metrics.items():
            if math.isfinite(value):
                curves.setdefault(name, {})[step] = value
    return curves


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
    names = sorted(sources[0][2], key=lambda name: -len(os.path.commonprefix([name, main_metric])))
    charts: list[Chart] = []
    for name in names:
        series = [(arm, role, curves[name]) for arm, role, curves in sources if name in curves]
        charts.append(_chart(name, series, info.get(name, {}), LARGE if not charts else SMALL))
    return charts


def _chart(name: str, series: list[tuple[str, str, dict[int, float]]], info: dict[str, Any], frame: Frame) -> Chart:
    steps = [step for _, _, curve in series for step in curve]
    values = [value for _, _, curve in series for value in curve.values()]
    x_low, x_high, x_marks = _axis(0, max(steps), 6 if frame is LARGE else 4)
    y_low, y_high, y_marks = _axis(min(values), max(values), 5 if frame is LARGE else 4)

    def x_of(step: float) -> float:
        return frame.left + (step - x_low) / (x_high - x_low) * (frame.plot_right - frame.left)

    def y_of(value: float) -> float:
        return frame.plot_bottom - (value - y_low) / (y_high - y_low) * (frame.plot_bottom - frame.top)

    points = [[(x_of(step), y_of(curve[step]), step, curve[step]) for step in sorted(curve)] for _, _, curve in series]
    labels = _spread([line[-1][1] for line in points])
    lines = [Line(arm, role, line, label) for (arm, role, _), line, label in zip(series, points, labels, strict=True)]
    note = {True: "higher is better", False: "lower is better", None: ""}[info.get("higher_is_better")]
    x_ticks = [(x_of(mark), f"{mark:,.0f}") for mark in x_marks]
    y_ticks = [(y_of(mark), f"{mark:.6g}") for mark in y_marks]
    return Chart(name, info.get("title", name), note, frame, x_ticks, y_ticks, lines)


def _axis(low: float, high: float, ticks: int) -> tuple[float, float, list[float]]:
    """Limits that hold the data with a margin, and round ticks between them."""
    if high == low:
        low, high = low - max(abs(low), 1) * 0.1, high + max(abs(high), 1) * 0.1
    margin = 0.04 * (high - low)
    start, end = (low, high) if low == 0 else (low - margin, high + margin)
    marks = np.round(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]).tick_values(start, end), 12)
    return start, end, [float(mark) for mark in marks if start <= mark <= end]


def _spread(heights: list[float]) -> list[float]:
    """Label positions near the ends of their lines, moved apart where they would overlap."""
    if len(heights) < 2 or abs(heights[0] - heights[1]) >= LABEL_GAP:
        return heights
    middle = sum(heights) / 2
    upper = 0 if heights[0] <= heights[1] else 1
    return [middle - LABEL_GAP / 2 if index == upper else middle + LABEL_GAP / 2 for index in range(2)]
