"""`steelyard compare` on synthetic run folders."""

import json

import pytest
import yaml

from recipes.core.runs.folder import RunFolder
from recipes.core.runs.identity import hash_of
from recipes.core.storage.files import write_json


def test_every_finished_arm_stands_beside_the_baseline(steelyard, make_run) -> None:
    make_run("ntp", 0)
    make_run("random", 0)
    folder = make_run("prior", 0)
    make_run("inverse", 0, state="failed")
    ended = steelyard("compare", "prior", "--outputs", folder.parents[2])
    assert ended.code == 0, ended.err
    titles = [line for line in ended.out.splitlines() if line.startswith("prior: ")]
    assert titles == ["prior: prior - ntp, seed 0", "prior: random - ntp, seed 0"]
    assert ended.out.splitlines()[1] == "runs prior/0123456789-s* and ntp/0123456789-s*"
    header, first = ended.out.splitlines()[2:4]
    assert header.split()[:3] == ["metric", "arm", "prior"]
    assert first.startswith("grounded/auc")  # the claim's metric


def test_arm_and_metric_can_be_chosen_and_json_is_unrounded(steelyard, make_run) -> None:
    make_run("ntp", 0)
    make_run("random", 0)
    folder = make_run("prior", 0)
    words = ["--arm", "prior", "--metric", "nll/image", "--json", "--outputs", folder.parents[2]]
    (comparison,) = json.loads(steelyard("compare", "prior", *words).out)["result"]
    (row,) = comparison["rows"]
    assert (comparison["arm"], comparison["unit"], comparison["seeds"]) == ("prior", "examples", [0])
    assert row["metric"] == "nll/image"
    assert abs(row["difference"] - (row["value"] - row["baseline"])) < 1e-9
    assert row["interval"][0] < row["difference"] < row["interval"][1]
    assert row["outcome"] == "better"


def test_several_seeds_give_one_comparison_over_seeds(steelyard, make_run) -> None:
    for seed in (0, 1, 2):
        make_run("ntp", seed)
        folder = make_run("prior", seed)
    (comparison,) = json.loads(steelyard("compare", "prior", "--json", "--outputs", folder.parents[2]).out)["result"]
    assert (comparison["unit"], comparison["seeds"]) == ("seeds", [0, 1, 2])


@pytest.mark.parametrize(("budget", "judged"), [("smoke", False), ("small", True)])
def test_runs_of_the_smallest_budget_are_not_judged_here_either(steelyard, make_run, budget, judged) -> None:
    for seed in (0, 1, 2):
        make_run("ntp", seed, budget=budget)
        folder = make_run("prior", seed, budget=budget)
    (comparison,) = json.loads(steelyard("compare", "prior", "--json", "--outputs", folder.parents[2]).out)["result"]
    (claim,) = [row for row in comparison["rows"] if row["metric"] == "grounded/auc"]
    assert (claim["outcome"] != "not judged") == judged


def test_two_folders(steelyard, make_run) -> None:
    baseline, folder = make_run("ntp", 0), make_run("prior", 0, trainer__max_steps=900)
    ended = steelyard("compare", folder, baseline)
    assert ended.out.startswith("prior: prior - ntp, seed 0\n")
    assert ended.err == "warning: trainer.max_steps differs too: 900 and 600\n"


def test_an_arm_that_cannot_be_paired_is_left_out_and_named(steelyard, make_run) -> None:
    make_run("ntp", 0)
    make_run("random", 5)
    folder = make_run("prior", 0)
    ended = steelyard("compare", "prior", "--outputs", folder.parents[2])
    assert ended.code == 0
    assert "random" not in ended.out
    assert "left out: no finished run of ntp has the seed, config and recipe version of" in ended.err
    assert "steelyard run prior arm=ntp seed=5" in ended.err


def test_the_baseline_that_lacks_is_started_with_the_keys_of_the_arm(steelyard, make_run) -> None:
    make_run("ntp", 0, trainer__max_steps=600)
    folder = make_run("prior", 0, trainer__max_steps=900)
    write_json(folder / "env.json", {"command": "steelyard run prior trainer.max_steps=900 weighting.alpha=2"})
    RunFolder(folder).finish(finished=None)
    ended = steelyard("compare", "prior", "--outputs", folder.parents[2])
    assert ended.code == 2
    assert "start one: steelyard run prior arm=ntp trainer.max_steps=900" in ended.err


