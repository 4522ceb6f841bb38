"""A recipe's own pictures: stored as numbers, drawn in the page with a description and a table."""

import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from recipes.core.evaluation.plots import LARGEST, Plot, read_plots, write_plots
from recipes.core.report.page import _templates
from recipes.core.report.plots import MANY, _figure, pictures, plot_chart, png

LINES = Plot("weights", "Weights over training", "step", "weight", {"a < b": [(1, 0.5), (2, 1.5)], "none": []})
DOTS = Plot("cloud", "Loss & weight", "loss", "weight", {"all": [(x / 100, x % 7) for x in range(5000)]}, "scatter")


def test_plots_come_back_and_long_series_are_thinned(tmp_path: Path) -> None:
    write_plots(tmp_path, [LINES, DOTS])
    lines, dots = read_plots(tmp_path)
    assert lines == LINES
    assert len(dots.series["all"]) <= LARGEST and dots.series["all"][0] == (0, 0)


def test_a_run_without_plots_has_none(tmp_path: Path) -> None:
    assert pictures(tmp_path) == []


def test_pictures_are_charts_of_the_page_with_words_and_numbers(tmp_path: Path) -> None:
    write_plots(tmp_path, [LINES, DOTS])
    first, second = pictures(tmp_path)
    assert first.chart and second.chart and second.chart.dots
    assert [line.arm for line in first.chart.lines] == ["a < b"]
    text = str(_templates().get_template("macros.html.j2").module.picture_grid([first, second]))
    lines, dots = (ElementTree.fromstring(svg) for svg in re.findall(r'<svg class="chart".*?</svg>', text, re.DOTALL))
    assert [one.text for one in lines.iter("title")][1:] == [
        "a < b",
        "a < b, step 1.000: 0.500",
        "a < b, step 2.000: 1.500",
    ]
    assert next(dots.iter("path")).get("d", "").count("M") == len(second.chart.lines[0].points) <= LARGEST
    assert first.chart.description == "Weights over training. a < b: 2 points, 0.500 to 1.500"
    assert first.rows[0] == ("a < b", "1.000", "0.500") and first.cut == 0
    assert second.cut > 1000
    assert png(LINES).startswith(b"\x89PNG")


def test_many_series_leave_the_axes_their_room() -> None:
    """A legend beside the axes of 27 arms pressed them flat; bands of all would hide each other."""
    line = [(0.0, 0.0), (1.0, 1.0)]
    edges = [(0.0, -0.1, 0.1), (1.0, 0.9, 1.1)]
    for number, bands in ((MANY, MANY), (27, 2)):
        series = {f"recoverable_visual_{place}": line for place in range(number)}
        plot = Plot("p", "t", "x", "y", series, bands=dict.fromkeys(series, edges))
        figure = _figure(plot)
        figure.draw_without_rendering()
        (axes,) = figure.axes
        box = axes.get_window_extent()
        assert box.height > 0.5 * 3.4 * figure.dpi and box.width > 0.4 * 6.2 * figure.dpi
        assert len(axes.collections) == bands
        legend = figure.legends[0] if figure.legends else axes.get_legend()
        assert [text.get_text() for text in legend.get_texts()] == list(series)


def test_a_logarithmic_axis_has_round_ticks_and_leaves_out_what_it_cannot_hold() -> None:
    chart = plot_chart(Plot("p", "t", "x", "y", {"a": [(0, 0.0), (1, 10.0), (2, 1000.0), (3, math.nan)]}, y_log=True))
    assert chart and [text for _, text in chart.y_ticks] == ["10", "100", "1,000"]
    places = [y for y, _ in chart.y_ticks]
    assert places[0] - places[1] == pytest.approx(places[1] - places[2])
    assert [point[2:] for point in chart.lines[0].points] == [(1, 10.0), (2, 1000.0)]
    assert plot_chart(Plot("p", "t", "x", "y", {"a": [(0, -1.0)]}, y_log=True)) is None


def test_of_many_series_the_first_two_have_bands() -> None:
    line, edges = [(0.0, 0.0), (1.0, 1.0)], [(0.0, -0.1, 0.1), (1.0, 0.9, 1.1)]
    for number, bands in ((MANY, MANY), (30, 2)):
        series = {f"arm{place}": line for place in range(number)}
        chart = plot_chart(Plot("p", "t", "x", "y", series, bands=dict.fromkeys(series, edges)))
        assert chart and sum(bool(line.band) for line in chart.lines) == bands
        assert all(chart.frame.top <= y <= chart.frame.plot_bottom for line in chart.lines for _, y, *_ in line.points)
        assert all(1 <= line.series.place <= 28 for line in chart.lines)


def test_names_with_a_dollar_sign_and_bands_that_leave_a_logarithmic_axis_are_drawn() -> None:
    bands = {"$x_$": [(0.0, -1.0, 2.0), (1.0, 1.0, 3.0)]}
    plot = Plot("p", "t", "x", "y", {"$x_$": [(0, 1.0), (1, 2.0)]}, y_log=True, bands=bands)
    assert png(plot).startswith(b"\x89PNG")
    chart = plot_chart(plot)
    assert chart and len(chart.lines[0].series.band) == 1
    words = plot_chart(Plot("p", "t", "x", "y", {"a": [(0, math.nan), (1, 2.0)]}))
    assert words and words.description == "t. a: 2 points, 2.000 to 2.000"
