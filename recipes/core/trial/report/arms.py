"""The arms of a trial as its report shows them: order, role, values over seeds, and which is best."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recipes.core.runs.records import RunRecord
from recipes.core.statistics.compare import Comparison, MetricRow
from recipes.core.trial.result import TrialResult


@dataclass(frozen=True)
class Arm:
    """One arm of a trial.

    Attributes:
        name: Its name.
        role: "arm" (the claim's), "baseline" or "other".
        place: Its number among the others, from 1; its colour and dashes follow from it. 0 for the claim's two.
        runs: Finished runs by seed.
        finals: Final metrics by seed.
        comparison: The arm beside the baseline; None for the baseline and where no seed could be paired.
    """

    name: str
    role: str
    place: int
    runs: dict[int, RunRecord]
    finals: dict[int, dict[str, float]]
    comparison: Comparison | None

    @property
    def seeds(self) -> list[int]:
        """Seeds that its means are taken over: those it shares with the baseline, where there are some."""
        return sorted(self.comparison.seeds if self.comparison else self.runs)

    def row(self, metric: str) -> MetricRow | None:
        """The comparison of one metric, None if there is none."""
        return self.comparison.row(metric) if self.comparison else None

    def values(self, metric: str) -> dict[int, float]:
        """Final value by seed, where it is a number."""
        values = {seed: final[metric] for seed, final in self.finals.items() if metric in final}
        return {seed: value for seed, value in values.items() if math.isfinite(value)}


@dataclass(frozen=True)
class Metric:
    """A metric of the trial; `higher_is_better` is None where the recipe does not say."""

    name: str
    title: str
    higher_is_better: bool | None

    @property
    def arrow(self) -> str:
        """Which direction is good, as a sign."""
        return {True: "\N{UPWARDS ARROW}", False: "\N{DOWNWARDS ARROW}", None: ""}[self.higher_is_better]

    @property
    def note(self) -> str:
        """Which direction is good, in words."""
        return {True: "higher is better", False: "lower is better", None: ""}[self.higher_is_better]


@dataclass(frozen=True)
class Summary:
    """One arm's metric over its seeds.

    Attributes:
        mean: Mean over seeds: that of the comparison where there is one.
        deviation: Standard deviation over the same seeds; None on one seed.
        best: Whether no other arm has a better mean and some arm has a worse one.
        row: The comparison with the baseline.
    """

    mean: float
    deviation: float | None
    best: bool
    row: MetricRow | None


def trial_arms(result: TrialResult) -> list[Arm]:
    """The arms: the claim's arm, the baseline, then the others as they were planned."""
    claim = result.card.claim
    leading = [name for name in (claim.arm, claim.baseline) if name in result.manifest.arms]
    others = [name for name in result.manifest.arms if name not in leading]
    comparisons = {comparison.arm: comparison for comparison in result.comparisons}
    arms = []
    for name in leading + others:
        role = {claim.arm: "arm", claim.baseline: "baseline"}.get(name, "other")
        runs = {run.seed: run for run in sorted(result.runs, key=lambda run: run.seed) if run.arm == name}
        finals = {seed: run.metrics for seed, run in runs.items()}
        place = others.index(name) + 1 if name in others else 0
        arms.append(Arm(name, role, place, runs, finals, comparisons.get(name)))
    return arms


def best_first(arms: Sequence[Arm], metric: str, direction: int) -> list[Arm]:
    """Arms that are compared: the claim's first, the others by their difference, the best first."""

    def key(arm: Arm) -> tuple[bool, float]:
        row = arm.row(metric)
        return arm.role != "arm", -direction * row.difference if row else math.inf

    return sorted((arm for arm in arms if arm.comparison), key=key)


def metrics_info(arms: Sequence[Arm]) -> dict[str, Any]:
    """Titles and directions of all metrics, from every arm's first run."""
    info: dict[str, Any] = {}
    for arm in arms:
        for run in list(arm.runs.values())[:1]:
            info = run.info | info
    return info


def trial_metrics(arms: Sequence[Arm], info: dict[str, Any], main_metric: str) -> list[Metric]:
    """Every metric that some arm measured, the main one first."""
    rows = {row.metric: row for arm in arms if arm.comparison for row in arm.comparison.rows}
    measured = [name for arm in arms for final in arm.finals.values() for name in final]
    metrics = []
    for name in dict.fromkeys([main_metric, *rows, *measured]):
        row, entry = rows.get(name), info.get(name, {})
        title = row.title if row else entry.get("title", name)
        better = row.higher_is_better if row else entry.get("higher_is_better")
        if row or name in measured:
            metrics.append(Metric(name, title, better))
    return metrics


def summaries(arms: Sequence[Arm], metric: Metric) -> list[Summary | None]:
    """Every arm's value of one metric; None for an arm that did not measure it."""
    per_arm = [_summary(arm, metric.name) for arm in arms]
    means = [one.mean for one in per_arm if one]
    if metric.higher_is_better is None or len(set(means)) < 2:
        return per_arm
    top = max(means) if metric.higher_is_better else min(means)
    return [Summary(one.mean, one.deviation, one.mean == top, one.row) if one else None for one in per_arm]


def _summary(arm: Arm, metric: str) -> Summary | None:
    """The mean is the comparison's: over the seeds that could be paired, on the examples that both runs have."""
    row = arm.row(metric)
    seeds = frozenset(arm.seeds)
    numbers = [value for seed, value in arm.values(metric).items() if seed in seeds]
    if not row and not numbers:
        return None
    deviation = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None
    return Summary(row.value if row else float(np.mean(numbers)), deviation, False, row)
