"""The trial in one picture for print: forest plot above, learning curves with bands below."""

import io
import textwrap
from dataclasses import dataclass
from typing import Any

from recipes.core.report.charts import Chart, spread
from recipes.core.report.colors import GRID, INK, MUTED
from recipes.core.report.figure import COLORS, OUTCOMES
from recipes.core.statistics.price import price_in_verdict
from recipes.core.statistics.texts import interval_text, number_text
from recipes.core.trial.report.bands import TrialCurves
from recipes.core.trial.report.forests import ForestPlot, ForestRow
from recipes.core.trial.result import TrialResult

WIDTH = 7.2  # inches: two columns of a paper
ROW = 0.32  # inches of one arm
CURVES = 2.9  # inches
TITLE_LETTERS = 72  # of one line
HEADING_LETTERS = 72  # of a line of a heading above axes, which begin right of their labels
OTHERS = ("#7d44b3", "#a8450f", "#2f7034", "#ad2c68", "#3c5bbd", "#75600a", "#8c3b3b")
DASHES: tuple[tuple[float, ...], ...] = ((1.2, 1.8), (6, 1.8, 1.2, 1.8), (3.2, 1.8), (8, 2.4))


@dataclass(frozen=True)
class Look:
    """How axes are labelled.

    Attributes:
        size: Of the letters, in points.
        heading: Whether a heading above the axes says what they show; else their labels do.
        letters: Of one line of a heading or label.
    """

    size: float = 8.0
    heading: bool = True
    letters: int = HEADING_LETTERS


PAGE = Look()


def draw_trial(forest: ForestPlot | None, curves: TrialCurves | None, result: TrialResult) -> dict[str, bytes]:
    """The picture as "png" and "svg".

    Args:
        forest: Differences on the claim's metric; left out if None.
        curves: Learning curves; the large chart is drawn, and left out if None.
        result: The trial, for the line above.
    """
    import matplotlib

    pictures = {}
    with matplotlib.rc_context({"svg.hashsalt": "steelyard", "text.parse_math": False}):
        figure = _figure(forest, curves, result)
        for kind, metadata in (("png", {}), ("svg", {"Date": None, "Creator": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=300, metadata=metadata)
            pictures[kind] = buffer.getvalue()
    return pictures


def _figure(forest: ForestPlot | None, curves: TrialCurves | None, result: TrialResult) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    heights = [1.05 + ROW * len(forest.rows)] if forest else []
    heights += [CURVES] if curves else []
    claim = result.card.claim
    title = textwrap.wrap(f"{_headline(result)}: {claim.statement}", TITLE_LETTERS)
    size = (WIDTH, 0.35 + 0.2 * len(title) + sum(heights or [0.3]))
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08), facecolor="white")
    figure.suptitle("\n".join(title), x=0.012, ha="left", color=INK, fontsize=11, fontweight="bold")
    panels: Any = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0] if heights else []
    if forest:
        draw_forest(panels[0].subplots(), forest, claim.baseline)
    if curves:
        draw_curves(panels[-1].subplots(), curves.main, curves.band)
    return figure


def _headline(result: TrialResult) -> str:
    paid = price_in_verdict(result.verdict.word, result.prices)
    return result.verdict.word.capitalize() + (", at a price" if paid else "")


def draw_forest(axes: Any, plot: ForestPlot, baseline: str, look: Look = PAGE) -> None:
    """A forest plot into axes of matplotlib.

    Args:
        axes: Where to draw.
        plot: What.
        baseline: The arm that differences are to.
        look: How it is labelled.
    """
    low, high = plot.limits
    margin = 0.03 * (high - low)
    if plot.minimal:
        axes.axvspan(-plot.minimal, plot.minimal, color=GRID, alpha=0.55, linewidth=0)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    for index, row in enumerate(plot.rows):
        _draw_row(axes, index, row, plot.limits, look.size)
    axes.set_xlim(low - margin, high + margin)
    axes.set_ylim(len(plot.rows) - 0.35, -0.65)
    axes.set_yticks(range(len(plot.rows)), [row.arm.name for row in plot.rows], color=INK)
    for label, row in zip(axes.get_yticklabels(), plot.rows, strict=True):
        label.set_fontweight("bold" if row.arm.role == "arm" else "normal")
    axes.tick_params(labelsize=look.size, colors=MUTED, length=0)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=look.size + 0.5)
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.locator_params(axis="x", nbins=6)
    heading = textwrap.fill(f"{plot.metric.title}: difference to {baseline}", look.letters)
    if not look.heading:
        axes.set_xlabel(heading, fontsize=look.size, color=INK)
        return
    axes.set_title(heading, loc="left", fontsize=look.size + 1.5, color=INK)
    over = f"{plot.rows[0].row.number} {'seeds' if plot.unit == 'seeds' else 'test items'}"
    band = f"; shaded: below the minimal effect of {plot.minimal:g}" if plot.minimal else ""
    axes.set_xlabel(f"mean and 95% interval over {over}{band}", fontsize=look.size, color=MUTED)


