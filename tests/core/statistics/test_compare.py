"""Comparison of run folders: what is paired, what the differences are, and what is refused with which words."""

import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest

from recipes.core.config import registry
from recipes.core.errors import UserError
from recipes.core.runs.records import final_metrics
from recipes.core.statistics import claims, compare
from recipes.core.statistics.comparison_table import comparison_table
from recipes.core.statistics.intervals import Interval, holm, paired_bootstrap, paired_t
from recipes.core.statistics.measured import paired_examples, read_measurements
from recipes.core.statistics.texts import interval_text, number_text, p_text, seed_words
from recipes.core.trial.comparison import compare_trial

KEYS = {"weighting"}


def outputs_of(folder):
    return folder.parents[2]


def pair(make_run, **changes):
    return compare.load_run(make_run("prior", **changes)), compare.load_run(make_run("ntp", **changes))


def test_runs_are_found_by_recipe_and_ordered(make_run):
    first = make_run("prior", 1)
    make_run("ntp", 0)
    make_run("prior", 0, state="failed")
    make_run("other", 0, recipe="elsewhere")
    runs = compare.find_runs(outputs_of(first), "prior")
    assert [(run.arm, run.seed, run.state) for run in runs] == [
        ("ntp", 0, "done"),
        ("prior", 0, "failed"),
        ("prior", 1, "done"),
    ]
    assert len(compare.find_runs(outputs_of(first))) == 4
    assert runs[2].path == first
    assert runs[2].started == "2026-01-02T00:00:00"
    assert compare.find_runs(first / "nothing") == []


def test_baseline_shares_seed_and_config_but_for_what_arms_choose(make_run):
    run = compare.load_run(make_run("prior", 0, weighting__alpha=2.0, outputs="elsewhere", trainer__save_steps=7))
    make_run("ntp", 1)
    make_run("ntp", 0, tag="longer", trainer__max_steps=900)
    make_run("ntp", 0, tag="unfinished", state="running")
    right = make_run("ntp", 0)
    runs = compare.find_runs(outputs_of(right), "prior")
    assert compare.find_baseline(run, runs, "ntp", KEYS).path == right
    assert compare.find_baseline(run, runs, "random", KEYS) is None
    assert compare.find_baseline(run, runs, "ntp", set()) is None


def test_arms_differ_in_what_they_set_and_in_nothing_beside_it():
    card = registry.card("recycled-attention")
    keys = claims.free_keys("recycled-attention", ("recycled", "streaming"), card)
    assert "cache.name" in keys and not {"cache", "cache.k", "cache.equal_cost"} & keys
    # A label may stand for anything that arms are free to change.
    assert claims.free_keys("recycled-attention", ("mine", "streaming"), card) == set(card.pair_keys)
    # Of a key that holds one of several kinds of config, all that is below it.
    assert "pruner" in claims.free_keys("token-pruning", ("divprune", "random"), registry.card("token-pruning"))


def test_one_seed_gives_bootstrap_intervals_over_source_items(make_run):
    run, baseline = pair(make_run)
    comparison = compare.compare_runs(run, baseline, arm_keys=KEYS, draws=1_000)
    row = comparison.row("nll/image")
    tables = [pq.read_table(record.path / "examples.parquet").to_pandas() for record in (run, baseline)]
    mine, theirs = (table[table.metric == "nll/image"] for table in tables)
    expected = paired_bootstrap(mine.value, mine["count"], theirs.value, theirs["count"], mine.group, draws=1_000)
    assert (row.interval.low, row.interval.high) == pytest.approx((expected.low, expected.high))
    assert row.number == 60
    assert row.value == pytest.approx(np.average(mine.value, weights=mine["count"]))
    assert row.title == "Loss on image tokens"
    assert (comparison.unit, comparison.seeds, comparison.unplanned) == ("examples", (0,), ())


