"""What a sweep came to: one row a setting, with the mean of a metric over its seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipes.core.runs.folder import DONE
from recipes.core.runs.records import final_metrics, read_info
from recipes.core.statistics.intervals import paired_t
from recipes.core.storage.files import write_json
from recipes.core.trial.states import CellState


@dataclass(frozen=True)
class Setting:
    """One combination of swept keys.

    Attributes:
        label: Its keys and values, without the seed.
        seeds: Seeds that are done.
        cells: Cells of it, done or not.
        values: The metric of each done cell, in the order of `seeds`.
        half_width: Half of the 95% t interval of the mean over seeds; None with fewer than two.
    """

    label: str
    seeds: tuple[int, ...]
    cells: int
    values: tuple[float, ...]
    half_width: float | None

    @property
    def mean(self) -> float:
        """Mean of the metric over seeds; NaN if no cell is done."""
        return float(np.mean(self.values)) if self.values else float("nan")


def settings(states: Sequence[CellState], metric: str) -> list[Setting]:
    """The settings of a sweep in the order they were typed.

    Args:
        states: State of every cell.
        metric: A final metric; cells that did not measure it count as not done.
    """
    groups: dict[str, list[CellState]] = {}
    for state in states:
        words = [word for word in state.cell.label.split(" ") if not word.startswith("seed=")]
        groups.setdefault(" ".join(words) or "(only the seed differs)", []).append(state)
    return [_setting(label, members, metric) for label, members in groups.items()]


def best_first(rows: Sequence[Setting], states: Sequence[CellState], metric: str) -> list[Setting]:
    """The settings, best mean first; those without a mean last."""
    done = next((state for state in states if state.state == DONE), None)
    sign = -1 if done is None or is_better_higher(done.run, metric) else 1
    return sorted(rows, key=lambda setting: (math.isnan(setting.mean), sign * setting.mean))


def is_better_higher(run: Path, metric: str) -> bool:
    """Which direction of a metric is good, as the run's recipe says; higher if it does not."""
    return bool(read_info(run).get(metric, {}).get("higher_is_better", True))


def write_sweep(folder: Path, states: Sequence[CellState], metric: str) -> Path:
    """Write `results.json`: every cell with its state and all final metrics.

    Returns:
        Its path.
    """
    cells = [
        {
            "name": state.cell.name,
            "overrides": list(state.cell.overrides),
            "state": state.state,
            "error": state.error,
            "folder": state.cell.folder,
            "metrics": final_metrics(state.run) if state.state == DONE else {},
        }
        for state in states
    ]
    path = folder / "results.json"
    write_json(path, {"metric": metric, "cells": cells})
    return path


def _setting(label: str, members: Sequence[CellState], metric: str) -> Setting:
    done = [(state.cell.seed, final_metrics(state.run)) for state in members if state.state == DONE]
    measured = [(seed, metrics[metric]) for seed, metrics in done if metric in metrics]
    seeds, values = tuple(seed for seed, _ in measured), tuple(value for _, value in measured)
    half = None
    if len(values) > 1:
        interval = paired_t(values)
        half = (interval.high - interval.low) / 2
    return Setting(label, seeds, len(members), values, half)
