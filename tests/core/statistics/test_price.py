"""The price: side effects that a card names, said beside the verdict where they are worse."""

from dataclasses import replace

import pytest

from recipes.core.config import registry
from recipes.core.statistics.compare import Comparison, MetricRow
from recipes.core.statistics.intervals import Interval
from recipes.core.statistics.price import price_words, side_effects, verdict_words
from tests.core.trials import CARD

PRICED = replace(CARD, price=("nll/other", "greedy/recall", "missing"))


def comparison(*rows: tuple[str, bool, float, float]) -> Comparison:
    """An arm beside its baseline; rows are (metric, higher is better, low, high) with the estimate in the middle."""
    made = [
        MetricRow(name, name.title(), higher, 1.0, 0.0, 5, Interval((low + high) / 2, low, high, 0.01, 0.95))
        for name, higher, low, high in rows
    ]
    return Comparison("prior", "prior", "ntp", (0, 1, 2, 3, 4), "seeds", None, tuple(made))


def words(*rows: tuple[str, bool, float, float], word: str = "supported") -> tuple[str, str]:
    effects = side_effects(PRICED, PRICED.claim, comparison(*rows))
    return verdict_words(word, effects), price_words(effects, PRICED)


def test_a_side_effect_whose_interval_is_worse_is_the_price() -> None:
    line, price = words(("nll/other", False, 4.21, 5.99), ("greedy/recall", True, -0.3, -0.1), ("nll/x", False, 1, 2))
    assert price == "nll/other +5.100 [+4.210, +5.990]; greedy/recall -0.200 [-0.300, -0.100]"
    assert line == f"supported, at a price: {price}"


@pytest.mark.parametrize("low, high", [(-5.99, -4.21), (-0.1, 5.0), (0.0, 1.0)])
def test_a_side_effect_that_is_better_or_unclear_is_none(low: float, high: float) -> None:
    line, price = words(("nll/other", False, low, high))
    assert line == "supported" and price.startswith("none: no side effect is worse (nll/other ")


def test_only_support_has_its_price_in_the_verdict_line() -> None:
    line, price = words(("nll/other", False, 4.0, 6.0), word="contradicted")
    assert line == "contradicted" and price == "nll/other +5.000 [+4.000, +6.000]"


def test_what_was_not_measured_is_said() -> None:
    assert words()[1] == "not compared (nll/other, greedy/recall, missing)"
    assert side_effects(PRICED, PRICED.claim, None) == ()
    assert price_words((), CARD) == ""
    assert price_words((), replace(CARD, price=(CARD.claim.metric,))) == ""  # it is what is claimed, not a side effect


@pytest.mark.parametrize("recipe", registry.recipe_names())
def test_every_card_names_its_side_effects(recipe: str) -> None:
    card = registry.card(recipe)
    assert card.price and card.claim.metric not in card.price