def test_direction_of_good_decides_the_outcome(make_run):
    comparison = compare.compare_runs(*pair(make_run), arm_keys=KEYS, draws=1_000)
    assert comparison.row("grounded/digit/accuracy").outcome == "better"
    assert comparison.row("nll/image").outcome == "better"
    assert comparison.row("nll/other").outcome == "worse"
    assert comparison.row("grounded/thickness/accuracy").outcome == "unclear"


def test_metric_without_examples_has_no_interval_on_one_seed(make_run):
    row = compare.compare_runs(*pair(make_run), arm_keys=KEYS, draws=200).row("grounded/auc")
    assert row.interval is None
    assert row.difference > 0.1
    assert row.outcome == "untested"


def test_examples_are_joined_by_name_not_by_place(make_run):
    run, baseline = pair(make_run)
    whole = compare.compare_runs(run, baseline, arm_keys=KEYS, draws=200)
    table = pq.read_table(baseline.path / "examples.parquet")
    order = np.random.default_rng(0).permutation(len(table))
    pq.write_table(table.take(order), baseline.path / "examples.parquet")
    shuffled = compare.compare_runs(run, baseline, arm_keys=KEYS, draws=200)
    assert [row.difference for row in shuffled.rows] == pytest.approx([row.difference for row in whole.rows])
    half = [index for index, name in enumerate(table["example"].to_pylist()) if int(name.split("-")[1]) < 60]
    pq.write_table(table.take(half), baseline.path / "examples.parquet")
    assert compare.compare_runs(run, baseline, arm_keys=KEYS, draws=200).row("nll/image").number == 30


def test_several_seeds_give_t_intervals_also_for_curve_areas(make_run):
    pairs = [pair(make_run, seed=seed) for seed in range(3)]
    comparison = compare.compare_seeds(pairs, arm_keys=KEYS, main_metric="grounded/auc")
    row = comparison.row("grounded/auc")
    finals = [[final_metrics(record.path)["grounded/auc"] for record in both] for both in pairs]
    expected = paired_t([mine - theirs for mine, theirs in finals])
    assert row.interval == expected
    assert row.p_holm == expected.p_value
    assert row.effect_size > 1
    assert (comparison.unit, comparison.seeds, row.number) == ("seeds", (0, 1, 2), 3)
    assert comparison.row("nll/other").outcome == "worse"


def test_one_pair_of_seeds_gets_the_intervals_over_examples(make_run):
    run, baseline = pair(make_run)
    assert compare.compare_seeds([(run, baseline)], arm_keys=KEYS) == compare.compare_runs(run, baseline, arm_keys=KEYS)


def test_differences_are_in_the_order_of_the_seeds(make_run):
    pairs = [pair(make_run, seed=seed) for seed in (2, 0, 1)]
    comparison = compare.compare_seeds(pairs, arm_keys=KEYS)
    single = [compare.compare_runs(*pairs[place], arm_keys=KEYS).row("nll/image").differences for place in (1, 2, 0)]
    assert comparison.seeds == (0, 1, 2)
    assert comparison.row("nll/image").differences == tuple(value for (value,) in single)


def test_one_arm_alone_has_nothing_to_correct_for(make_run):
    comparison = compare.compare_runs(*pair(make_run), arm_keys=KEYS, draws=500)
    assert all(row.p_holm == row.interval.p_value for row in comparison.rows if row.interval)


def test_the_correction_is_over_the_arms_of_each_metric_but_for_tests_named_in_advance(make_run):
    """Several arms compared by `compare` get what a trial of them gets."""
    arms = ("prior", "random", "oracle")
    records = [compare.load_run(make_run(arm, seed)) for seed in range(3) for arm in ("ntp", *arms)]
    alone = [compare.compare_arms(records, arm, "ntp", arm_keys=KEYS) for arm in arms]
    named = {("prior", "grounded/auc")}
    together = compare.correct_over_arms(alone, named)
    auc, other = ([one.row(metric) for one in together] for metric in ("grounded/auc", "nll/other"))
    assert auc[0].p_holm == auc[0].interval.p_value
    assert [row.p_holm for row in auc[1:]] == pytest.approx(holm([row.interval.p_value for row in auc[1:]]))
    assert [row.p_holm for row in other] == pytest.approx(holm([row.interval.p_value for row in other]))
    trial = compare_trial(list(map(read_measurements, records)), "ntp", arm_keys=KEYS, main_metric=None, named=named)
    assert [one.rows for one in trial] == [one.rows for one in together]


