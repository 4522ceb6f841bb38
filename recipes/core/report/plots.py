"""A recipe's own pictures: charts of the page with their numbers in a table below, and files by matplotlib."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.core.evaluation.plots import Plot, read_plots
from recipes.core.report.charts import MARKED, Chart, Frame, Series, geometry, value_axis, value_limits
from recipes.core.report.colors import GRID, INK, MUTED
from recipes.core.statistics.texts import number_text

COLORS = ("#0b6e7f", "#b3541e", "#5b4b9a", "#1a7f45", "#b3261e", "#8a6d00", "#2456a6", "#a3357a", "#5d6673", "#3f7d20")
DASHES = ("-", "--", ":", "-.")
ROWS = 40  # of the table under a picture
MANY = 8  # series that a legend beside the axes has room for; of more only the first two have bands
COLUMNS, LINE = 4, 0.19  # of a legend below the axes: series in a line, inches of a line
FRAME = Frame(440, 270, right=18)
PLACES = 28  # looks of lines in the style sheet


@dataclass(frozen=True)
class Picture:
    """A plot as the page shows it: a chart, and (series, x, y) of its points; `cut` rows are left out."""

    plot: Plot
    chart: Chart | None
    rows: list[tuple[str, str, str]]
    cut: int


def pictures(folder: Path) -> list[Picture]:
    """The pictures of a run; empty if its recipe has none."""
    return as_pictures(read_plots(folder))


def as_pictures(plots: Sequence[Plot]) -> list[Picture]:
    """Plots as a page shows them."""
    shown = []
    for plot in plots:
        rows = [(label, number_text(x), number_text(y)) for label, points in plot.series.items() for x, y in points]
        shown.append(Picture(plot, plot_chart(plot), rows[:ROWS], max(len(rows) - ROWS, 0)))
    return shown


def plot_chart(plot: Plot) -> Chart | None:
    """A plot as a chart of a page; None without points that can be drawn. Of many series only the first two have bands.

    Each series has the colour and dashes of its place.
    """
    many = sum(map(bool, plot.series.values())) > MANY
    series = [
        Series(label, "series", shown, _edges(plot, label) if index < 2 or not many else (), index % PLACES + 1)
        for index, (label, points) in enumerate(plot.series.items())
        if (shown := [point for point in points if _can_stand(point, plot.y_log)])
    ]
    if not series:
        return None
    across = [x for one in series for x, _ in one.points]
    x = value_axis(min(across), max(across), 6)
    y = value_axis(*value_limits(series), 5, log=plot.y_log)
    ticks_and_lines = geometry(series, FRAME, x, y)
    dots = plot.kind == "scatter"
    return Chart(plot.name, plot.title, plot.y_label, _in_words(plot), plot.x_label, FRAME, *ticks_and_lines, dots)


def _edges(plot: Plot, label: str) -> list[tuple[float, float, float]]:
    """The band of a series where both of its edges can be drawn."""
    return [
        (x, low, high)
        for x, low, high in plot.bands.get(label, ())
        if _can_stand((x, low), plot.y_log) and _can_stand((x, high), plot.y_log)
    ]


def _can_stand(point: tuple[float, float], y_log: bool) -> bool:
    return all(map(math.isfinite, point)) and (not y_log or point[1] > 0)


def _in_words(plot: Plot) -> str:
    parts = []
    for label, points in plot.series.items():
        if values := [y for _, y in points if math.isfinite(y)]:
            parts.append(f"{label}: {len(points)} points, {number_text(min(values))} to {number_text(max(values))}")
    return f"{plot.title}. {'; '.join(parts)}"


def png(plot: Plot) -> bytes:
    """The picture as PNG."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"text.parse_math": False}):  # names may hold a dollar sign
        _figure(plot).savefig(buffer, format="png", dpi=144)
    return buffer.getvalue()


def _figure(plot: Plot) -> Any:
    from matplotlib.figure import Figure

    shown = sum(map(bool, plot.series.values()))
    lines = -(-shown // COLUMNS) if shown > MANY else 0
    figure = Figure(figsize=(6.2, 3.4 + LINE * lines), layout="constrained", facecolor="white")
    axes = figure.subplots()
    draw_plot(axes, plot, shown > MANY)
    look: dict[str, Any] = {"frameon": False, "labelcolor": INK}
    if lines:
        figure.legend(loc="outside lower center", ncols=COLUMNS, fontsize=7, **look)
    elif shown:
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), **look)
    return figure


def draw_plot(axes: Any, plot: Plot, many: bool = False) -> None:
    """The plot's series into axes of matplotlib.

    Args:
        axes: Where to draw.
        plot: What.
        many: Whether there are so many series that only the first two stand out.
    """
    for index, (label, points) in enumerate(plot.series.items()):
        if not points:
            continue
        x, y = zip(*points, strict=True)
        color = COLORS[index % len(COLORS)]
        if plot.kind == "scatter":
            axes.scatter(x, y, s=10, color=color, alpha=0.6, label=label, linewidths=0)
        else:
            style = DASHES[index // len(COLORS) % len(DASHES)]
            width, mark = (1.0 if many and index > 1 else 1.6), ("o" if len(points) <= MARKED else None)
            axes.plot(x, y, style, color=color, label=label, linewidth=width, marker=mark, markersize=3)
        if (edges := plot.bands.get(label)) and (index < 2 or not many):
            axes.fill_between(*zip(*edges, strict=True), color=color, alpha=0.15, linewidth=0)
    if plot.y_log:
        axes.set_yscale("log")
    axes.set_xlabel(plot.x_label, fontsize=9, color=MUTED)
    axes.set_ylabel(plot.y_label, fontsize=9, color=MUTED)
    axes.tick_params(labelsize=8, colors=MUTED, length=0)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GRID)
