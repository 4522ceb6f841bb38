"""From several sampled answers of a question to pairs and examples: answers grouped by what they end in.

Source: arXiv 2411.19943 and its code: groups by final answer, largest first, one random member of each.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

COVERED = 0.5  # share of the wrong answers that the groups of the negative examples stand for


@dataclass(frozen=True)
class Selection:
    """What one question gives, as places in its list of answers.

    Attributes:
        positive: A right answer; None if there is none.
        negatives: Wrong answers, one for each of the groups that count, the largest first.
    """

    positive: int | None
    negatives: list[int]

    @property
    def pair(self) -> tuple[int, int] | None:
        """(chosen, rejected): the right answer and the wrong one of the largest group; None if one is lacking."""
        return None if self.positive is None or not self.negatives else (self.positive, self.negatives[0])


def select(finals: Sequence[Hashable | None], right: Hashable, random: np.random.Generator) -> Selection:
    """Choose among the answers to one question.

    Args:
        finals: What each answer ends in; None for an answer that is left out (empty, or cut off).
        right: What it should end in.
        random: Draws the member of each group.

    Returns:
        One right answer, and of the wrong ones a member of the largest group and of each further group with more than
        one member, until the groups hold at least half of the wrong answers.
    """
    groups: dict[Hashable, list[int]] = {}
    for number, final in enumerate(finals):
        if final is not None:
            groups.setdefault(final, []).append(number)
    # Sorting is stable: of groups of one size, the one that came first.
    ordered = sorted(groups, key=lambda final: -len(groups[final]))
    members = {final: int(random.choice(groups[final])) for final in ordered}
    wrong = [final for final in ordered if final != right]
    needed, covered = ceil(COVERED * sum(len(groups[final]) for final in wrong)), 0
    taken: list[int] = []
    for final in wrong:
        if covered >= needed or (taken and len(groups[final]) == 1):
            break
        covered += len(groups[final])
        taken.append(members[final])
    return Selection(members.get(right), taken)
