"""Metrics that are not finite: shown as such, in no command an internal error, and never a verdict."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from recipes.core.evaluation.scores import Scores
from recipes.core.runs.folder import RunFolder
from recipes.core.trial.report.page import write_trial_report
from tests.core.trials import make_trial

METRIC = "grounded/digit/accuracy"
BAD = [math.nan, math.inf, -math.inf]


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch):
    """`spoil(value)` makes the digit metric of the runs that are written next this value, in every file."""

    def change(value: float) -> None:
        add, log = Scores.add, RunFolder.log

        def spoiled(self: Scores, metric: str, example: str, group: str, number: float, weight: float = 1.0) -> None:
            add(self, metric, example, group, value if metric == METRIC else number, weight)

        def logged(self: RunFolder, step: int, kind: str, metrics: dict[str, float], seconds: float) -> None:
            own = {name: value if name in (METRIC, "grounded/auc", "loss") else n for name, n in metrics.items()}
            log(self, step, kind, own, seconds)

        monkeypatch.setattr(Scores, "add", spoiled)
        monkeypatch.setattr(RunFolder, "log", logged)

    return change


def strict(text: str) -> Any:
    """JSON as other programs read it, which know no NaN."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("arms", [["prior"], ["prior", "ntp"]])
def test_every_command_takes_it(value: float, arms: list[str], spoil, make_run, steelyard, tmp_path: Path) -> None:
    sound = [make_run(arm, seed) for arm in {"prior", "ntp"} - set(arms) for seed in (0, 1)]
    spoil(value)
    folders = sound + [make_run(arm, seed) for arm in arms for seed in (0, 1)]
    where = f"--outputs={tmp_path / 'outputs'}"
    for words in (
        ("report", folders[-1]),
        ("runs", where),
        ("runs", where, "--json"),
        ("compare", "prior", where),
        ("compare", "prior", where, "--json"),
        ("compare", folders[-1], folders[1]),
    ):
        ended = steelyard(*words)
        assert ended.code == 0, (words, ended.err)
        if "--json" in words:
            strict(ended.out)
    assert (folders[-1] / "report.html").exists()


@pytest.mark.parametrize("value", BAD[:2])
def test_the_report_of_a_trial_takes_it(value: float, spoil, make_run) -> None:
    spoil(value)
    trial = make_trial(make_run, arms=("prior", "ntp"), seeds=(0, 1))
    assert trial.comparisons and all(path.exists() for path in write_trial_report(trial).values())
