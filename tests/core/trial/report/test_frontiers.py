"""Frontiers on synthetic numbers: seeds averaged at equal x, betas joined, what has no line."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recipes.core.evaluation.plots import read_plots, write_plots
from recipes.core.report.plots import as_pictures
from recipes.core.runs.folder import DONE, RunFolder
from recipes.core.runs.records import RunRecord
from recipes.core.storage.files import write_text
from recipes.core.trial.cells import Cell
from recipes.core.trial.report.frontiers import frontier_plots, write_frontiers
from recipes.core.trial.states import CellState
from tests.core.trials import CARD

PAIRS = (("kl", "reward"),)
INFO = {"kl": {"title": "KL (nats)"}, "reward": {"title": "score"}}


def run(folder: Path, arm: str, seed: int, points: list[tuple[float, float]]) -> RunRecord:
    """A run that was measured at these (kl, reward), the last also its final metrics."""
    folder.mkdir(parents=True, exist_ok=True)
    made = RunFolder(folder)
    for step, (kl, reward) in enumerate(points, 1):
        made.log(step, "eval", {"kl": kl, "reward": reward}, 1.0)
    made.log(len(points), "final", {"kl": points[-1][0], "reward": points[-1][1]}, 1.0)
    return RunRecord(folder, "sparsepo", arm, seed, DONE, "", {})


def test_seeds_are_averaged_where_all_of_them_reach(tmp_path: Path) -> None:
    # Lines of slope 2 and 4 that overlap from 0.5 to 2.
    runs = [
        run(tmp_path / "0", "a", 0, [(0.0, 0.0), (1.0, 2.0), (2.0, 4.0)]),
        run(tmp_path / "1", "a", 1, [(0.5, 2.0), (3.0, 12.0)]),
    ]
    [plot] = frontier_plots(PAIRS, {"a": runs}, INFO)
    assert (plot.x_label, plot.y_label, plot.name) == ("KL (nats)", "score", "frontier-kl-reward")
    x, y = np.array(plot.series["a"]).T
    assert (x[0], x[-1]) == (0.5, 2.0) and y == pytest.approx(3 * x)
    _, low, high = np.array(plot.bands["a"]).T
    assert low == pytest.approx(2 * x) and high == pytest.approx(4 * x)


def test_one_seed_is_its_own_line_sorted_by_x(tmp_path: Path) -> None:
    [plot] = frontier_plots(PAIRS, {"a": [run(tmp_path, "a", 0, [(0.2, 1.0), (0.9, 3.0), (0.4, 2.0)])]}, {})
    assert plot.series == {"a": [(0.2, 1.0), (0.4, 2.0), (0.9, 3.0)]} and plot.bands == {}
    assert (plot.x_label, plot.y_label) == ("kl", "reward")


def test_several_runs_of_a_seed_are_joined_where_they_end(tmp_path: Path) -> None:
    ends = {0: [(2.0, 5.0), (0.5, 2.0)], 1: [(0.5, 4.0), (2.0, 7.0)]}
    runs = [
        run(tmp_path / f"{seed}-{number}", "a", seed, [(9.0, 9.0), end])
        for seed, points in ends.items()
        for number, end in enumerate(points)
    ]
    [plot] = frontier_plots(PAIRS, {"a": runs}, INFO)
    assert plot.series["a"][0] == (0.5, 3.0) and plot.series["a"][-1] == (2.0, 6.0)
    assert plot.bands["a"][0] == (0.5, 2.0, 4.0)


def test_a_run_measured_at_several_points_is_drawn_through_them(tmp_path: Path) -> None:
    runs = []
    for seed in (0, 1):
        made = RunFolder(tmp_path / str(seed))
        made.path.mkdir()
        end = {"kl@0.5": 2.0, "reward@0.5": 4.0 + seed, "kl@0.25": 1.0, "reward@0.25": 3.0, "kl@full": 9.0, "kl": 7.0}
        made.log(1, "final", end, 1.0)
        runs.append(RunRecord(made.path, "sparsepo", "a", seed, DONE, "", {}))
    [plot] = frontier_plots(PAIRS, {"a": runs}, INFO)
    assert plot.series["a"][0] == (1.0, 3.0) and plot.series["a"][-1] == (2.0, 4.5)


def test_arms_without_a_common_x_or_the_metric_have_no_line(tmp_path: Path) -> None:
    apart = [run(tmp_path / "0", "a", 0, [(0.1, 1.0)]), run(tmp_path / "1", "a", 1, [(0.2, 1.0)])]
    fine = [run(tmp_path / "2", "b", 0, [(0.1, 1.0), (0.2, 2.0)])]
    [plot] = frontier_plots(PAIRS, {"a": apart, "b": fine}, INFO)
    assert set(plot.series) == {"b"}
    assert frontier_plots(PAIRS, {"a": apart}, INFO) == []
    assert frontier_plots((("kl", "absent"),), {"b": fine}, INFO) == []


def test_bands_are_kept_and_drawn(tmp_path: Path) -> None:
    runs = [run(tmp_path / str(seed), "a", seed, [(0.1, 1.0 + seed), (0.2, 2.0)]) for seed in (0, 1)]
    plots = frontier_plots(PAIRS, {"a": runs}, INFO)
    write_plots(tmp_path, plots)
    assert read_plots(tmp_path) == plots
    [with_band], [without] = as_pictures(plots), as_pictures([replace(plot, bands={}) for plot in plots])
    assert with_band.chart and with_band.chart.lines[0].area and without.chart and not without.chart.lines[0].area


def test_a_sweep_has_its_frontier_beside_its_results(tmp_path: Path) -> None:
    states = []
    for number, (arm, seed) in enumerate([("a", 0), ("a", 1), ("b", 0)]):
        record = run(tmp_path / str(number), arm, seed, [(0.1, 1.0), (0.2, 2.0 + seed)])
        write_text(record.path / "config.yaml", f"recipe: sparsepo\narm: {arm}\nseed: {seed}\n")
        cell = Cell(str(number), f"arm={arm}", arm, seed, (), str(number))
        states.append(CellState(cell, DONE, run=record.path))
    assert write_frontiers(tmp_path, CARD, states) == []
    card = CARD.__class__(**vars(CARD) | {"frontiers": PAIRS})
    [picture] = write_frontiers(tmp_path, card, states)
    assert picture == tmp_path / "frontier-kl-reward.png" and picture.stat().st_size > 1000
    assert set(read_plots(tmp_path)[0].series) == {"a", "b"}
