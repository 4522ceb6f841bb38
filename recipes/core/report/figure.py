"""The report as one picture: learning curves above, paired differences below."""

import io
import textwrap
from collections.abc import Sequence
from typing import Any, cast

from recipes.core.evaluation.plots import Plot
from recipes.core.report.charts import Chart
from recipes.core.report.colors import GRID, INK, MUTED
from recipes.core.report.plots import draw_plot
from recipes.core.statistics.compare import Comparison, MetricRow
from recipes.core.statistics.texts import number_text

COLORS = {"arm": "#0b6e7f", "baseline": "#6a7280"}
OUTCOMES = {"better": "#1a7f45", "worse": "#b3261e", "supported": "#1a7f45", "contradicted": "#b3261e"}
DPI = 144
CURVES = 3
LETTERS = 44  # of a line of a title, of which three stand beside each other
ROW_LETTERS = 64  # of a line of a row's title, which has room for two
ROWS = 12


def draw(charts: list[Chart], comparison: Comparison | None, title: str, plots: Sequence[Plot] = ()) -> bytes | None:
    """A PNG of the first three curves and the differences with their intervals.

    Args:
        charts: As of `learning_curves`; the values are read from them.
        comparison: The paired comparison; without one only curves are drawn.
        title: Line above everything.
        plots: The recipe's own, in place of curves where nothing was measured in training.

    Returns:
        None where there is nothing to draw.
    """
    import matplotlib

    with matplotlib.rc_context({"text.parse_math": False}):  # names may hold a dollar sign
        return _png(charts, comparison, title, plots)


def _png(charts: list[Chart], comparison: Comparison | None, title: str, plots: Sequence[Plot]) -> bytes | None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows = [row for row in comparison.rows if row.interval] if comparison else []
    rows = sorted(rows, key=lambda row: comparison is not None and row.metric != comparison.main_metric)[:ROWS]
    top: Sequence[Chart | Plot] = charts[:CURVES] or [plot for plot in plots if any(plot.series.values())][:CURVES]
    heights = [2.7] * bool(top) + [0.7 + 0.34 * len(rows)] * bool(rows)
    if not heights:
        return None
    figure = Figure(
        figsize=(11, 0.7 + sum(heights)),
        dpi=DPI,
        layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12),
        facecolor="white",
    )
    figure.suptitle(title, x=0.012, ha="left", color=INK, fontsize=13, fontweight="bold")
    panels: Any = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    if top:
        for axes, one in zip(panels[0].subplots(1, len(top), squeeze=False)[0], top, strict=True):
            if isinstance(one, Plot):
                draw_plot(axes, one)
                axes.set_title(textwrap.fill(one.title, LETTERS), loc="left", fontsize=10, color=INK)
                if len(one.series) > 1:
                    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)
            else:
                _draw_curve(axes, one)
    if rows and comparison:
        _draw_differences(panels[-1], rows, comparison)
    # Laid out here: `savefig` would draw everything once more before, only to call this.
    FigureCanvasAgg(figure)
    cast(ConstrainedLayoutEngine, figure.get_layout_engine()).execute(figure)
    figure.set_layout_engine(None)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def _draw_curve(axes: Any, chart: Chart) -> None:
    for line in chart.lines:
        steps, values = [point[2] for point in line.points], [point[3] for point in line.points]
        dashes = "-" if line.role == "arm" else "--"
        axes.plot(
            steps, values, dashes, marker="o", markersize=4, color=COLORS[line.role], label=line.arm, linewidth=1.8
        )
    axes.set_title(textwrap.fill(chart.title, LETTERS), loc="left", fontsize=10, color=INK)
    axes.set_xlabel("step" + (f" ({chart.note})" if chart.note else ""), fontsize=8.5, color=MUTED)
    axes.tick_params(labelsize=8, colors=MUTED, length=0)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GRID)
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)


def _draw_differences(panel: Any, rows: list[MetricRow], comparison: Comparison) -> None:
    """Each row on its own scale: metrics have different units, only the place of zero is common."""
    axes = panel.subplots()
    for index, row in enumerate(rows):
        if row.interval is None:
            continue
        scale = max(abs(row.interval.low), abs(row.interval.high)) or 1.0
        color = OUTCOMES.get(row.outcome, MUTED)
        axes.plot([row.interval.low / scale, row.interval.high / scale], [index, index], color=color, linewidth=2.2)
        axes.plot([row.difference / scale], [index], "o", color=color, markersize=6)
        low, high = number_text(row.interval.low, True), number_text(row.interval.high, True)
        axes.text(
            1.06, index, f"{number_text(row.difference, True)}  [{low}, {high}]", va="center", fontsize=8.5, color=INK
        )
    axes.axvline(0, color=MUTED, linewidth=0.9)
    titles = [textwrap.fill(row.title, ROW_LETTERS) for row in rows]
    axes.set_yticks(range(len(rows)), titles, fontsize=8.5, color=INK)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(-1.05, 1.75)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    over = "source items of one seed" if comparison.unit == "examples" else f"{len(comparison.seeds)} seeds"
    heading = f"{comparison.arm} minus {comparison.baseline}, 95% intervals over {over}; each row on its own scale"
    # A title of axes may run over the edge of the picture; that of the panel starts at its left.
    panel.suptitle(heading, x=0.012, ha="left", fontsize=10, color=INK)
