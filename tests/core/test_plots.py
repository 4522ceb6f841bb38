"""A recipe's own pictures: stored as numbers, drawn in the page with a description and a table."""

from pathlib import Path
from xml.etree import ElementTree

from recipes.core.evaluation.plots import LARGEST, Plot, read_plots, write_plots
from recipes.core.report.plots import pictures, png

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
