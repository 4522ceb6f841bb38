"""Which EDUs say what a reference says: the plan that a generator learns, and that a summary implies.

Source: arXiv 2305.17779, sections 3 and 4; `preprocess/` of griff4692/edu-sum.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

LONGEST_PLAN = 20
EPSILON = 1e-8


@dataclass(frozen=True)
class Grams:
    """Sets of n-grams of a text, or of several texts together.

    Attributes:
        ones: Words.
        twos: Pairs of words that follow each other.
    """

    ones: frozenset[str]
    twos: frozenset[tuple[str, str]]

    def __or__(self, other: "Grams") -> "Grams":
        return Grams(self.ones | other.ones, self.twos | other.twos)


NONE = Grams(frozenset(), frozenset())


def grams_of(text: str) -> Grams:
    """N-grams of a text in small letters, without characters other than letters, digits and blanks."""
    words = re.sub(r"[^\w\s]|_", "", text.lower()).split()
    return Grams(frozenset(words), frozenset(zip(words, words[1:], strict=False)))


def union(parts: Iterable[Grams]) -> Grams:
    """N-grams within any of some texts."""
    result = NONE
    for part in parts:
        result = result | part
    return result


def gain(hypothesis: Grams, reference: Grams) -> float:
    """ROUGE-1 F + ROUGE-2 F of sets of n-grams; F = 2PR / (P + R + 1e-8)."""
    return _f(hypothesis.ones, reference.ones) + _f(hypothesis.twos, reference.twos)


def gain_selection(units: Sequence[Grams], reference: Grams, longest: int = LONGEST_PLAN) -> list[int]:
    """The EDUs that together are most like a reference: the one that gains most is added, while any gains.

    Args:
        units: N-grams of each EDU of the source.
        reference: Those of what the plan is to say.
        longest: EDUs of a plan, at most.

    Returns:
        Numbers of EDUs, rising; of equal gains the first is taken; empty if none gains.
    """
    plan, chosen, best = list[int](), NONE, 0.0
    while len(plan) < longest:
        gains = [-1.0 if number in plan else gain(chosen | unit, reference) for number, unit in enumerate(units)]
        number = int(np.argmax(gains)) if gains else -1
        if number < 0 or gains[number] <= best:
            break
        plan.append(number)
        chosen, best = chosen | units[number], gains[number]
    return sorted(plan)


def alignment(units: Sequence[Grams], reference: Sequence[Grams]) -> np.ndarray:
    """[reference EDUs, EDUs] (ROUGE-1 + ROUGE-2) / 2 of each pair."""
    return np.array([[gain(unit, part) / 2 for unit in units] for part in reference]).reshape(
        len(reference), len(units)
    )


def oracle_plan(units: Sequence[Grams], reference: Sequence[Grams]) -> tuple[list[int], np.ndarray]:
    """The plan that a generator is to learn, and how much each EDU says of the reference.

    Two plans are tried, that of `gain_selection` and the EDUs next to each EDU of the reference; the one with the
    larger ROUGE-1 + ROUGE-2 stays, of equal ones the first. Where nothing gains, it is the first EDU.

    Args:
        units: N-grams of the EDUs of the source, at least one.
        reference: Those of the EDUs of the reference, at least one.

    Returns:
        Numbers of EDUs, rising, and float [EDUs] the largest alignment of each.
    """
    whole, aligned = union(reference), alignment(units, reference)
    plans = [gain_selection(units, whole), sorted({int(number) for number in aligned.argmax(1)})[:LONGEST_PLAN]]
    best = max(plans, key=lambda plan: gain(union(units[number] for number in plan), whole))
    return best or [0], aligned.max(0)


def overlap(planned: Sequence[int], implied: Sequence[int]) -> tuple[float, float, float]:
    """Precision, recall and F1 of the plan that a summary implies against the plan that it was written to."""
    both = len(set(planned) & set(implied))
    precision, recall = both / max(len(implied), 1), both / max(len(planned), 1)
    return precision, recall, 2 * precision * recall / (precision + recall) if both else 0.0


def _f(hypothesis: frozenset[object], reference: frozenset[object]) -> float:
    both = len(hypothesis & reference)
    if not both:
        return 0.0
    precision, recall = both / len(hypothesis), both / len(reference)
    return 2 * precision * recall / (precision + recall + EPSILON)
