"""Charts of pages as geometry for inline SVG: colours stay in the style sheet, so both themes work."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from recipes.core.statistics.texts import number_text

STEPS = "steps"  # label of the axis of learning curves
LETTER = 7.6  # width of a letter of a name beside its line, in SVG units
MARKED = 12  # points of a series, beyond which they are not marked
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
    """What is drawn of one arm: points, and the band around them where there is one.

    Attributes:
        arm: Its name.
        role: "arm" (the one the page is about), "baseline", "other" (arm), or "series" of a recipe's own plot.
        points: (x, y), in the order in which a line joins them.
        band: (x, lower, upper edge); empty without one.
        place: Number of the arm among the others; its colour and dashes follow from it.
    """

    arm: str
    role: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float, float]] = ()
    place: int = 0


@dataclass(frozen=True)
class Line:
    """One arm's points or curve. `points` are (x, y) on the page and in units of the data; `label_y` is where its name
    stands at the right end.

    `band` holds the corners of the area around it, empty if there is none.
    """

    series: Series
    points: list[tuple[float, float, float, float]]
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
    def dots(self) -> str:
        """The `d` attribute of a path that is a dot at every point."""
        return "".join(f"M{x:.1f} {y:.1f}h0" for x, y, _, _ in self.points)

    @property
    def has_marks(self) -> bool:
        """Whether each point has a mark with its value."""
        return self.role in ("arm", "baseline") or (self.role == "series" and len(self.points) <= MARKED)

    @property
    def area(self) -> str:
        """The `points` attribute of the band's SVG polygon."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.band)


@dataclass(frozen=True)
class Chart:
    """One metric over steps, or any two axes, of all arms shown.

    Attributes:
        metric: Name of the metric.
        title: What is to be seen.
        note: Which direction is better, in words; may be empty.
        description: The chart in words, for people who do not see it.
        x_label: What is below the axis.
        frame: Size and margins.
        x_ticks: (place, text).
        y_ticks: (place, text).
        lines: What is drawn.
        dots: Whether points stand alone, not joined by lines.
    """

    metric: str
    title: str
    note: str
    description: str
    x_label: str
    frame: Frame
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[Line]
    dots: bool = False

    @property
    def table(self) -> list[tuple[str, list[str]]]:
        """(x, value of each line) for the table under the chart; of several values at one x the last."""
        curves = [dict(line.series.points) for line in self.lines]
        bands = [{x: (low, high) for x, low, high in line.series.band} for line in self.lines]
        return [
            (_tick(x), [_value_text(curve, band, x) for curve, band in zip(curves, bands, strict=True)])
            for x in sorted({x for curve in curves for x in curve})
        ]

    def mark_text(self, line: Line, x: float, value: float) -> str:
        """What a mark says when it is pointed at."""
        where = f"step {x:.0f}" if self.x_label == STEPS else f"{self.x_label} {number_text(x)}"
        return f"{line.arm}, {where}: {number_text(value)}".replace("-", "\N{MINUS SIGN}")


def _value_text(curve: dict[float, float], band: dict[float, tuple[float, float]], x: float) -> str:
    """A value, with its band where it has one."""
    if x not in curve:
        return ""
    return number_text(curve[x]) + (" [{}, {}]".format(*map(number_text, band[x])) if x in band else "")


@dataclass(frozen=True)
class Axis:
    """One axis: its limits, its ticks, and whether it is logarithmic."""

    low: float
    high: float
    ticks: list[float]
    log: bool = False

    def share(self, value: float) -> float:
        """How far along the axis a value stands, 0 to 1."""
        low, high, at = map(math.log, (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return (at - low) / (high - low)


def geometry(
    series: Sequence[Series], frame: Frame, x: Axis, y: Axis
) -> tuple[list[tuple[float, str]], list[tuple[float, str]], list[Line]]:
    """Ticks of both axes and lines, in units of the page. The label of a line stands where its last point is."""

    def x_of(value: float) -> float:
        return frame.left + x.share(value) * (frame.plot_right - frame.left)

    def y_of(value: float) -> float:
        return frame.plot_bottom - y.share(value) * (frame.plot_bottom - frame.top)

    points = [[(x_of(left), y_of(up), left, up) for left, up in one.points] for one in series]
    labels = spread([line[-1][1] for line in points], frame.top, frame.plot_bottom)
    bands = [_corners(one, x_of, y_of) for one in series]
    lines = [Line(*parts) for parts in zip(series, points, labels, bands, strict=True)]
    return [(x_of(mark), _tick(mark)) for mark in x.ticks], [(y_of(mark), _tick(mark)) for mark in y.ticks], lines


def _corners(
    series: Series, x_of: Callable[[float], float], y_of: Callable[[float], float]
) -> list[tuple[float, float]]:
    upper = [(x_of(x), y_of(high)) for x, _, high in series.band]
    return upper + [(x_of(x), y_of(low)) for x, low, _ in reversed(series.band)]


def _tick(mark: float) -> str:
    text = f"{mark:,.0f}" if abs(mark) >= 1000 and mark == round(mark) and abs(mark) < 1e6 else f"{mark:.6g}"
    return text.replace("-", "\N{MINUS SIGN}")


def with_names(frame: Frame, longest: int) -> Frame:
    """The frame with room at the right for names of so many letters, a third of its width at most."""
    return replace(frame, right=max(frame.right, min(frame.width / 3, 20 + LETTER * longest)))


def value_limits(series: Sequence[Series]) -> tuple[float, float]:
    """Smallest and largest y, bands included; (0, 0) without points."""
    values = [y for one in series for _, y in one.points] + [
        edge for one in series for _, *both in one.band for edge in both
    ]
    return (min(values), max(values)) if values else (0.0, 0.0)


def axis(low: float, high: float, ticks: int, whole: bool = False) -> tuple[float, float, list[float]]:
    """Limits that hold the data with a margin, and round ticks between them, whole numbers only if asked for."""
    if high == low:
        low, high = low - max(abs(low), 1) * 0.1, high + max(abs(high), 1) * 0.1
    margin = 0.04 * (high - low)
    start, end = (low, high) if low == 0 else (low - margin, high + margin)
    from matplotlib.ticker import MaxNLocator

    marks = np.round(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10], integer=whole).tick_values(start, end), 12)
    return start, end, [float(mark) for mark in marks if start <= mark <= end]


def value_axis(low: float, high: float, ticks: int, log: bool = False, whole: bool = False) -> Axis:
    """The axis that holds values from `low` to `high`, with about so many ticks.

    Args:
        low: Smallest value.
        high: Largest value.
        ticks: How many ticks.
        log: A logarithmic one, of values above zero.
        whole: Only ticks at whole numbers.
    """
    if not log:
        return Axis(*axis(low, high, ticks, whole))
    from matplotlib.ticker import LogLocator

    low, high = low / 1.1, high * 1.1
    marks = LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 100 else (1.0,), numticks=ticks + 2).tick_values(low, high)
    return Axis(low, high, [float(mark) for mark in marks if low <= mark <= high], log=True)


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
        for rank, index in enumerate(members):
            placed[index] = middle + gap * (rank - (len(members) - 1) / 2)
    return placed
