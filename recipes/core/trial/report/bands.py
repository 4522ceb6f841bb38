"""Learning curves of a trial: each arm's mean over its seeds, with a band that says how far seeds differ."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy

from recipes.core.report.charts import LARGE, SMALL, Chart, Frame, Series, value_limits, with_names
from recipes.core.report.curves import chart, closest_first, read_curves
from recipes.core.trial.report.arms import Arm

T_SEEDS = 4  # with fewer seeds a t interval is wider than all curves together
NARROW = Frame(380, 300, left=44, right=86, bottom=38)


@dataclass(frozen=True)
class TrialCurves:
    """The charts of a trial.

    Attributes:
        main: The metric closest to the claim's, large.
        narrow: The same for narrow screens.
        pairs: The same metric, each other arm beside the baseline, with bands.
        rest: All other metrics, small.
        band: What the bands are, in words; empty if there are none.
    """

    main: Chart
    narrow: Chart
    pairs: list[Chart]
    rest: list[Chart]
    band: str


def trial_curves(arms: Sequence[Arm], info: dict[str, Any], main_metric: str) -> TrialCurves | None:
    """The charts; None if no run was measured during training.

    The claim's two arms have bands in every chart; the others are thin lines without, and have theirs in `pairs`.

    Args:
        arms: The trial's arms.
        info: Titles and directions of metrics.
        main_metric: The claim's metric; it may be an area under a curve and not a curve itself.
    """
    curves = {arm.name: [read_curves(run) for run in arm.runs.values()] for arm in arms}
    names = closest_first(dict.fromkeys(name for runs in curves.values() for run in runs for name in run), main_metric)
    series = {name: [one for arm in arms if (one := _series(arm, curves[arm.name], name))] for name in names}
    names = [name for name in names if series[name]]
    if not names:
        return None
    first = names[0]
    longest = max(len(one.arm) for one in series[first])
    large, narrow = (with_names(frame, longest) for frame in (LARGE, NARROW))
    shown = [_without_band(one) for one in series[first]]
    baseline = [one for one in series[first] if one.role == "baseline"]
    pairs = [[*baseline, one] for one in series[first] if one.role == "other"]
    limits = value_limits([one for pair in pairs for one in pair])
    return TrialCurves(
        chart(first, shown, info.get(first, {}), large),
        chart(first, shown, info.get(first, {}), narrow),
        [chart(first, pair, info.get(first, {}) | {"title": pair[-1].arm}, SMALL, limits) for pair in pairs],
        [chart(name, [_without_band(one) for one in series[name]], info.get(name, {}), SMALL) for name in names[1:]],
        band_words({len(arm.runs) for arm in arms if arm.runs}),
    )


def band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper edge around the mean.

    Args:
        values: [seeds, steps], at least two seeds.

    Returns:
        The 95% t interval of the mean at each step from four seeds on; below that the smallest and largest value.
    """
    number = len(values)
    if number < T_SEEDS:
        return values.min(axis=0), values.max(axis=0)
    half = scipy.special.stdtrit(number - 1, 0.975) * values.std(axis=0, ddof=1) / np.sqrt(number)
    return values.mean(axis=0) - half, values.mean(axis=0) + half


def _series(arm: Arm, runs: Sequence[dict[str, dict[int, float]]], metric: str) -> Series | None:
    """Mean over the seeds at the steps that all of them measured; None without such steps."""
    measured = [run[metric] for run in runs if metric in run]
    steps = sorted(set.intersection(*(set(curve) for curve in measured))) if measured else []
    if not steps:
        return None
    values = np.array([[curve[step] for step in steps] for curve in measured])
    low, high = band(values) if len(values) > 1 else (np.empty(0), np.empty(0))
    means = list(zip(steps, values.mean(axis=0).tolist(), strict=True))
    edges = list(zip(steps, low.tolist(), high.tolist(), strict=False))
    return Series(arm.name, arm.role, means, edges, arm.place)


def _without_band(series: Series) -> Series:
    return replace(series, band=()) if series.role == "other" else series


def band_words(seeds: set[int]) -> str:
    """What the bands are, given how many seeds the arms have."""
    several = {number for number in seeds if number > 1}
    if not several:
        return ""
    if len(several) > 1:
        return f"95% t intervals of each arm's mean over its seeds; the range of the seeds with fewer than {T_SEEDS}"
    number = several.pop()
    if number < T_SEEDS:
        return f"from the smallest to the largest of {number} seeds"
    return f"95% t intervals of each arm's mean over {number} seeds"
