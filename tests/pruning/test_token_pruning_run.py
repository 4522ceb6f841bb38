"""`token-pruning` end to end on toy models of a few training steps: every arm, every task, what the files hold."""

import json
from pathlib import Path

import pytest

from recipes.core import compose, runner
from recipes.core.evaluation.strips import read_strips
from recipes.core.report.strips import run_wall, wall_png

SMOKE = ("budget=smoke", "tracker=none", "trainer.threads=1", "keep=[0.25,0.0625]")
QUESTIONS = ("data=question-canvases", *SMOKE)
CLASSIFIER = ("model=toy-vit", *SMOKE)


def run(outputs: Path, *overrides: str) -> runner.RunOutcome:
    config = compose.compose("token-pruning", [f"outputs={outputs}", *overrides])
    return runner.run(config, False, "steelyard run token-pruning " + " ".join(overrides))


def arms(*overrides: str) -> list[str]:
    return list(compose.arms("token-pruning", overrides))


def check(outcome: runner.RunOutcome) -> None:
    """What holds of every run: budgets, costs and recall agree with each other."""
    found = outcome.metrics
    assert outcome.status == "done" and found["macs_ratio@1"] == 1
    for name in ("0.25", "0.0625"):
        if f"tokens@{name}" in found:
            assert found[f"macs_ratio@{name}"] <= 1 and found[f"macs@{name}"] <= found["macs@1"]
            assert 0 <= found[f"accuracy@{name}"] <= 1 and 0 <= found.get(f"evidence_recall@{name}", 0) <= 1
            assert found[f"prefill_ms@{name}"] > 0
    info = json.loads((outcome.folder / "metrics_info.json").read_text())
    assert found.keys() <= info.keys()


@pytest.mark.parametrize("arm", arms("data=question-canvases"))
def test_every_arm_of_the_language_task(arm: str, tmp_path: Path) -> None:
    outcome = run(tmp_path, f"arm={arm}", *QUESTIONS)
    check(outcome)
    if arm not in ("full", "vtw", "ats"):
        assert outcome.metrics["tokens@0.0625"] < outcome.metrics["tokens@0.25"] < 144
