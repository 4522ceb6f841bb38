"""Figures for papers: each of the page's as one file, one column wide, without a title, its text as text."""

import io
import re
from collections.abc import Sequence
from typing import Any

from recipes.core.config.settings import CORRELATION
from recipes.core.evaluation.plots import Plot
from recipes.core.report.charts import Chart
from recipes.core.report.colors import INK
from recipes.core.report.plots import COLUMNS, draw_plot
from recipes.core.trial.report.arms import Metric
from recipes.core.trial.report.bands import trial_curves
from recipes.core.trial.report.figure import Look, draw_curves, draw_forest
from recipes.core.trial.report.forests import ForestPlot, forest_plot
from recipes.core.trial.report.frontiers import frontier_plots
from recipes.core.trial.report.results import Results

WIDTH = 3.4  # inches: one column of a paper
ROW = 0.2  # inches of one arm of a forest plot
NAME = 0.13  # inches of one name at the end of a curve
LOOK = Look(size=7.0, heading=False, letters=46)
FORMATS = ("pdf", "svg")
# Type 42 keeps letters as letters in a PDF, "none" in an SVG; the salt and no dates keep the bytes the same.
SETTINGS: Any = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "steelyard", "text.parse_math": False}
METADATA: dict[str, dict[str, None]] = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
}


def paper_figures(results: Results, metrics: Sequence[Metric], formats: Sequence[str]) -> dict[str, bytes]:
    """The figures as file name -> content.

    Args:
        results: Of a trial or run.
        metrics: Each has its forest plot and its curves, where it has them; empty: the claim's, and all frontiers.
        formats: "pdf", "svg".

    Returns:
        `forest-METRIC.FORMAT`, `curves-METRIC.FORMAT`, `frontier-X-Y.FORMAT`; empty if there is nothing to draw.
    """
    import matplotlib

    files: dict[str, bytes] = {}
    with matplotlib.rc_context(SETTINGS):
        for name, figure in _figures(results, metrics).items():
            for kind in formats:
                buffer = io.BytesIO()
                figure.savefig(buffer, format=kind, metadata=METADATA[kind])
                files[f"{name}.{kind}"] = buffer.getvalue()
    return files


def _figures(results: Results, metrics: Sequence[Metric]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for metric in metrics or [one for one in (results.main,) if one]:
        if plot := _forest(results, metric):
            figures[_name("forest", metric.name)] = _forest_figure(plot, results.baseline)
        if chart := _curves(results, metric.name, closest=not metrics):
            figures[_name("curves", chart.metric)] = _curves_figure(chart)
    if metrics:
        return figures
    runs = {arm.name: list(arm.runs.values()) for arm in results.arms}
    plots = frontier_plots(results.card.frontiers, runs, results.info)
    return figures | {_name(plot.name): _frontier_figure(plot) for plot in plots}


def _name(*parts: str) -> str:
    """A name of a file: `frontier-macs_ratio-accuracy`."""
    return re.sub(r"[^\w.@-]+", "-", "-".join(parts))


def _forest(results: Results, metric: Metric) -> ForestPlot | None:
    """Only the claim's metric has a minimal effect of interest, as on the page."""
    claim = results.card.claim
    if metric.name == claim.metric and claim.kind != CORRELATION:
        return forest_plot(results.arms, metric, claim.minimal_effect, claim.direction)
    return forest_plot(results.arms, metric, 0.0, -1 if metric.higher_is_better is False else 1)


def _curves(results: Results, metric: str, closest: bool) -> Chart | None:
    """The curves of a metric; `closest`: those of the metric closest to it in name, where it has none."""
    curves = trial_curves(results.arms, results.info, metric)
    return curves.main if curves and (closest or curves.main.metric == metric) else None


def _forest_figure(plot: ForestPlot, baseline: str) -> Any:
    figure = _figure(0.55 + ROW * len(plot.rows))
    draw_forest(figure.subplots(), plot, baseline, LOOK)
    return figure


def _curves_figure(chart: Chart) -> Any:
    figure = _figure(max(2.1, 0.5 + NAME * len(chart.lines)))
    draw_curves(figure.subplots(), chart, "", LOOK)
    return figure


def _frontier_figure(plot: Plot) -> Any:
    """The legend stands below the axes: beside them is no room in one column."""
    shown = sum(map(bool, plot.series.values()))
    columns = min(COLUMNS - 1, shown)
    lines = -(-shown // columns) if shown > 1 else 0
    figure = _figure(2.1 + 0.14 * lines)
    axes = figure.subplots()
    draw_plot(axes, plot, shown > COLUMNS)
    axes.tick_params(labelsize=LOOK.size)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(fontsize=LOOK.size, color=INK)
    if lines:
        figure.legend(loc="outside lower center", ncols=columns, fontsize=LOOK.size - 0.5, frameon=False)
    return figure


def _figure(height: float) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02), facecolor="white")