def _draw_row(axes: Any, y: int, row: ForestRow, limits: tuple[float, float], size: float) -> None:
    color = OUTCOMES.get(row.row.outcome, MUTED)
    interval = row.row.interval
    if interval:
        ends = [max(interval.low, limits[0]), min(interval.high, limits[1])]
        axes.plot(ends, [y, y], color=color, linewidth=1.8, solid_capstyle="butt")
        for end, cut, marker in zip(ends, (row.cut_low, row.cut_high), "<>", strict=True):
            axes.plot([end], [y], marker if cut else "|", color=color, markersize=5, markeredgewidth=1.8)
    axes.plot([row.row.difference], [y], "D", color=color, markersize=5, zorder=4)
    values = [value for _, _, value in row.dots]
    axes.plot(values, [y + 0.28] * len(values), "o", color="none", markeredgecolor=MUTED, markersize=2.6, mew=0.7)
    text = f"{number_text(row.row.difference, True)}  {interval_text(interval)}".rstrip()
    where: Any = axes.get_yaxis_transform()
    axes.text(1.02, y, text, transform=where, va="center", fontsize=size, color=INK)


def draw_curves(axes: Any, chart: Chart, band: str, look: Look = PAGE) -> None:
    """The claim's two arms bold with bands, the others thin; every line is named at its end.

    Args:
        axes: Of matplotlib.
        chart: What to draw.
        band: What the bands are, in words; empty if there are none.
        look: How it is labelled.
    """
    for line in reversed(chart.lines):
        color, width, dashes = _look(line.role, line.series.place)
        steps = [step for _, _, step, _ in line.points]
        axes.plot(steps, [point[3] for point in line.points], color=color, linewidth=width, dashes=dashes)
        if line.series.band:
            axes.fill_between(*zip(*line.series.band, strict=True), color=color, alpha=0.16, linewidth=0)
    heading = textwrap.fill(chart.title + (f" ({chart.note})" if chart.note else ""), look.letters)
    if look.heading:
        axes.set_title(heading, loc="left", fontsize=look.size + 1.5, color=INK)
        axes.set_xlabel("step" + (f"; bands: {band}" if band else ""), fontsize=look.size, color=MUTED)
    else:
        axes.set_ylabel(textwrap.fill(chart.title, look.letters * 2 // 3), fontsize=look.size, color=INK)
        axes.set_xlabel("step", fontsize=look.size, color=INK)
    axes.tick_params(labelsize=look.size, colors=MUTED, length=0)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.margins(x=0.01)
    _name_lines(axes, chart, look.size)


def _name_lines(axes: Any, chart: Chart, size: float) -> None:
    """Names at the right ends, moved apart: 8 points are about 0.05 of the axes' height."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    heights = [1 - (line.points[-1][3] - low) / (high - low) for line in chart.lines]
    for line, height in zip(chart.lines, spread(heights, 0, 1, 0.065), strict=True):
        color, _, _ = _look(line.role, line.series.place)
        weight = "normal" if line.role == "other" else "bold"
        at = {"transform": axes.transAxes, "va": "center", "fontsize": size, "color": color, "fontweight": weight}
        axes.text(1.015, 1 - height, line.arm, **at)


def _look(role: str, place: int) -> tuple[str, float, tuple[float, ...]]:
    """Colour, width and dashes of an arm's line."""
    if role == "other":
        return OTHERS[(place - 1) % len(OTHERS)], 0.9, DASHES[(place - 1) % len(DASHES)]
    return COLORS[role], 2.0, () if role == "arm" else (4, 1.6)
