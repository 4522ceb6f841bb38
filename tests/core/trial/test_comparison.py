"""Comparison of a trial's cells: which pair, over what, and the correction over the arms."""

import pyarrow.parquet as pq
import pytest

from recipes.core.errors import UserError
from recipes.core.runs.folder import DONE
from recipes.core.runs.records import final_metrics
from recipes.core.statistics import compare
from recipes.core.statistics.intervals import holm, paired_t
from recipes.core.statistics.measured import read_measurements
from recipes.core.trial.comparison import compare_trial

KEYS = {"weighting"}
ARMS = ("prior", "random", "oracle")


@pytest.fixture
def trial(make_run):
    """`trial(arms, seeds)`: records of a trial's cells, all finished."""

    def make(arms=("ntp", *ARMS), seeds=(0, 1, 2), **changes):
        return [compare.load_run(make_run(arm, seed, **changes)) for seed in seeds for arm in arms]

    return make


def compared(runs, **options):
    measured = [read_measurements(run) for run in runs if run.state == DONE]
    return compare_trial(measured, "ntp", **({"arm_keys": KEYS, "main_metric": "grounded/auc"} | options))


def test_each_arm_stands_beside_the_baseline_over_all_seeds(trial):
    runs = trial()
    comparisons = compared(runs)
    assert [(one.arm, one.baseline, one.seeds, one.unit) for one in comparisons] == [
        (arm, "ntp", (0, 1, 2), "seeds") for arm in ARMS
    ]
    cells = {(run.arm, run.seed): run for run in runs}
    for one in comparisons:
        alone = compare.compare_seeds([(cells[one.arm, seed], cells["ntp", seed]) for seed in range(3)], arm_keys=KEYS)
        assert [row.interval for row in one.rows] == [row.interval for row in alone.rows]


def test_holm_over_the_arms_for_each_metric(trial):
    comparisons = compared(trial())
    for metric in ("grounded/auc", "nll/other", "grounded/digit/accuracy"):
        rows = [one.row(metric) for one in comparisons]
        assert [row.p_holm for row in rows] == pytest.approx(holm([row.interval.p_value for row in rows]))
    smallest = min((one.row("nll/other") for one in comparisons), key=lambda row: row.interval.p_value)
    assert smallest.p_holm == pytest.approx(3 * smallest.interval.p_value)


def test_holm_counts_only_the_arms_that_have_an_interval(trial):
    """On one seed the area under the curve of an arm has no interval: two arms are left to correct for."""
    runs = trial(("ntp", "prior", "random")) + trial(("oracle",), seeds=(2,))
    row_of = {one.arm: one.row("grounded/auc") for one in compared(runs)}
    assert row_of["oracle"].interval is None and row_of["oracle"].p_holm is None
    raw = [row_of[arm].interval.p_value for arm in ("prior", "random")]
    assert [row_of[arm].p_holm for arm in ("prior", "random")] == pytest.approx(holm(raw))


def test_differences_follow_the_seeds(trial):
    runs = trial(("ntp", "prior"), seeds=(2, 0, 1))
    (comparison,) = compared(runs)
    finals = {(run.arm, run.seed): final_metrics(run.path)["grounded/auc"] for run in runs}
    expected = [finals["prior", seed] - finals["ntp", seed] for seed in (0, 1, 2)]
    row = comparison.row("grounded/auc")
    assert (comparison.seeds, row.differences) == ((0, 1, 2), tuple(expected))
    assert row.interval == paired_t(row.differences)
    assert all(len(row.differences) == 3 for row in comparison.rows)


def test_missing_seeds_are_left_out(trial):
    runs = trial(("ntp",), seeds=(0, 1, 2, 3)) + trial(("prior",), seeds=(1, 2, 3, 4))
    runs += trial(("random",), seeds=(0, 1)) + trial(("random",), seeds=(2,), state="failed")
    runs += trial(("oracle",), seeds=(0, 1), state="interrupted") + trial(("inverse",), seeds=(4,))
    assert [(one.arm, one.seeds) for one in compared(runs)] == [("prior", (1, 2, 3)), ("random", (0, 1))]


def test_without_a_finished_baseline_there_is_nothing_to_compare(trial):
    assert compared(trial(("ntp",), state="failed") + trial(("prior",))) == []
    assert compared([]) == []


def test_one_seed_gives_intervals_over_examples(trial):
    runs = trial(("ntp", "prior", "random"), seeds=(3,))
    comparisons = compared(runs)
    for one, run in zip(comparisons, runs[1:], strict=True):
        alone = compare.compare_runs(run, runs[0], arm_keys=KEYS)
        assert (one.unit, one.seeds) == ("examples", (3,))
        assert [row.interval for row in one.rows] == [row.interval for row in alone.rows]
        assert all(row.differences == (row.value - row.baseline,) for row in one.rows)
    raw = [one.row("nll/image").interval.p_value for one in comparisons]
    assert [one.row("nll/image").p_holm for one in comparisons] == pytest.approx(holm(raw))


def test_each_table_is_read_once(trial, monkeypatch):
    runs, read = trial(seeds=(0, 1)), []
    whole = pq.ParquetFile

    def counted(path, *arguments, **options):
        read.append(path)
        return whole(path, *arguments, **options)

    monkeypatch.setattr(pq, "ParquetFile", counted)
    compared(runs)
    assert sorted(read) == sorted(run.path / "examples.parquet" for run in runs)


def test_unplanned_differences_are_reported(trial):
    runs = trial(("ntp",), seeds=(0, 1)) + trial(("prior",), seeds=(0, 1), trainer__learning_rate=0.001)
    (comparison,) = compared(runs)
    assert comparison.unplanned == (("trainer.learning_rate", "0.001", "0.002"),)


def test_arms_must_share_examples(trial):
    runs = trial(("ntp",), seeds=(0, 1)) + trial(("prior",), seeds=(0, 1), prefix="train-")
    with pytest.raises(UserError, match="no example in common"):
        compared(runs)
