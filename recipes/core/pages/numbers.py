"""Numbers as pages show them: three digits, no zero before the point, a sign on differences."""

import math

from recipes.core.statistics.texts import NOISE

WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def short_number(value: float, signed: bool = False) -> str:
    """`.940`, `5.07`, `25.2`, `1`, `+.310`; with a sign, what is below .0005 keeps it: `-.000`."""
    if not math.isfinite(value):
        return f"{value:{'+' if signed else ''}}"
    size = abs(value)
    if not signed and (size < NOISE or value == round(value)):
        return f"{value:.0f}".removeprefix("-") if size < NOISE else f"{value:,.0f}"
    if not signed and size < 5e-4:
        return f"{value:.1e}"
    digits = 0 if size >= 1000 else 1 if size >= 10 else 2 if size >= 1 else 3
    return _without_zero(f"{0.0 if size < NOISE else value:{'+' if signed else ''},.{digits}f}")


def percent_number(value: float, signed: bool = False) -> str:
    """Hundredths with one digit behind the point: `88.7`, `.7`, `+2.4`."""
    return _without_zero(f"{100 * value:{'+' if signed else ''}.1f}")


def count_word(number: int) -> str:
    """`three`; digits from 11 on."""
    return WORDS[number] if number < len(WORDS) else f"{number:,}"


def time_words(seconds: float) -> str:
    """`45 s`, `10 min 8 s`, `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _without_zero(text: str) -> str:
    """`.94` for `0.94`, `-.94` for `-0.94`."""
    sign, digits = (text[0], text[1:]) if text[0] in "+-" else ("", text)
    return sign + (digits[1:] if digits.startswith("0.") else digits)
