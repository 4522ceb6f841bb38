"""Recipes outside the checkout: found, told apart, and none of them stops another."""

from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from cli.new import write_skeleton
from recipes.core.config import compose, registry
from recipes.core.config.sources import CONF, CONFIG_DIR
from recipes.core.contract import arms_differ_where_the_card_says
from recipes.core.errors import UserError
from recipes.core.runs.identity import identify


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(registry.RECIPES, str(tmp_path))
    return tmp_path


def broken(folder: Path, slug: str, config: str) -> str:
    """A recipe whose config.py is this."""
    (folder / slug).mkdir()
    (folder / slug / "recipe.py").touch()
    (folder / slug / "config.py").write_text(config)
    return slug.replace("_", "-")


def test_recipes_of_a_folder_and_of_families_in_it_are_like_ours(folder, monkeypatch):
    write_skeleton(folder, "seen-flat", "", outside=True)
    write_skeleton(folder, "seen-deep", "seen_family", outside=True)
    assert {"seen-flat", "seen-deep", "prior"} <= set(registry.recipe_names())
    assert "seen-flat" not in registry.recipe_names(outside=False)
    assert registry.family("seen-deep") == "seen_family" and registry.family("seen-flat") == folder.name
    assert registry.source("seen-flat") == registry.source("seen-deep") == folder and registry.source("prior") is None
    config = compose.compose("seen-deep", ["arm=random"])
    assert config.weighting.by == "random" and type(config).__module__ == "seen_family.seen_deep.config"
    assert registry.page("seen-flat") == folder / "seen_flat" / "README.md"
    before, card = identify(config).hash, registry.card("seen-deep")
    monkeypatch.setattr(registry, "card", lambda name: replace(card, version=2))
    assert identify(config).hash != before


def test_options_that_an_outside_recipe_brings_are_its_alone(folder):
    write_skeleton(folder, "with-data", "", outside=True)
    (folder / "with_data" / "conf" / "data").mkdir()
    text = (CONF / "data" / "licences.yaml").read_text()
    (folder / "with_data" / "conf" / "data" / "ours-alone.yaml").write_text(text)
    data = [compose.compose("with-data", [f"data={name}"]).data for name in ("ours-alone", "licences")]
    assert data[0] == data[1]
    assert "ours-alone" not in compose.options("rho-1")["data"]


@pytest.mark.parametrize(
    ("slug", "config", "what", "line"),
    [
        ("bad_import", "import json\nimport nothing_such\n", "ModuleNotFoundError: No module named 'nothing_such'", 2),
        ("bad_syntax", "x = 1\n\ndef f(:\n", "SyntaxError: invalid syntax", 3),
        ("bad_name", "\n\nCARD = Crad()\n", "NameError: name 'Crad' is not defined", 3),
        ("bad_claim", "from recipes.core.config.settings import Claim\nClaim('a')\n", "a claim is missing", 2),
    ],
)
def test_a_recipe_that_cannot_be_read_is_reported_with_file_and_line(slug, config, what, line, folder):
    name = broken(folder, slug, config)
    with pytest.raises(UserError) as refused:
        registry.card(name)
    assert what in refused.value.what and "\n" not in refused.value.what
    assert refused.value.where == f"recipe {name}, {folder}/{slug}/config.py, line {line}"


def test_one_without_a_card_says_what_is_missing(folder):
    name = broken(folder, "no_card", "CONFIG = 1\n")
    with pytest.raises(UserError, match="no_card/config.py: has no CARD"):
        registry.card(name)
    with pytest.raises(UserError, match="has no CONFIG"):
        registry.config_class(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arms: [1\n", "line 2: is no YAML"),
        ("# @package _global_\narm: x\n", "has no arms"),
        ("# @package _global_\narm: x\narms: {y: {description: z}}\n", "its default arm is none of its arms: x"),
        ("# @package _global_\narm: y\narms: {y: {set: {}}}\n", "arm y has no description"),
        ("# @package _global_\nrecipe: prior\narm: y\narms: {y: {description: z}}\n", "its key recipe is prior"),
    ],
)
def test_a_config_file_that_breaks_the_contract(text, message, folder):
    name = "file-" + str(abs(hash(message)))[:6]
    write_skeleton(folder, name, "", outside=True)
    (folder / name.replace("-", "_") / "conf" / "recipe" / f"{name}.yaml").write_text(text)
    with pytest.raises(UserError, match=f"recipe/{name}.yaml.*{message}"):
        compose.arms(name)


