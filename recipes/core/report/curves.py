"""Learning curves as geometry for inline SVG: colours stay in the style sheet, so both themes work."""

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from recipes.core.runs.folder import RunFolder
from recipes.core.runs.records import RunRecord
from recipes.core.statistics.compare import number_text

LETTER = 7.6  # width of a letter of a name beside its line, in SVG units
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
class Series:
    """What is drawn of one arm: step -> value, and the band around it where there is one.

    Attributes:
        arm: Its name.
        role: "arm" (the one the page is about), "baseline" or "other".
        curve: Step -> value.
        low: Step -> lower edge of the band; empty without one.
        high: Step -> its upper edge.
        place: Number of the arm among the others; its colour and dashes follow from it.
    """

    arm: str
    role: str
    curve: dict[int, float]
    low: dict[int, float] = field(default_factory=dict)
    high: dict[int, float] = field(default_factory=dict)
    place: int = 0


@dataclass(frozen=True)
class Line:
    """One arm's curve. `points` are (x, y, step, value); `label_y` is where its name stands at the right end.

    `band` holds the corners of the area around it, empty if there is none.
    """

    series: Series
    points: list[tuple[float, float, int, float]]
    label_y: float
    band: list[tuple[float, float]]

    @property
    def arm(self) -> str:
        """Name of the arm."""
        return self.series.arm

    @property
    def role(self) -> str:
        """What it is on this page."""
        return self.series.role

    @property
    def path(self) -> str:
        """The `points` attribute of an SVG polyline."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in self.points)

    @property
    def area(self) -> str:
        """The `points` attribute of the band's SVG polygon."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.band)


@dataclass(frozen=True)
class Chart:
    """One metric over the steps, of all arms shown."""

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
        curves = [line.series for line in self.lines]
        steps = sorted({step for series in curves for step in series.curve})
        return [(step, [_value_text(series, step) for series in curves]) for step in steps]


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
        series = [Series(arm, role, curves[name]) for arm, role, curves in sources if name in curves]
        charts.append(chart(name, series, info.get(name, {}), with_names(LARGE, longest) if not charts else SMALL))
    return charts


def with_names(frame: Frame, longest: int) -> Frame:
    """The frame with room at the right for names of so many letters, a third of its width at most."""
    return replace(frame, right=max(frame.right, min(frame.width / 3, 20 + LETTER * longest)))


def value_limits(series: Sequence[Series]) -> tuple[float, float]:
    """Smallest and largest value, bands included; (0, 0) without series."""
    values = [value for one in series for part in (one.curve, one.low, one.high) for value in part.values()]
    return (min(values), max(values)) if values else (0.0, 0.0)


def chart(
    name: str,
    series: Sequence[Series],
    info: dict[str, Any],
    frame: Frame,
    limits: tuple[float, float] | None = None,
) -> Chart:
    """One metric's curves as geometry.

    Args:
        name: The metric.
        series: What to draw, each with at least one point.
        info: Its entry of `metrics_info.json`.
        frame: Size of the chart.
        limits: Smallest and largest value shown; those of the series if left out.
    """
    steps = [step for one in series for step in one.curve]
    x_low, x_high, x_marks = axis(0, max(steps), max(3, round(frame.width / 120)), whole=True)
    y_low, y_high, y_marks = axis(*(limits or value_limits(series)), 5 if frame.height > SMALL.height else 4)

    def x_of(step: float) -> float:
        return frame.left + (step - x_low) / (x_high - x_low) * (frame.plot_right - frame.left)

    def y_of(value: float) -> float:
        return frame.plot_bottom - (value - y_low) / (y_high - y_low) * (frame.plot_bottom - frame.top)

    points = [
        [(x_of(step), y_of(one.curve[step]), step, one.curve[step]) for step in sorted(one.curve)] for one in series
    ]
    bands = [
        [(x_of(step), y_of(one.high[step])) for step in sorted(one.high)]
        + [(x_of(step), y_of(one.low[step])) for step in sorted(one.low, reverse=True)]
        for one in series
    ]
    labels = spread([line[-1][1] for line in points], frame.top, frame.plot_bottom)
    lines = [Line(*parts) for parts in zip(series, points, labels, bands, strict=True)]
    note = {True: "higher is better", False: "lower is better", None: ""}[info.get("higher_is_better")]
    x_ticks = [(x_of(mark), f"{mark:,.0f}") for mark in x_marks]
    y_ticks = [(y_of(mark), f"{mark:.6g}".replace("-", "\N{MINUS SIGN}")) for mark in y_marks]
    return Chart(name, info.get("title", name), note, frame, x_ticks, y_ticks, lines)


def axis(low: float, high: float, ticks: int, whole: bool = False) -> tuple[float, float, list[float]]:
    """Limits that hold the data with a margin, and round ticks between them, whole numbers only if asked for."""
    if high == low:
        low, high = low - max(abs(low), 1) * 0.1, high + max(abs(high), 1) * 0.1
    margin = 0.04 * (high - low)
    start, end = (low, high) if low == 0 else (low - margin, high + margin)
    marks = np.round(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10], integer=whole).tick_values(start, end), 12)
    return start, end, [float(mark) for mark in marks if start <= mark <= end]


def spread(heights: Sequence[float], top: float, bottom: float, gap: float = LABEL_GAP) -> list[float]:
    """Label positions near the ends of their lines, moved apart where they would overlap, kept in the plot if they fit.

    Args:
        heights: Where each line ends.
        top: Upper edge of the plot.
        bottom: Its lower edge.
        gap: Least distance of two labels.
    """
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    groups: list[tuple[float, list[int]]] = []  # (middle, labels from the upper to the lower one)
    for index in order:
        middle, members = heights[index], [index]
        while groups and groups[-1][0] + gap * (len(groups[-1][1]) + len(members)) / 2 > middle:
            above, upper = groups.pop()
            middle = (above * len(upper) + middle * len(members)) / (len(upper) + len(members))
            half = gap * (len(upper) + len(members) - 1) / 2
            middle, members = max(top + half, min(bottom - half, middle)), upper + members
        groups.append((middle, members))
    placed = [0.0] * len(heights)
    for middle, members in groups:
        for place, index in enumerate(members):
            placed[index] = middle + gap * (place - (len(members) - 1) / 2)
    return placed


def _value_text(series: Series, step: int) -> str:
    """A value, with its band where it has one."""
    if step not in series.curve:
        return ""
    band = f" [{number_text(series.low[step])}, {number_text(series.high[step])}]" if step in series.low else ""
    return number_text(series.curve[step]) + band
