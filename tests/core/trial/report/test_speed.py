"""Steps to where the baseline ends."""

from pathlib import Path

import pytest

from recipes.core.runs.folder import DONE, RunFolder
from recipes.core.runs.records import RunRecord
from recipes.core.trial.report.arms import Arm
from recipes.core.trial.report.speed import speeds, steps_to


def run(folder: Path, arm: str, seed: int, curve: dict[int, float]) -> RunRecord:
    path = folder / arm / str(seed)
    path.mkdir(parents=True)
    for step, value in curve.items():
        RunFolder(path).log(step, "eval", {"accuracy": value, "loss": -value}, 0.1)
    return RunRecord(path, "prior", arm, seed, DONE, "", {})


def arm(name: str, role: str, runs: list[RunRecord]) -> Arm:
    return Arm(name, role, 0, {one.seed: one for one in runs}, {}, None)


def test_steps_to_a_value() -> None:
    curve = {100: 0.2, 200: 0.6, 300: 0.5}
    assert steps_to(curve, 0.4, 1) == pytest.approx(150)
    assert steps_to(curve, 0.1, 1) == 100
    assert steps_to(curve, 0.7, 1) is None
    assert steps_to({100: 5.0, 200: 3.0}, 4.5, -1) == pytest.approx(125)


@pytest.mark.parametrize(("metric", "higher"), [("accuracy", True), ("loss", False)])
def test_arms_beside_the_baseline(tmp_path: Path, metric: str, higher: bool) -> None:
    base = arm("ntp", "baseline", [run(tmp_path, "ntp", s, {100: 0.2, 200: 0.4}) for s in (0, 1)])
    fast = arm("prior", "arm", [run(tmp_path, "prior", s, {100: 0.4 + s * 0.2, 200: 0.8}) for s in (0, 1)])
    slow = arm(
        "random", "other", [run(tmp_path, "random", 0, {100: 0.1, 200: 0.3}), run(tmp_path, "random", 5, {9: 1})]
    )
    quick, never = speeds([fast, base, slow], metric, higher)
    assert quick.shares == {0: 0.5, 1: 0.5} and quick.interval is not None and quick.successes == 2
    assert never.shares == {0: None} and never.interval is None and never.successes == 0


def test_without_direction_or_baseline_there_is_nothing_to_reach(tmp_path: Path) -> None:
    base = arm("ntp", "baseline", [run(tmp_path, "ntp", 0, {100: 0.2})])
    assert speeds([base], "accuracy", None) == [] and speeds([], "accuracy", True) == []
