"""A recipe's own pictures in the report: drawn as SVG, with their numbers in a table below."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.core.evaluation.plots import Plot, read_plots
from recipes.core.report.colors import GRID, INK, MUTED
from recipes.core.statistics.compare import number_text

COLORS = ("#0b6e7f", "#b3541e", "#5b4b9a", "#1a7f45", "#b3261e", "#8a6d00", "#2456a6", "#a3357a", "#5d6673", "#3f7d20")
DASHES = ("-", "--", ":", "-.")
ROWS = 40  # of the table under a picture
MANY = 8  # series that a legend beside the axes has room for; of more only the first two have bands
COLUMNS, LINE = 4, 0.19  # of a legend below the axes: series in a line, inches of a line
MARKED = 12  # points of a line, beyond which they are not marked


@dataclass(frozen=True)
class Picture:
    """A plot as the page shows it: an SVG element, and (series, x, y) of its points; `cut` rows are left out."""

    plot: Plot
    svg: str
    rows: list[tuple[str, str, str]]
    cut: int

    @property
    def description(self) -> str:
        """The plot in words, for people who do not see it."""
        parts = [
            f"{label}: {len(points)} points, {number_text(min(y for _, y in points))} to "
            f"{number_text(max(y for _, y in points))}"
            for label, points in self.plot.series.items()
            if points
        ]
        return f"{self.plot.title}. {'; '.join(parts)}"


def pictures(folder: Path) -> list[Picture]:
    """The pictures of a run; empty if its recipe has none."""
    return drawn(read_plots(folder))


def drawn(plots: Sequence[Plot]) -> list[Picture]:
    """Plots as a page shows them."""
    found = []
    for plot in plots:
        rows = [(label, number_text(x), number_text(y)) for label, points in plot.series.items() for x, y in points]
        found.append(Picture(plot, _svg(plot), rows[:ROWS], max(len(rows) - ROWS, 0)))
    return found


def png(plot: Plot) -> bytes:
    """The picture as PNG."""
    buffer = io.BytesIO()
    _figure(plot).savefig(buffer, format="png", dpi=144)
    return buffer.getvalue()


def _svg(plot: Plot) -> str:
    """An `svg` element: white paper in either theme, text kept as text."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"steelyard-{plot.name}"}):
        _figure(plot).savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace("<svg ", '<svg aria-hidden="true" ', 1)


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
    for place, (label, points) in enumerate(plot.series.items()):
        if not points:
            continue
        x, y = zip(*points, strict=True)
        color = COLORS[place % len(COLORS)]
        if plot.kind == "scatter":
            axes.scatter(x, y, s=10, color=color, alpha=0.6, label=label, linewidths=0)
        else:
            style = DASHES[place // len(COLORS) % len(DASHES)]
            width, mark = (1.0 if many and place > 1 else 1.6), ("o" if len(points) <= MARKED else None)
            axes.plot(x, y, style, color=color, label=label, linewidth=width, marker=mark, markersize=3)
        if (edges := plot.bands.get(label)) and (place < 2 or not many):
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
