"""Frontiers: one metric against another over all runs of an arm, with a band over seeds, for trials and sweeps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recipes.core.config.settings import Card
from recipes.core.evaluation.plots import Plot, write_plots
from recipes.core.report.curves import read_curves
from recipes.core.report.plots import png
from recipes.core.runs.folder import DONE
from recipes.core.runs.records import RunRecord, load_run
from recipes.core.storage.files import write_bytes
from recipes.core.trial.report.bands import band
from recipes.core.trial.states import CellState

POINTS = 41  # of the grid that seeds are averaged on
Points = list[tuple[float, float]]


def frontier_plots(
    pairs: Sequence[tuple[str, str]], arms: Mapping[str, Sequence[RunRecord]], info: Mapping[str, Any]
) -> list[Plot]:
    """A plot for each pair of metrics that some run measured, one line an arm.

    An arm with one run a seed is drawn through that run's measurements: those during training or, of metrics measured
    at several points of the same model (`accuracy@0.5`, `accuracy@0.25`), those at the end. An arm with several runs,
    which differ in something else than the seed (beta), is drawn through where they end. Lines are averaged over
    seeds by linear interpolation, where all seeds reach; an arm whose seeds have no x in common has no line.

    Args:
        pairs: (x, y) names of metrics.
        arms: Arm -> its finished runs.
        info: Titles of metrics, as of `metrics_info.json`.
    """
    plots = []
    for x, y in pairs:
        by_arm = {arm: _line([way for way in _ways(runs, x, y) if way]) for arm, runs in arms.items()}
        lines = {arm: line for arm, (line, _) in by_arm.items() if line}
        if not lines:
            continue
        bands = {arm: edges for arm, (_, edges) in by_arm.items() if edges}
        across, up = (info.get(name, {}).get("title", name) for name in (x, y))
        name = f"frontier-{x}-{y}".replace("/", "-")
        plots.append(Plot(name, f"{y} against {x}", across, up, lines, bands=bands))
    return plots


def write_frontiers(folder: Path, card: Card, states: Sequence[CellState]) -> list[Path]:
    """Draw the frontiers that a card asks for over a sweep's cells, as `frontier-X-Y.png` and numbers in `plots.json`.

    Returns:
        The pictures; empty if nothing was measured.
    """
    arms: dict[str, list[RunRecord]] = {}
    for state in states if card.frontiers else ():
        if state.state == DONE:
            arms.setdefault(state.cell.arm, []).append(load_run(state.run))
    info: dict[str, Any] = {}
    for runs in arms.values():
        info = runs[0].info | info
    plots = frontier_plots(card.frontiers, arms, info)
    if plots:
        write_plots(folder, plots)
    for plot in plots:
        write_bytes(folder / f"{plot.name}.png", png(plot))
    return [folder / f"{plot.name}.png" for plot in plots]


def _ways(runs: Sequence[RunRecord], x: str, y: str) -> list[Points]:
    """For each seed the points of its line, x ascending."""
    seeds: dict[int, list[RunRecord]] = {}
    for run in runs:
        seeds.setdefault(run.seed, []).append(run)
    ways = []
    for members in seeds.values():
        if len(members) == 1:
            curves = read_curves(members[0])
            xs, ys = curves.get(x, {}), curves.get(y, {})
            points = [(xs[step], ys[step]) for step in xs if step in ys] or _at_points(members[0], x, y)
        else:
            ends = [run.metrics for run in members]
            points = [(end[x], end[y]) for end in ends if x in end and y in end]
        ways.append(sorted(point for point in points if np.isfinite(point).all()))
    return ways


def _at_points(run: RunRecord, x: str, y: str) -> Points:
    """(x@point, y@point) of each point at which both were measured at the end."""
    end = run.metrics
    labels = [name.removeprefix(f"{x}@") for name in end if name.startswith(f"{x}@")]
    return [(end[f"{x}@{label}"], end[f"{y}@{label}"]) for label in labels if f"{y}@{label}" in end]


def _line(ways: Sequence[Points]) -> tuple[Points, list[tuple[float, float, float]]]:
    """The mean over seeds, and (x, low, high) of its band."""
    if len(ways) < 2:
        return (ways[0] if ways else []), []
    start, end = max(way[0][0] for way in ways), min(way[-1][0] for way in ways)
    if start > end:
        return [], []
    grid = np.linspace(start, end, POINTS if end > start else 1)
    values = np.array([np.interp(grid, *np.array(way).T) for way in ways])
    low, high = band(values)
    means = list(zip(grid.tolist(), values.mean(0).tolist(), strict=True))
    return means, list(zip(grid.tolist(), low.tolist(), high.tolist(), strict=True))
