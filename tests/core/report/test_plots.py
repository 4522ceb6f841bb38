"""A recipe's own pictures: stored as numbers, drawn in the page with a description and a table."""

from pathlib import Path
from xml.etree import ElementTree

from recipes.core.evaluation.plots import LARGEST, Plot, read_plots, write_plots
from recipes.core.report.plots import MANY, _figure, pictures, png

LINES = Plot("weights", "Weights over training", "step", "weight", {"a < b": [(1, 0.5), (2, 1.5)], "none": []})
DOTS = Plot("cloud", "Loss & weight", "loss", "weight", {"all": [(x / 100, x % 7) for x in range(5000)]}, "scatter")


def test_plots_come_back_and_long_series_are_thinned(tmp_path: Path) -> None:
    write_plots(tmp_path, [LINES, DOTS])
    lines, dots = read_plots(tmp_path)
    assert lines == LINES
    assert len(dots.series["all"]) <= LARGEST and dots.series["all"][0] == (0, 0)


def test_a_run_without_plots_has_none(tmp_path: Path) -> None:
    assert pictures(tmp_path) == []


def test_pictures_are_whole_svg_with_words_and_numbers(tmp_path: Path) -> None:
    write_plots(tmp_path, [LINES, DOTS])
    first, second = pictures(tmp_path)
    root = ElementTree.fromstring(first.svg)
    assert root.tag.endswith("svg") and root.get("aria-hidden") == "true"
    assert "a < b" in "".join(root.itertext())
    assert first.description == "Weights over training. a < b: 2 points, 0.500 to 1.500"
    assert first.rows[0] == ("a < b", "1.000", "0.500") and first.cut == 0
    assert second.cut > 1000
    assert pictures(tmp_path)[0].svg == first.svg
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
