"""The tables of docs/statistics.md are those of the stored results, and these are what the rule gives."""

import json

import pytest

from benchmarks.record import RESULTS
from benchmarks.verdicts import NOISE, shares, tables
from recipes.core.config.registry import ROOT

RESULT = json.loads((RESULTS / "verdicts-cpu.json").read_text(encoding="utf-8"))


def test_the_page_shows_the_stored_results() -> None:
    page = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
    assert all(table in page for table in tables(RESULT))


@pytest.mark.parametrize("noise", list(NOISE))
@pytest.mark.parametrize("effect", [0.0, 0.9, 1.5])
def test_stored_rates_are_those_of_the_rule(noise: str, effect: float) -> None:
    import numpy as np

    (stored,) = [row for row in RESULT["rates"] if (row["noise"], row["seeds"], row["effect"]) == (noise, 5, effect)]
    fresh = shares(NOISE[noise](np.random.default_rng(1), (20_000, 5)) + effect, 1.0)
    assert fresh["supported"] == pytest.approx(stored["supported"], abs=0.015)
    assert fresh["contradicted"] == pytest.approx(stored["contradicted"], abs=0.015)


def test_more_seeds_settle_four_of_five_trials() -> None:
    assert all(0.79 < row["share"] < 0.9 for row in RESULT["more_seeds"])
