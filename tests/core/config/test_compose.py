"""Composition: presets in order, all problems at once, stable hashes. Texts are features."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from recipes.core.config import compose, registry, sources
from recipes.core.config.sources import read_yaml
from recipes.core.errors import UserError
from recipes.core.runs.identity import identify


def message(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        compose.compose("prior", list(overrides))
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_the_default_is_the_method_on_data_that_ships() -> None:
    config = compose.compose("prior", [])
    assert (config.recipe, config.arm, config.data.name, config.model.name) == (
        "prior",
        "prior",
        "digit-captions",
        "small",
    )
    assert config.weighting.alpha == 1.0


def test_typed_keys_win_over_the_arm_and_the_arm_over_the_files() -> None:
    assert compose.compose("prior", ["arm=prior_floor"]).weighting.floor == 0.3
    assert compose.compose("prior", ["arm=prior_floor", "weighting.floor=0.1", "label=low"]).weighting.floor == 0.1
    assert compose.compose("prior", ["budget=smoke"]).trainer.max_steps == 40
    assert compose.compose("prior", ["budget=smoke", "trainer.max_steps=50"]).trainer.max_steps == 50


def test_all_wrong_keys_and_values_are_told_together() -> None:
    text = message(
        "trainer.max_step=5", "weighting.alpha=-1", "weighting.floor=2", "trainer.batch_size=many", "seed=-1"
    )
    assert text.splitlines()[0] == "5 problems in the config"
    assert "trainer.max_step = 5: unknown key; did you mean trainer.max_steps?" in text
    assert "weighting.alpha = -1.0: must be >= 0" in text
    assert "weighting.floor = 2.0: must be >= 0 and <= 1" in text
    assert "trainer.batch_size = 'many': must be a whole number" in text
    assert "seed = -1: must be >= 0" in text


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("arm=priorr", "arm = priorr: did you mean prior?"),
        ("model=smollm", "model = smollm: did you mean smollm2-135m?"),
        ("data=digits", "data = digits: did you mean digit-captions?"),
        ("budget=tiny", "choose from smoke, small, full"),
        ("weighting.alpha=0.5,1", "a run takes one value for each key"),
        ("weighting.alpha", "is not KEY=VALUE"),
        ("~seed", "keys cannot be deleted"),
        ("recipe=dsir", "the recipe is the first word"),
        ("weighting.alpha=nan", "must be a number"),
        ("reference.source=path", "reference.path"),
        ("weighting.cap=0.5", "below 1, the mean weight"),
    ],
)
def test_bad_overrides_say_what_to_type(override: str, text: str) -> None:
    assert text in message(override)


def test_rules_between_keys() -> None:
    assert "does not divide" in message("trainer.micro_batch_size=5")
    assert "oracle needs data whose image-determined tokens are known" in message(
        "arm=oracle", "data=image-text", "data.path=x.jsonl"
    )


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown recipe 'piror'") as caught:
        registry.card("piror")
    assert "did you mean prior?" in str(caught.value)


def test_the_hash_holds_what_changes_the_result_and_nothing_else() -> None:
    base = identify(compose.compose("prior", [])).hash
    for same in ("outputs=elsewhere", "tracker=none", "trainer.save_steps=7", "trainer.log_steps=3", "seed=4"):
        assert identify(compose.compose("prior", [same])).hash == base, same
    for other in ("trainer.max_steps=601", "weighting.alpha=2", "data.filler=unpredictable", "arm=ntp"):
        assert identify(compose.compose("prior", [other])).hash != base, other


def test_the_written_config_reads_back_the_same(tmp_path) -> None:  # type: ignore[no-untyped-def]
    config = compose.compose("prior", ["arm=random", "seed=3"])
    (tmp_path / "config.yaml").write_text(compose.to_yaml(config))
    assert read_yaml(tmp_path / "config.yaml") == compose.to_tree(config)


TREES = ["a: 1", "a: [1, .inf, 1e3, 007, yes, ~, 2026-01-01, 'b']", "- a", "", "a: é ✓ 😀", "a: {b: {c: []}}", "x"]
TREES += ["seed: 7\na: {seed: 3}", "a: 1\nseed: 0", "seed: 1\nseed: 2", "seed: 007", 'a: "x\nseed: 5\ny"', "seed: 1_0"]
NO_TREES = ["a: &x 1\nb: *x", "a: 'x", "a: b: c", "a: !!python/name:os.system x", "a: 1\n---\nb: 2", "[" * 2000]


@pytest.mark.parametrize("text", [*TREES, *NO_TREES, 'a: "\\ud800"', "- " * 40, "a: 'b & c * d'"])
def test_a_config_is_read_the_same_with_libyaml_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    def read() -> str:
        try:
            return repr(read_yaml(tmp_path / "config.yaml"))
        except (ValueError, yaml.YAMLError, RecursionError) as error:
            return "refused" if text in NO_TREES else repr(error)

    (tmp_path / "config.yaml").write_text(text)
    fast = read()
    monkeypatch.setattr(sources, "LIBYAML", None)
    assert fast == read() and (fast == "refused") == (text in NO_TREES)


def test_configs_that_differ_in_their_seed_are_trees_of_their_own(tmp_path: Path) -> None:
    texts = [f"recipe: prior\nseed: {seed}\nmodel: {{layers: [1]}}\n" for seed in (3, 12)]
    trees = []
    for text in texts:
        (tmp_path / "config.yaml").write_text(text)
        trees.append(read_yaml(tmp_path / "config.yaml"))
        assert list(trees[-1].items()) == list(yaml.safe_load(text).items())
    trees[0]["model"]["layers"].append(2)
    assert trees[1]["model"] == {"layers": [1]}


def test_every_key_is_explained() -> None:
    for key, info in compose.config_keys("prior").items():
        assert info.help, key


def test_config_errors_need_no_torch() -> None:
    code = """
