"""Numbers, intervals and p-values as text: the same digits in every table."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from recipes.core.config.settings import CORRELATION, EQUIVALENCE, EXACT, ORDER, SEED_UNIT, Claim

if TYPE_CHECKING:  # the command line says what a claim expects, and starts without numpy
    from recipes.core.statistics.intervals import Interval

NOISE = 1e-12  # differences of equal numbers come to less


def number_text(value: float, signed: bool = False) -> str:
    """A number with about three significant digits; what is zero but for rounding is 0.000, without a sign."""
    sign = "+" if signed else ""
    if not math.isfinite(value):
        return f"{value:{sign}}"
    size = abs(value)
    if size < NOISE:
        return "0.000"
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3
    return f"{value:{sign}.1e}" if 0 < size < 5e-4 else f"{value:{sign}.{digits}f}"


def interval_text(interval: "Interval | None") -> str:
    """`[low, high]`, empty without an interval."""
    return "" if interval is None else f"[{number_text(interval.low, True)}, {number_text(interval.high, True)}]"


def p_text(p_value: float) -> str:
    """A p-value with three decimals."""
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def subject(claim: Claim) -> str:
    """What a claim's numbers measure: `prior minus ntp on grounded/auc`."""
    if claim.kind == ORDER:
        return f"each of {', '.join(claim.arms)} minus the next on {claim.metric}"
    if claim.kind == CORRELATION:
        over = f"the arms {', '.join(claim.arms)}" if claim.unit == SEED_UNIT else f"the examples of {claim.arm}"
        return f"rank correlation of {claim.metric} and {claim.beside} over {over}"
    return f"{claim.arm} minus {claim.baseline} on {claim.metric}"


def expectation(claim: Claim) -> str:
    """What a claim expects: `grounded/auc of prior higher than of ntp`."""
    sign = "higher" if claim.direction > 0 else "lower"
    if claim.kind == ORDER:
        return f"{claim.metric} {sign} in each of {', '.join(claim.arms)} than in the next"
    if claim.kind == CORRELATION:
        bound = f"at {'least' if claim.direction > 0 else 'most'} {claim.direction * claim.minimal_effect or 0:g}"
        return f"{subject(claim)} {bound}"
    if claim.kind == EQUIVALENCE:
        return f"{claim.metric} of {claim.arm} within {claim.minimal_effect:g} of that of {claim.baseline}"
    if claim.kind == EXACT:
        within = f"within {claim.minimal_effect:g} of" if claim.minimal_effect else "equal to"
        return f"{claim.metric} of {claim.arm} {within} that of {claim.baseline} in every one of the {claim.unit}"
    return f"{claim.metric} of {claim.arm} {sign} than of {claim.baseline}"


def seed_words(seeds: Sequence[int]) -> str:
    """`seed 0` or `seeds 0, 1, 2`: a single seed numbered 0 does not read as none."""
    return ("seed " if len(seeds) == 1 else "seeds ") + ", ".join(map(str, seeds))