def test_arms_are_compared_with_the_config_of_the_newest_run(make_run):
    for seed in range(3):
        folder = make_run("prior", seed)
        make_run("ntp", seed)
    make_run("prior", 0, tag="older", weighting__alpha=2.0)
    runs = compare.find_runs(outputs_of(folder), "prior")
    assert compare.compare_arms(runs, "prior", "ntp", arm_keys=KEYS).seeds == (0, 1, 2)
    only = [run for run in runs if run.seed == 1]
    assert compare.compare_arms(only, "prior", "ntp", arm_keys=KEYS).unit == "examples"


def test_keys_that_differ_unplanned_are_reported(make_run):
    run = compare.load_run(make_run("prior"))
    baseline = compare.load_run(make_run("ntp", trainer__learning_rate=0.001))
    comparison = compare.compare_runs(run, baseline, arm_keys=KEYS, draws=200)
    assert comparison.unplanned == (("trainer.learning_rate", "0.002", "0.001"),)
    assert ("weighting.name", "prior", "ntp") in compare.config_differences(run, baseline)


def test_table_starts_with_the_main_metric(make_run):
    comparison = compare.compare_runs(*pair(make_run), arm_keys=KEYS, draws=200, main_metric="grounded/auc")
    table = comparison_table(comparison)
    assert table[0]["metric"] == "grounded/auc"
    assert table[0]["interval"] == ""
    assert set(table[0]) == {
        "metric", "title", "arm prior", "arm ntp", "difference", "interval", "p (Holm)", "d_z", "n", "outcome",
    }  # fmt: skip
    assert all(line["difference"][0] in "+-" or line["difference"] == "0.000" for line in table)
    assert len(table) == 5


def test_numbers_are_short():
    assert [number_text(value) for value in (0.12345, 14.523, 123.45, 1234.5, 0.00012, 0.0)] == [
        "0.123", "14.52", "123.5", "1234", "1.2e-04", "0.000",
    ]  # fmt: skip
    assert number_text(-0.5, signed=True) == "-0.500"
    for noise in (1.4e-17, -2e-16, 0.1 + 0.2 - 0.3, -0.0):  # what rounding leaves of equal numbers
        assert number_text(noise, signed=True) == number_text(noise) == "0.000"
    assert number_text(1.4e-7, signed=True) == "+1.4e-07"


def test_a_seed_numbered_0_does_not_read_as_none() -> None:
    assert [seed_words(seeds) for seeds in ((0,), (3,), (0, 1, 2))] == ["seed 0", "seed 3", "seeds 0, 1, 2"]
    assert interval_text(Interval(0.1, 0.01, 0.2, 0.03, 0.95)) == "[+0.010, +0.200]"
    assert (p_text(0.0002), p_text(0.0312)) == ("<0.001", "0.031")


def refused(call, *words):
    with pytest.raises(UserError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)


