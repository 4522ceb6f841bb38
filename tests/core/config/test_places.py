"""Keys in config files that people bring are reported with file and line, whichever file it is."""

from pathlib import Path

import pytest

from cli.new import write_skeleton
from recipes.core.config import compose, registry
from recipes.core.config.outside import recipe_problem
from recipes.core.config.sources import CONFIG_DIR, config_folders
from recipes.core.errors import UserError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of --config-dir."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "usual.yaml").write_text("defaults: [small-lm]\n")
    monkeypatch.setenv(CONFIG_DIR, str(tmp_path))
    return tmp_path


def refused(*words: str, recipe: str = "rho-1") -> str:
    with pytest.raises(UserError) as caught:
        compose.compose(recipe, [*words])
    return str(caught.value)


def test_wrong_keys_of_an_option_are_all_reported_beside_those_that_were_typed(folder):
    file = folder / "model" / "tiny.yaml"
    file.write_text("# mine\ndefaults: [small-lm]\n\nlayres: 3\nwidth: abc\nheads: 3\n")
    assert refused("model=tiny", "trainer.max_stps=3").splitlines() == [
        "3 problems in the config",
        "  trainer.max_stps = 3: unknown key; did you mean trainer.max_steps?",
        f"  {file}, line 4: model.layres = 3: unknown key; did you mean layers?",
        f"  {file}, line 5: model.width = 'abc': must be a whole number",
    ]
    assert f"{file}, line 5" not in refused("model=tiny", "model.width=abc")


def test_an_option_reports_the_file_that_it_begins_with(folder):
    (folder / "model" / "base.yaml").write_text("defaults: [small-lm]\nlayres: 3\n")
    (folder / "model" / "other.yaml").write_text("defaults: [base]\nwidth: 32\n")
    assert f"{folder / 'model' / 'base.yaml'}, line 2: model.layres" in refused("model=other")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("layers: [2\n", ", line 2: is no YAML"),
        ("layers: 2\nlayers: 3\n", ", line 2: layers: is set before, in line 1"),
        ("- a\n", ", line 1: holds a list, not keys with values"),
        ("", ": is empty"),
        ("defaults: [small-lmm]\n", ": begins with small-lmm, which is no option\n  did you mean small-lm?"),
    ],
)
def test_an_option_that_cannot_be_read(text, what, folder):
    file = folder / "model" / "tiny.yaml"
    file.write_text(text)
    assert f"{file}{what}" in refused("model=tiny")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("recipe/prior.yaml", "prior is the name of a recipe, which it would not change"),
        ("modle/a.yaml", "is in the folder of no group\n  did you mean {}/model/a.yaml?"),
        ("model/a.yml", "would not be read\n  call it a.yaml"),
    ],
)
def test_files_that_would_be_ignored_are_refused(name, what, folder):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("recipe: rho-1\n")
    with pytest.raises(UserError) as caught:
        config_folders()
    assert f"{folder / name}: {what.format(folder)}" in str(caught.value)


def test_wrong_keys_of_an_outside_recipe_are_found_in_its_arms_and_budgets_too(tmp_path, monkeypatch):
    write_skeleton(tmp_path, "placed", "", outside=True)
    monkeypatch.setenv(registry.RECIPES, str(tmp_path))
    file = tmp_path / "placed" / "conf" / "recipe" / "placed.yaml"
    text = file.read_text()
    for right, wrong in (("max_steps: 250", "max_stps: 250"), ("by: uniform", "bu: uniform")):
        text = text.replace(right, wrong)
    text = text.replace("evaluation.watch_every: 500", "evaluation.watch_evry: 500") + "bogus: {a: 1}\n"
    file.write_text(text)
    lines = {word: number for number, line in enumerate(text.splitlines(), 1) for word in (line.strip(),)}
    problem = str(recipe_problem("placed"))
    for line, key in (
        ("max_stps: 250", "trainer.max_stps"),
        ("set: {weighting.bu: uniform}", "weighting.bu"),
        ("evaluation.watch_evry: 500", "evaluation.watch_evry"),
        ("bogus: {a: 1}", "bogus"),
    ):
        assert f"{file}, line {lines[line]}: {key}" in problem
    assert "4 problems" in problem


def test_what_the_user_is_to_type_is_no_fault_of_a_recipe(tmp_path, monkeypatch):
    write_skeleton(tmp_path, "asking", "", outside=True)
    monkeypatch.setenv(registry.RECIPES, str(tmp_path))
    file = tmp_path / "asking" / "conf" / "recipe" / "asking.yaml"
    file.write_text(file.read_text().replace("override /model: small-lm", "override /model: causal-lm"))
    assert "model.path: is missing" in refused(recipe="asking")
    assert recipe_problem("asking") is None
