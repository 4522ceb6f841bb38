"""A stored trial with round numbers."""

from collections.abc import Callable
from typing import Any

import pytest

from recipes.core.config.settings import Claim
from recipes.core.pages.stored import StoredTrial
from recipes.core.statistics.intervals import Interval
from recipes.core.statistics.price import SideEffect
from recipes.core.statistics.verdict import Verdict
from recipes.core.trial.result import Judged

CLAIM = Claim("PRIOR learns faster", "auc", "prior", "ntp", 1, "by 8%", 0.02)
MACHINE = {
    "device": "cpu",
    "gpu": None,
    "processor": "AMD EPYC",
    "cores": 1,
    "threads": 1,
    "torch": "2.13.0+cpu",
    "python": "3.11.7",
}


def judged(word: str = "supported", claim: Claim = CLAIM, more_seeds: int | None = 0, **ends: float) -> Judged:
    interval = Interval(**{"estimate": 0.31, "low": 0.244, "high": 0.375, "p_value": 0.001, "level": 0.95} | ends)
    return Judged(claim, Verdict(word, interval, 3, more_seeds, "of the interval"))


def priced(one: Judged, worse: bool) -> Judged:
    interval = Interval(5.07, 4.65, 5.49, 0.0, 0.95)
    return Judged(one.claim, one.verdict, (SideEffect("nll/other", "NLL", 5.07, interval, worse),))


@pytest.fixture
def stored() -> Callable[..., StoredTrial]:
    def make(*answers: Judged, **changes: Any) -> StoredTrial:
        fields = {
            "name": "prior/default",
            "recipe": "prior",
            "version": 1,
            "command": "steelyard trial prior --seeds 3",
            "commits": ("40ce46f644f8965b6149ce528de7aca36bd6357a",),
            "date": "2026-11-28",
            "seconds": 608.0,
            "runs": 9,
            "machines": (MACHINE,),
            "seeds": (0, 1, 2),
            "rows": (dict.fromkeys(["arm", "mean", "difference", "interval", "p (Holm)", "n", "outcome"], "x"),),
            "judged": answers or (judged(),),
            "metrics": {
                "auc": {"title": "area", "higher_is_better": True},
                "loss": {"title": "loss", "higher_is_better": False},
            },
            "values": {
                "prior": {"auc": [0.8, 0.9, 1.0], "loss": [2.0, 3.0, 4.0]},
                "ntp": {"auc": [0.5, 0.5, 0.5], "loss": [1.0, 1.0, 1.0]},
                "random": {"auc": [0.1, None, 0.3]},
            },
            "differences": {"prior": {"auc": [0.4, 0.152, 0.648]}, "random": {"auc": [-0.3, -0.5, -0.1]}},
        }
        return StoredTrial(**fields | changes)

    return make
