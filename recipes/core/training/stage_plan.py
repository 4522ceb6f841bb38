"""The plan of a training in stages: what each trains, for how long. Imports no torch, so that configs can check it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

NEW = ":new"  # behind the name of a group: only its new rows


@dataclass(frozen=True)
class Stage:
    """What is trained for a while.

    Attributes:
        name: What it is called.
        train: Names of the groups that are trained; of a group "NAME:new" only the rows behind those that stay.
        share: Of the run's steps; shares are divided by their sum.
        learning_rate: Its peak.
        reset: Group, standard deviation: its tensors are drawn anew, from N(0, std^2), before the first step.
    """

    name: str
    train: tuple[str, ...]
    share: float
    learning_rate: float
    reset: tuple[tuple[str, float], ...] = ()


def stage_starts(shares: Sequence[float], steps: int) -> tuple[int, ...]:
    """Steps done when each stage begins.

    Args:
        shares: Of the steps, of any positive sum.
        steps: Of the run.
    """
    whole = math.fsum(shares)
    return tuple(round(steps * math.fsum(shares[:number]) / whole) for number in range(len(shares)))


def stage_problem(stages: Sequence[Stage], steps: int) -> str:
    """What is wrong with a plan for so many steps; empty if nothing is.

    A stage that no step is left for would begin, and reset what it resets, where it changes nothing any more.
    """
    starts = (*stage_starts([stage.share for stage in stages], steps), steps)
    for stage, (start, end) in zip(stages, pairwise(starts), strict=True):
        if end <= start:
            last = "would reset after the last step" if start >= steps else "has no step before the next one"
            larger = "a larger share, or leave it out, or type a larger trainer.max_steps"
            return f"stage {stage.name} begins after step {start} of {steps} and {last}; give it {larger}"
    return ""
