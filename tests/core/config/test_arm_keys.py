"""Keys that arms set: refused in a trial, and a run that types one over needs a name of its own."""

import pytest

from recipes.core.config import compose
from recipes.core.config.arm_keys import arm_conflicts
from recipes.core.errors import UserError
from recipes.core.runs.identity import identify
from recipes.core.trial.cells import sweep_cells, trial_cells


@pytest.mark.parametrize(
    ("recipe", "word", "setters"),
    [
        ("sample-reweighting", "reweight.strategy=quadratic", "linupper, uniform, quadratic"),
        ("sample-reweighting", "reweight={strategy: quadratic}", "linupper"),
        ("sample-reweighting", "reweight={}", "linupper"),
        ("prior", "weighting=focal", "prior, ntp"),
        ("prior", "+weighting.floor=0.2", "prior_floor"),
        ("token-pruning", "pruner=fastv", "divprune, full"),
        ("token-pruning", "keep=[0.1]", "pool, vtw"),
        ("tokenflex", "flex.tokens=[4,64]", "flex"),
        ("dsir", "select.ngrams=1", "unigrams"),
    ],
)
def test_a_trial_refuses_what_its_arms_set(recipe: str, word: str, setters: str) -> None:
    with pytest.raises(UserError) as refused:
        trial_cells(recipe, [word], list(compose.arms(recipe)), [0])
    assert refused.value.what.endswith("what arms choose")
    assert f"set by {setters}" in str(refused.value.hint)


def test_a_trial_takes_what_no_chosen_arm_sets_and_says_which_arms_are_left() -> None:
    assert len(trial_cells("prior", ["weighting.floor=0.2"], ["prior", "ntp"], [0, 1])) == 4
    with pytest.raises(UserError, match="keep is what arms choose") as refused:
        trial_cells("token-pruning", ["keep=[0.1]"], ["divprune", "random", "pool"], [0])
    assert "without the arms that set it: --arms divprune,random" in str(refused.value.hint)


def test_a_trial_names_the_arm_that_has_it_so_and_the_run_to_type() -> None:
    with pytest.raises(UserError) as refused:
        trial_cells("sample-reweighting", ["reweight.strategy=quadratic"], ["linupper", "uniform"], [0])
    hint = str(refused.value.hint)
    assert "arms that have it so: quadratic" in hint
    assert "steelyard run sample-reweighting reweight.strategy=quadratic label=NAME" in hint


def test_a_trial_has_no_label() -> None:
    with pytest.raises(UserError, match="under the names of their arms"):
        trial_cells("prior", ["label=mine"], ["prior", "ntp"], [0])


def test_two_arms_that_are_one_run_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = compose._hydra_tree("prior", ())
    same = tree | {"arms": tree["arms"] | {"twin": {"description": "ntp again", "set": {"weighting.name": "ntp"}}}}
    monkeypatch.setattr(compose, "_hydra_tree", lambda recipe, choices: same)
    with pytest.raises(UserError, match="arms ntp and twin are the same run with this config"):
        trial_cells("prior", [], ["prior", "ntp", "twin"], [0, 1])


def test_a_run_that_types_over_its_arm_needs_a_label() -> None:
    with pytest.raises(UserError) as refused:
        compose.compose("sample-reweighting", ["reweight.strategy=quadratic", "seed=3"])
    assert str(refused.value.hint) == (
        "reweight.strategy = quadratic: arm linupper sets it to linupper; type arm=quadratic, or give the run a name "
        "of its own with label=NAME: steelyard run sample-reweighting reweight.strategy=quadratic seed=3 "
        "label=my-linupper"
    )
    config = compose.compose("sample-reweighting", ["reweight.strategy=quadratic", "label=mine"])
    assert (config.arm, config.variant, config.reweight.strategy) == ("linupper", "mine", "quadratic")


def test_a_key_typed_as_the_arm_has_it_needs_none() -> None:
    config = compose.compose("prior", ["arm=prior_floor", "weighting.floor=0.3"])
    assert identify(config).hash == identify(compose.compose("prior", ["arm=prior_floor"])).hash
    assert compose.compose("token-pruning", ["pruner=grid"]).arm == "grid"


def test_a_label_does_not_change_what_a_run_is() -> None:
    plain, named = (compose.compose("prior", words) for words in ([], ["label=mine"]))
    assert identify(plain).hash == identify(named).hash


@pytest.mark.parametrize("label", ["ntp", "trials", "../x", "a/b", ".hidden", "'a b'", "''", "x" * 81])
def test_a_label_is_a_plain_file_name_that_no_arm_has(label: str) -> None:
    with pytest.raises(UserError) as refused:
        compose.compose("prior", [f"label={label}"])
    assert "label = " in str(refused.value.hint)


def test_cells_of_a_sweep_need_a_label_where_they_type_over_their_arm() -> None:
    words = ["reweight.strategy=quadratic,extremes"]
    with pytest.raises(UserError, match="1 problem|2 problems"):
        sweep_cells("sample-reweighting", words)
    cells = sweep_cells("sample-reweighting", [*words, "label=shapes"])
    assert {cell.folder.split("/")[1] for cell in cells} == {"shapes"}


def test_keys_overlap_up_and_down() -> None:
    arm = {"mask.kind": "learned", "keep": [0.5]}
    assert arm_conflicts([("mask.kind", "mapo")], arm) == {"mask.kind": ("mapo", "learned")}
    assert set(arm_conflicts([("mask", None), ("keep", [0.1]), ("masks.kind", 1), ("mask.norm", 2)], arm)) == {
        "mask",
        "keep",
    }
    assert arm_conflicts([("mask.kind", "learned"), ("keep", [0.5])], arm) == {}


@pytest.mark.parametrize(
    ("recipe", "words", "arm"),
    [
        ("sample-reweighting", ["reweight.strategy=quadratic"], "quadratic"),
        ("token-pruning", ["arm=vtw", "keep=[0.25,0.0625]"], None),  # `pool` has this keep, and another pruner
        ("token-pruning", ["arm=vtw", "pruner.name=pool", "keep=[0.25,0.0625]"], "pool"),
    ],
)
def test_an_arm_is_suggested_only_where_it_is_what_was_typed(recipe: str, words: list[str], arm: str | None) -> None:
    with pytest.raises(UserError, match="name of its own with label=NAME") as refused:
        compose.compose(recipe, words)
    assert (f"type arm={arm}," in str(refused.value.hint)) == (arm is not None)
    assert ("type arm=" in str(refused.value.hint)) == (arm is not None)


def test_a_trial_suggests_an_arm_only_where_it_is_what_was_typed() -> None:
    with pytest.raises(UserError) as refused:
        trial_cells("token-pruning", ["keep=[0.25,0.0625]"], ["divprune", "random", "pool"], [0])
    assert "arms that have it so" not in str(refused.value.hint)
