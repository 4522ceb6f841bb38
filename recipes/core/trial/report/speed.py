"""How many steps an arm needs to be where the baseline ends: "in fewer steps", as a number."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recipes.core.report.curves import read_curves
from recipes.core.statistics.intervals import Interval, paired_t
from recipes.core.trial.report.arms import Arm


@dataclass(frozen=True)
class Speed:
    """One arm beside the baseline on one learning curve.

    Attributes:
        arm: Its name.
        role: "arm" (the claim's) or "other".
        shares: Seed -> steps it needs to reach the baseline's last value, over the baseline's steps; None if it never
            does.
        interval: Paired t interval of the share over the seeds; None with fewer than two, or if one never gets there.
    """

    arm: str
    role: str
    shares: dict[int, float | None]
    interval: Interval | None

    @property
    def successes(self) -> int:
        """Seeds in which it gets there."""
        return sum(share is not None for share in self.shares.values())


def speeds(arms: Sequence[Arm], metric: str, higher_is_better: bool | None) -> list[Speed]:
    """Every arm beside the baseline, on the seeds that both have.

    Args:
        arms: The trial's arms.
        metric: A metric with a learning curve.
        higher_is_better: Its direction; without one there is nothing to reach.
    """
    baseline = next((arm for arm in arms if arm.role == "baseline"), None)
    if baseline is None or higher_is_better is None:
        return []
    ends = {seed: curve for seed, run in baseline.runs.items() if (curve := read_curves(run).get(metric))}
    rows = []
    for arm in arms:
        shares = {
            seed: _share(curve, ends[seed], 1 if higher_is_better else -1)
            for seed, run in sorted(arm.runs.items())
            if arm is not baseline and seed in ends and (curve := read_curves(run).get(metric))
        }
        if shares:
            reached = [share for share in shares.values() if share is not None]
            whole = len(reached) == len(shares) > 1
            rows.append(Speed(arm.name, arm.role, shares, paired_t(reached) if whole else None))
    return rows


def steps_to(curve: dict[int, float], target: float, direction: int) -> float | None:
    """The first step at which a curve is at a value, linear between measurements; None if it never is.

    Args:
        curve: Step -> value.
        target: The value.
        direction: +1 if the curve is to rise to it, -1 if it is to fall.
    """
    steps = sorted(curve)
    gaps = [direction * (curve[step] - target) for step in steps]
    for index, gap in enumerate(gaps):
        if gap >= 0:
            if index == 0:
                return float(steps[0])
            return float(np.interp(0, [gaps[index - 1], gap], [steps[index - 1], steps[index]]))
    return None


def _share(curve: dict[int, float], baseline: dict[int, float], direction: int) -> float | None:
    last = max(baseline)
    steps = steps_to(curve, baseline[last], direction)
    return None if steps is None else steps / last