def test_a_name_of_two_recipes_is_refused_and_the_others_are_there(folder, tmp_path, monkeypatch):
    write_skeleton(folder, "prior", "", outside=True)
    with pytest.raises(UserError, match=f"recipe prior: two recipes have this name: .* and {folder}/prior"):
        registry.card("prior")
    assert "prior" not in registry.recipe_names() and "rho-1" in registry.recipe_names()
    assert ["two recipes have this name" in str(problem) for problem in registry.outside_problems()] == [True]


def test_a_name_that_python_has_already(folder):
    name = broken(folder, "json", "CARD = 1\n")
    with pytest.raises(UserError, match=r"Python has another module json \(.*json.*\)\n  give the folder another name"):
        registry.card(name)


def test_a_folder_that_is_named_twice_counts_once(folder, tmp_path_factory, monkeypatch):
    write_skeleton(folder, "seen-twice", "", outside=True)
    link = tmp_path_factory.mktemp("home") / "link"
    link.symlink_to(folder)
    monkeypatch.setenv("HOME", str(link.parent))
    monkeypatch.setenv(registry.RECIPES, f"{folder}:{folder}/:~/link")
    assert registry.outside_folders() == [folder] and registry.outside_problems() == []
    assert registry.source("seen-twice") == folder
    monkeypatch.setenv(registry.RECIPES, "~/link")
    assert registry.outside_folders() == [link] and registry.card("seen-twice").version == 1


def test_a_card_whose_pair_keys_are_no_keys_breaks_the_contract(monkeypatch, tmp_path):
    right = registry.card("prior")
    monkeypatch.setattr(registry, "card", lambda name: replace(right, pair_keys=(*right.pair_keys, "weigthing")))
    with pytest.raises(AssertionError, match="the card's `pair_keys` are no keys: weigthing"):
        arms_differ_where_the_card_says("prior", tmp_path)


def test_folders_that_hold_no_recipes_are_named(folder, monkeypatch):
    write_skeleton(folder, "inner", "", outside=True)
    (folder / "not-a-name").mkdir()
    (folder / "not-a-name" / "recipe.py").touch()
    monkeypatch.setenv(registry.RECIPES, f"{folder}:{folder}/none:{folder}/inner")
    texts = "\n".join(map(str, registry.outside_problems()))
    assert f"STEELYARD_RECIPES={folder}/none: there is no such folder" in texts
    assert f"is a recipe's folder\n  type STEELYARD_RECIPES={folder}" in texts
    assert f"{folder}/not-a-name: is no name that Python imports" in texts
    with pytest.raises(UserError, match="unknown recipe 'innr'\n  did you mean inner[^~]*there is no such folder"):
        registry.card("innr")


def test_a_name_that_is_far_from_all_may_be_of_a_folder_that_was_not_named():
    with pytest.raises(
        UserError, match="choose from aligndistil.*\n  a recipe outside the checkout needs STEELYARD_RECIPES"
    ):
        registry.card("zzz")


def test_a_recipe_of_an_installed_package(tmp_path, monkeypatch):
    write_skeleton(tmp_path, "packaged", "some_package", outside=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    points = [
        EntryPoint("packaged", "some_package.packaged", registry.ENTRY_POINTS),
        EntryPoint("gone", "nothing_such.gone", registry.ENTRY_POINTS),
    ]
    monkeypatch.setattr(registry, "_entry_points", lambda: points)
    assert compose.compose("packaged", []).arm == "packaged"
    assert registry.source("packaged") == tmp_path / "some_package"
    assert "gone" not in registry.recipe_names()
    assert "entry point gone = nothing_such.gone: cannot be imported" in str(registry.outside_problems()[0])


def test_options_of_a_config_dir(tmp_path, monkeypatch):
    monkeypatch.setenv(CONFIG_DIR, str(tmp_path))
    with pytest.raises(UserError, match="has no folder of options\n  options lie in it as data/NAME.yaml"):
        compose.groups()
    (tmp_path / "data").mkdir()
    text = (CONF / "data" / "licences.yaml").read_text()
    (tmp_path / "data" / "mine.yaml").write_text(f"{text}\ncharacters: 7000\n")
    assert "mine" in compose.options("rho-1")["data"] and "mine" not in compose.options("prior")["data"]
    assert compose.compose("rho-1", ["data=mine"]).data.characters == 7000
    assert identify(compose.compose("rho-1", ["data=mine", "data.characters=5000"])) == identify(
        compose.compose("rho-1", ["data=licences", "data.characters=5000"])
    )


def test_an_option_that_is_there_already(tmp_path, monkeypatch):
    monkeypatch.setenv(CONFIG_DIR, str(tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "licences.yaml").touch()
    with pytest.raises(UserError, match="data/licences.yaml: there is a data=licences already"):
        compose.groups()
