"""The table of a sweep: settings over their seeds, and which is best."""

import json
import math
from pathlib import Path

import pytest

from recipes.core.runs.folder import DONE, FAILED, RunFolder
from recipes.core.storage.files import write_json
from recipes.core.trial.cells import Cell
from recipes.core.trial.states import CellState
from recipes.core.trial.sweep_table import best_first, is_better_higher, settings, write_sweep

METRIC = "grounded/auc"


@pytest.fixture
def cell(tmp_path: Path):
    """`cell(label, value)` is the state of a finished cell; with None it failed."""
    count = iter(range(100))

    def make(label: str, value: float | None, metric: str = METRIC, higher: bool = True) -> CellState:
        name = f"{next(count):02d}"
        words = tuple(label.split(" "))
        seed = next((int(word[5:]) for word in words if word.startswith("seed=")), 0)
        run = RunFolder(tmp_path / name)
        run.path.mkdir()
        if value is not None:
            run.log(6, "final", {metric: value}, 1.0)
            write_json(run.path / "metrics_info.json", {metric: {"higher_is_better": higher}})
        state, error = (FAILED, "broken") if value is None else (DONE, "")
        return CellState(Cell(name, label, "prior", seed, words, name), state, error=error, run=run.path)

    return make


def test_seeds_of_a_setting_are_averaged_with_their_interval(cell) -> None:
    states = [cell(f"a={a} seed={seed}", a + seed / 10) for a in (1, 2) for seed in (0, 1, 2)]
    one, two = settings(states, METRIC)
    assert (one.label, one.seeds, one.cells, one.values) == ("a=1", (0, 1, 2), 3, (1.0, 1.1, 1.2))
    assert (one.mean, two.mean) == pytest.approx((1.1, 2.1))
    assert one.half_width == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-5)  # t(0.975, 2) s / sqrt(n)


def test_a_setting_with_one_seed_has_no_interval_and_with_none_no_mean(cell) -> None:
    one, none = settings([cell("a=1", 0.5), cell("a=2", None)], METRIC)
    assert (one.mean, one.half_width) == (0.5, None)
    assert math.isnan(none.mean) and (none.seeds, none.cells) == ((), 1)


def test_failed_cells_and_those_without_the_metric_do_not_count(cell) -> None:
    states = [cell("a=1 seed=0", 1.0), cell("a=1 seed=1", None), cell("a=1 seed=2", 3.0, metric="nll/all")]
    (setting,) = settings(states, METRIC)
    assert (setting.seeds, setting.cells, setting.values) == ((0,), 3, (1.0,))


def test_the_seed_is_taken_out_wherever_it_was_typed(cell) -> None:
    rows = settings([cell("seed=0 a=1", 1.0), cell("seed=1 a=1", 2.0), cell("seed=0 reference.seed=1", 3.0)], METRIC)
    assert [setting.label for setting in rows] == ["a=1", "reference.seed=1"]


def test_a_sweep_over_seeds_alone_is_one_setting(cell) -> None:
    (setting,) = settings([cell("seed=0", 1.0), cell("seed=1", 2.0)], METRIC)
    assert (setting.label, setting.mean) == ("(only the seed differs)", 1.5)


def test_quoted_values_with_blanks_keep_their_settings_apart(cell) -> None:
    rows = settings([cell("p='a  b' seed=0", 1.0), cell("p='a b' seed=0", 2.0)], METRIC)
    assert [setting.label for setting in rows] == ["p='a  b'", "p='a b'"]


@pytest.mark.parametrize(("higher", "expected"), [(True, ["a=2", "a=1"]), (False, ["a=1", "a=2"])])
def test_the_best_setting_comes_first_and_one_without_a_value_last(cell, higher: bool, expected: list[str]) -> None:
    states = [cell("a=0", None), cell("a=3", float("nan"), higher=higher)]
    states += [cell(f"a={a}", float(a), higher=higher) for a in (1, 2)]
    ordered = [setting.label for setting in best_first(settings(states, METRIC), states, METRIC)]
    assert ordered[:2] == expected and set(ordered[2:]) == {"a=0", "a=3"}


def test_nothing_done_is_still_a_table(cell) -> None:
    states = [cell("a=1", None), cell("a=2", None)]
    assert [setting.label for setting in best_first(settings(states, METRIC), states, METRIC)] == ["a=1", "a=2"]


def test_a_metric_whose_direction_is_not_told_is_better_higher(cell, tmp_path: Path) -> None:
    state = cell("a=1", 1.0, higher=False)
    assert not is_better_higher(state.run, METRIC)
    assert is_better_higher(state.run, "unknown") and is_better_higher(tmp_path / "nowhere", METRIC)


def test_the_results_hold_every_cell(cell, tmp_path: Path) -> None:
    path = write_sweep(tmp_path, [cell("a=1 seed=0", 1.0), cell("a=2 seed=0", None)], METRIC)
    tree = json.loads(path.read_text())
    assert tree["metric"] == METRIC
    assert tree["cells"] == [
        {
            "name": "00",
            "overrides": ["a=1", "seed=0"],
            "state": "done",
            "error": "",
            "folder": "00",
            "metrics": {METRIC: 1.0},
        },
        {
            "name": "01",
            "overrides": ["a=2", "seed=0"],
            "state": "failed",
            "error": "broken",
            "folder": "01",
            "metrics": {},
        },
    ]
