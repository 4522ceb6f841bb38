"""Plans from a generator: beams, diverse beams, samples. A plan takes rising units and ends with STOP.

Every search asks `next_scores(plans)`: plans [rows, steps] so far, all of one length -> log-probabilities
[rows, units + 1] of what follows, STOP last; what may not follow has hardly any.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recipes.retrieval.edu_rerank.method import MASKED, length_normalised

NextScores = Callable[[Tensor], Tensor]
IMPOSSIBLE = MASKED / 2


@dataclass(frozen=True)
class Plan:
    """A finished plan.

    Attributes:
        units: Numbers, rising.
        log_prob: Of all its steps, STOP included; 0 where no generator wrote it.
    """

    units: tuple[int, ...]
    log_prob: float = 0.0

    @property
    def steps(self) -> int:
        """Units and STOP."""
        return len(self.units) + 1


@dataclass(frozen=True)
class Limits:
    """How long plans are.

    Attributes:
        shortest: Units, at least; a document with fewer has one of all.
        longest: Units, at most.
    """

    shortest: int
    longest: int

    def allow(self, scores: Tensor, steps: int) -> Tensor:
        """Log-probabilities in which STOP is closed for too short plans, and the only way out of the longest.

        A unit is closed, too, behind which too few are left; a document with fewer units than that has one plan.

        Args:
            scores: [rows, units + 1], changed in place.
            steps: Units that the plans have.
        """
        units = scores.shape[1] - 1
        shortest = min(self.shortest, units)
        scores[scores < IMPOSSIBLE] = float("-inf")
        if steps < shortest:
            scores[:, -1] = float("-inf")
            scores[:, units - (shortest - steps - 1) : -1] = float("-inf")
        if steps >= self.longest:
            scores[:, :-1] = float("-inf")
        return scores


def beam_search(next_scores: NextScores, beams: int, limits: Limits, alpha: float) -> list[Plan]:
    """Plans of a beam search, the best sum log p / steps^alpha first; all are different.

    Args:
        next_scores: The generator.
        beams: Plans that go on side by side; the search ends with as many finished ones.
        limits: Of their lengths.
        alpha: Power of the length.
    """
    alive, log_probs, finished = torch.empty(1, 0, dtype=torch.long), torch.zeros(1), list[Plan]()
    for steps in range(limits.longest + 1):
        scores = limits.allow(next_scores(alive).clone(), steps) + log_probs[:, None]
        options, order = scores.shape[1], scores.flatten().argsort(descending=True, stable=True)
        rows, logs = list[int](), scores.flatten()
        for rank, place in enumerate(order.tolist()):
            if len(rows) == beams or not torch.isfinite(logs[place]):
                break
            if place % options < options - 1:
                rows.append(place)
            elif rank < beams:
                finished.append(Plan(tuple(alive[place // options].tolist()), float(logs[place])))
        if len(finished) >= beams or not rows:
            break
        places = torch.tensor(rows)
        alive = torch.cat([alive[places // options], (places % options)[:, None]], 1)
        log_probs = logs[places]
    finished.sort(key=lambda plan: -length_normalised(plan.log_prob, plan.steps, alpha))
    return finished[:beams]


def sample_plans(
    next_scores: NextScores, count: int, limits: Limits, top_p: float, random: np.random.Generator
) -> list[Plan]:
    """Plans by nucleus sampling: each step is drawn among the likeliest that together reach `top_p`."""

    def draw(logs: Tensor, _: int) -> int:
        order = logs.argsort(descending=True, stable=True)
        probs = logs[order].double().exp()
        probs = probs / probs.sum()
        before = probs.cumsum(0) - probs
        nucleus = probs.masked_fill(before >= top_p, 0.0)
        return int(order[random.choice(len(nucleus), p=(nucleus / nucleus.sum()).numpy())])

    return _row_by_row(next_scores, count, limits, draw)


def diverse_beams(next_scores: NextScores, count: int, limits: Limits, penalty: float) -> list[Plan]:
    """Diverse beam search with groups of one beam: what groups before took at the same step costs `penalty` each.

    Source: arXiv 1610.02424.
    """
    taken: dict[int, Tensor] = {}

    def choose(logs: Tensor, steps: int) -> int:
        counts = taken.setdefault(steps, torch.zeros_like(logs))
        number = int((logs - penalty * counts).argmax())
        counts[number] += 1
        return number

    return _row_by_row(next_scores, count, limits, choose)


def random_plans(units: int, sizes: np.ndarray, count: int, random: np.random.Generator) -> list[Plan]:
    """Plans of drawn units, all different where there are so many.

    Args:
        units: Of the document.
        sizes: Lengths of plans, of which one is drawn for each plan.
        count: Plans.
        random: What draws.
    """
    plans: dict[tuple[int, ...], None] = {}
    for _ in range(20 * count):
        if len(plans) == count:
            break
        size = min(int(random.choice(sizes)), units)
        plans[tuple(sorted(random.permutation(units)[:size].tolist()))] = None
    return [Plan(units) for units in plans]


def _row_by_row(
    next_scores: NextScores, count: int, limits: Limits, choose: Callable[[Tensor, int], int]
) -> list[Plan]:
    """So many plans, each going on with what `choose` takes of its log-probabilities at a step."""
    alive, finished = [Plan(()) for _ in range(count)], dict[int, Plan]()
    numbers = list(range(count))
    for steps in range(limits.longest + 1):
        raw = next_scores(torch.tensor([plan.units for plan in alive], dtype=torch.long).reshape(len(alive), steps))
        opened = limits.allow(raw.clone(), steps)
        going, left = list[Plan](), list[int]()
        for row, (plan, number) in enumerate(zip(alive, numbers, strict=True)):
            unit = choose(opened[row], steps)
            log_prob = plan.log_prob + float(raw[row, unit])
            if unit == raw.shape[1] - 1:
                finished[number] = Plan(plan.units, log_prob)
            else:
                going.append(Plan((*plan.units, unit), log_prob))
                left.append(number)
        alive, numbers = going, left
        if not alive:
            break
    return [finished[number] for number in range(count)]