def test_wrong_words_say_what_to_type(steelyard, make_run, tmp_path) -> None:
    make_run("ntp", 0)
    folder = make_run("prior", 0)
    outputs = ("--outputs", folder.parents[2])
    for words, told in [
        (("compare", "prior", "--arm", "priro", *outputs), "did you mean prior?"),
        (("compare", "prior", "--metric", "nll/imag", *outputs), "did you mean nll/image?"),
        (("compare", "prior", "--arm", "random", *outputs), "there is no finished run of arm random"),
        (("compare", "prior", "--outputs", tmp_path / "empty"), "steelyard run RECIPE"),
        (("compare", folder), f"type: steelyard compare {folder} BASELINE_FOLDER"),
        (("compare", tmp_path, folder), "is not a run folder"),
    ]:
        ended = steelyard(*words)
        assert ended.code == 2
        assert told in ended.err


def test_of_several_configs_the_newest_is_named_and_the_others_can_be_chosen(steelyard, make_run) -> None:
    for seed in (0, 1):
        make_run("ntp", seed)
        make_run("prior", seed)
    make_run("ntp", 2, tag="longer", trainer__max_steps=900)
    folder = make_run("prior", 2, tag="longer", trainer__max_steps=900)
    words = ["compare", "prior", "--arm", "prior", "--outputs", folder.parents[2]]
    newest = steelyard(*words)
    assert newest.out.splitlines()[:2] == [
        "prior: prior - ntp, seed 2",
        "runs prior/longer-s2 and ntp/longer-s2".replace("s2", "s*"),
    ]
    assert newest.err.splitlines() == [
        "warning: prior has finished runs of 2 configs; prior/longer-s* is compared. To choose another:",
        "  --where trainer.max_steps=600  (prior/0123456789-s*)",
        "warning: ntp has finished runs of 2 configs; ntp/longer-s* is compared. To choose another:",
        "  --where trainer.max_steps=600  (ntp/0123456789-s*)",
    ]
    chosen = steelyard(*words, "--where", "trainer.max_steps=600")
    assert chosen.out.splitlines()[0] == "prior: prior - ntp, seeds 0, 1" and chosen.err == ""
    for text, told in (("trainer.max_step=600", "did you mean trainer.max_steps?"), ("seed=9", "there are 0, 1, 2")):
        ended = steelyard(*words, "--where", text)
        assert ended.code == 2 and told in ended.err


def test_runs_of_other_data_with_the_same_keys_are_no_seeds_of_one_config(steelyard, make_run) -> None:
    make_run("ntp", 0)
    make_run("prior", 0, tag="olddata000")
    folder = make_run("prior", 1)
    make_run("ntp", 1)
    ended = steelyard("compare", "prior", "--outputs", folder.parents[2])
    assert ended.out.startswith("prior: prior - ntp, seed 1\n")
    assert "the same keys, other data or code: compare its run folder  (prior/olddata000-s*)" in ended.err


def test_a_labelled_run_is_compared_under_its_label(steelyard, make_run) -> None:
    make_run("ntp", 0)
    folder = make_run("gentle", 0, weighting__alpha=0.5, label="gentle")
    ended = steelyard("compare", "prior", "--arm", "gentle", "--outputs", folder.parents[2])
    assert ended.out.startswith("prior: gentle - ntp, seed 0\nruns gentle/0123456789-s*")


def test_runs_of_two_versions_of_a_recipe_are_not_paired_unless_both_are_named(steelyard, make_run) -> None:
    folders = [make_run("ntp", 0), make_run("prior", 0)]
    for folder, version in zip(folders, (1, 2), strict=True):
        write_json(folder / "identity.json", {"hash": "0123456789", "version": version, "content": {}})
        run = RunFolder(folder)
        tree = yaml.safe_load((folder / "config.yaml").read_text())
        run.finish()
        folder.rename(folder.with_name(f"{hash_of(tree, {}, version)}-s0"))
    baseline, folder = (next(one.parent.iterdir()) for one in folders)
    refused = steelyard("compare", "prior", "--outputs", folder.parents[2])
    assert refused.code == 2 and "no finished run of ntp has the seed, config and recipe version of" in refused.err
    both = steelyard("compare", folder, baseline)
    assert "warning: version of the recipe differs too: 2 and 1" in both.err
