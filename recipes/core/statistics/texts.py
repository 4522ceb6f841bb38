"""Numbers, intervals and p-values as text: the same digits in every table."""

import math
from collections.abc import Sequence

from recipes.core.statistics.intervals import Interval

NOISE = 1e-12  # differences of equal numbers come to less


def number_text(value: float, signed: bool = False) -> str:
    """A number with about three significant digits; what rounding left of nothing is 0.000, without a sign."""
    sign = "+" if signed else ""
    if not math.isfinite(value):
        return f"{value:{sign}}"
    size = abs(value)
    if size < NOISE:
        return "0.000"
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3
    return f"{value:{sign}.1e}" if 0 < size < 5e-4 else f"{value:{sign}.{digits}f}"


def interval_text(interval: Interval | None) -> str:
    """`[low, high]`, empty without an interval."""
    return "" if interval is None else f"[{number_text(interval.low, True)}, {number_text(interval.high, True)}]"


def p_text(p_value: float) -> str:
    """A p-value with three decimals."""
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def seed_words(seeds: Sequence[int]) -> str:
    """`seed 0` or `seeds 0, 1, 2`: a single seed numbered 0 does not read as none."""
    return ("seed " if len(seeds) == 1 else "seeds ") + ", ".join(map(str, seeds))
