"""The price of a claim: what its arm does to the metrics that a card names as side effects."""

from collections.abc import Sequence
from dataclasses import dataclass

from recipes.core.config.settings import Card, Claim
from recipes.core.statistics.compare import Comparison, MetricRow
from recipes.core.statistics.intervals import Interval
from recipes.core.statistics.texts import interval_text, number_text
from recipes.core.statistics.verdict import SUPPORTED


@dataclass(frozen=True)
class SideEffect:
    """One metric beside that of the claim, arm minus baseline.

    `worse`: the whole interval lies on the bad side of zero. It is not corrected for the number of side effects: a
    price is rather shown once too often.
    """

    metric: str
    title: str
    difference: float
    interval: Interval
    worse: bool

    @property
    def text(self) -> str:
        """`nll/other +5.10 [+4.21, +5.99]`."""
        return f"{self.metric} {number_text(self.difference, True)} {interval_text(self.interval)}"


def side_effects(card: Card, claim: Claim, comparison: Comparison | None) -> tuple[SideEffect, ...]:
    """The card's side effects that were measured with an interval, in the card's order.

    Args:
        card: Names them.
        claim: Its own metric is left out.
        comparison: The claim's arm beside its baseline; None if no seed of the two was paired.
    """
    if comparison is None:
        return ()
    rows = [comparison.row(name) for name in card.price if name != claim.metric]
    return tuple(
        SideEffect(row.metric, row.title, row.difference, row.interval, _is_worse(row, row.interval))
        for row in rows
        if row and row.interval
    )


def price_in_verdict(word: str, effects: Sequence[SideEffect]) -> str:
    """The price that stands in the verdict itself: that of a claim that is supported; empty if there is none."""
    return _worse(effects) if word == SUPPORTED else ""


def verdict_words(word: str, effects: Sequence[SideEffect]) -> str:
    """The first line of an answer: "supported, at a price: nll/other +5.10 [+4.21, +5.99]", or the word alone."""
    price = price_in_verdict(word, effects)
    return f"{word}, at a price: {price}" if price else word


def price_below_verdict(word: str, effects: Sequence[SideEffect], card: Card) -> str:
    """`price_words` where the verdict itself does not say the price; else empty."""
    return "" if price_in_verdict(word, effects) else price_words(effects, card)


def price_words(effects: Sequence[SideEffect], card: Card) -> str:
    """What is said about the price below the verdict; empty if the card names no side effect."""
    if not (names := [name for name in card.price if name != card.claim.metric]):
        return ""
    if not effects:
        return f"not compared ({', '.join(names)})"
    return _worse(effects) or f"none: no side effect is worse ({'; '.join(effect.text for effect in effects)})"


def _worse(effects: Sequence[SideEffect]) -> str:
    """The side effects that are worse, as a text; empty if none is."""
    return "; ".join(effect.text for effect in effects if effect.worse)


def _is_worse(row: MetricRow, interval: Interval) -> bool:
    if row.higher_is_better is None:
        return False
    return interval.high < 0 if row.higher_is_better else interval.low > 0