def test_refusals_say_what_where_and_what_to_type(make_run, tmp_path):
    done = compare.load_run(make_run("prior"))
    running = compare.load_run(make_run("ntp", state="interrupted"))
    other_seed = compare.load_run(make_run("ntp", 1))
    stranger = compare.load_run(make_run("ntp", recipe="elsewhere"))
    with_others = compare.load_run(make_run("random", prefix="train-"))
    refused(lambda: compare.load_run(tmp_path), "no readable config.yaml", str(tmp_path), "steelyard runs")
    refused(
        lambda: compare.compare_runs(done, running, arm_keys=KEYS),
        "not finished (state: interrupted)",
        str(running.path),
    )
    refused(lambda: compare.compare_runs(done, stranger, arm_keys=KEYS), "different recipes", "prior and elsewhere")
    refused(
        lambda: compare.compare_runs(done, other_seed, arm_keys=KEYS),
        "different seeds",
        "steelyard run prior arm=ntp seed=0",
    )
    refused(lambda: compare.compare_runs(done, with_others, arm_keys=KEYS), "no example in common", "same data")
    refused(lambda: compare.compare_seeds([(done, running)], arm_keys=KEYS), "not finished")


def test_missing_arms_are_told_with_what_exists(make_run):
    runs = [compare.load_run(make_run("prior", 0)), compare.load_run(make_run("ntp", 1))]
    refused(
        lambda: compare.compare_arms(runs, "oracle", "ntp", arm_keys=KEYS),
        "no finished run of arm oracle",
        "1 of prior ntp (done)",
    )
    refused(lambda: compare.compare_arms([], "prior", "ntp", arm_keys=KEYS), "there are no runs here", "steelyard run")
    refused(
        lambda: compare.compare_arms(runs, "prior", "ntp", arm_keys=KEYS),
        "no finished run of ntp has the seed",
        "arm=ntp seed=0",
    )


def test_nan_scores_give_no_interval(make_run):
    run, baseline = pair(make_run)
    table = pq.read_table(run.path / "examples.parquet").to_pandas()
    table.loc[table.metric == "nll/other", "value"] = np.nan
    table.to_parquet(run.path / "examples.parquet")
    row = compare.compare_runs(run, baseline, arm_keys=KEYS, draws=200).row("nll/other")
    assert row.interval is None
    assert dataclasses.replace(row, value=1.0, baseline=0.5).difference == 0.5


def test_over_examples_source_items_of_all_seeds_are_resampled_together(make_run):
    pairs = [
        tuple(read_measurements(compare.load_run(make_run(arm, seed))) for arm in ("prior", "ntp")) for seed in range(3)
    ]
    metric = "grounded/digit/accuracy"
    comparison = compare.compare_measurements(pairs, arm_keys=KEYS, over_examples={metric}, draws=500)
    pooled, other = comparison.row(metric), comparison.row("nll/image")
    both = [paired_examples(*pair)[metric] for pair in pairs]
    columns = [
        np.concatenate([getattr(pair[side], name) for pair in both])
        for side, name in ((0, "values"), (0, "counts"), (1, "values"), (1, "counts"), (0, "groups"))
    ]
    assert pooled.interval == paired_bootstrap(*columns, draws=500)
    assert (pooled.number, pooled.examples.number, len(pooled.differences)) == (60, 360, 3)
    assert pooled.examples.unequal == np.sum(columns[0] != columns[2]) and pooled.examples.largest == 1
    assert other.examples is None and other.number == 3
    table = {line["metric"]: line["n"] for line in comparison_table(comparison)}
    assert (table[metric], table["nll/image"]) == ("60 items", "3 seeds")


def test_runs_of_the_same_examples_hold_their_names_once_and_scores_of_their_own(make_run) -> None:
    folders = [make_run(arm, seed) for arm in ("prior", "ntp") for seed in (0, 1)]
    runs = [read_measurements(compare.load_run(folder)) for folder in folders]
    for metric, first in runs[0].examples.items():
        for folder, run in zip(folders, runs, strict=True):
            rows = [row for row in pq.read_table(folder / "examples.parquet").to_pylist() if row["metric"] == metric]
            one = run.examples[metric]
            assert one.ids is first.ids and one.groups is first.groups
            assert one.ids.tolist() == [row["example"] for row in rows]
            assert one.counts.tolist() == [row["count"] for row in rows]
            assert one.values.tolist() == [row["value"] for row in rows]