import sys
from recipes.core.config import compose
from recipes.core import errors
try:
    compose.compose("prior", ["weighting.alpha=-1"])
except errors.UserError:
    pass
assert "torch" not in sys.modules and "transformers" not in sys.modules, "torch was imported"
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("recipe", "words", "problem"),
    [
        (
            "sample-reweighting",
            ["data.near_duplicates=0.8"],
            "data.near_duplicates = 0.8: unknown key of data=linear-regression; "
            "it belongs to data=domains, docstrings, korean-law, licences, news",
        ),
        (
            "sample-reweighting",
            ["data=licences", "data.features=3"],
            "data.features = 3: unknown key of data=domains; it belongs to data=linear-regression",
        ),
        (
            "token-pruning",
            ["pruner=grid", "pruner.metric=l2"],
            "pruner.metric = l2: unknown key of pruner=grid; it belongs to pruner=divprune, zero_tprune",
        ),
        ("rho-1", ["data.features=3"], "data.features = 3: unknown key; did you mean"),
    ],
)
def test_a_key_of_another_kind_says_what_it_belongs_to(recipe: str, words: list[str], problem: str) -> None:
    with pytest.raises(UserError) as caught:
        compose.compose(recipe, words)
    assert problem in str(caught.value)


def test_a_kind_that_is_typed_has_its_own_keys(tmp_path):
    words = ["data=answers", "data.path=x.jsonl", "model=causal-lm", "model.path=x"]
    for order in (["small=causal-lm", "small.path=y"], ["small.path=y", "small=causal-lm"]):
        assert compose.compose("cascades", [*words, *order]).small.path == "y"
    with pytest.raises(UserError) as refused:
        compose.compose("cascades", [*words, "small=causal-lm", "small.path=y", "small.layers=2"])
    assert "small.layers = 2: unknown key of small=causal-lm; it belongs to small=transducer" in refused.value.hint
