"""What is typed shorter, written out."""

import json
from pathlib import Path
from typing import Any

import pytest

from recipes.core.config import compose
from recipes.core.config.shorthands import write_out
from recipes.core.errors import UserError

OPTIONS = {"model": ["toy", "llava"], "data": ["digits", "vqa"]}
NAMES = {"model": {"toy": "toy", "llava": "llava"}, "data": {"digits": "digits", "vqa": "vqa"}}
RULES = {
    "folders": {"model": "llava"},
    "implied": {
        "pruner=random": {"arm": "random"},
        "model=llava": {"data": "vqa", "arm": "divprune"},
    },
}


def out(choices: dict[str, str], *keys: tuple[str, Any], rules: dict[str, Any] = RULES) -> Any:
    return write_out(choices, list(keys), options=OPTIONS, names=NAMES, unions=["pruner"], rules=rules)


def test_a_union_is_chosen_by_its_name() -> None:
    assert out({}, ("pruner", "grid"), ("pruner.place", "llm")) == (
        {},
        [("pruner.name", "grid"), ("pruner.place", "llm")],
    )
    assert out({}, ("pruner", "random"), rules={}) == ({}, [("pruner.name", "random")])


def test_an_arm_follows_from_what_it_stands_for_unless_one_was_typed() -> None:
    assert out({}, ("pruner", "random"))[1] == [("pruner.name", "random"), ("arm", "random")]
    assert out({}, ("pruner.name", "random"))[1] == [("pruner.name", "random"), ("arm", "random")]
    assert out({}, ("arm", "grid"), ("pruner", "random"))[1] == [("arm", "grid"), ("pruner.name", "random")]


def test_a_group_follows_from_another_unless_it_was_typed() -> None:
    assert out({"model": "llava"}) == ({"model": "llava", "data": "vqa"}, [("arm", "divprune")])
    assert out({"model": "llava", "data": "digits"})[0] == {"model": "llava", "data": "digits"}
    assert out({"model": "toy"}) == ({"model": "toy"}, [])


def test_a_group_follows_from_a_key_whatever_its_value() -> None:
    rules = {"implied": {"data.path": {"data": "vqa"}}}
    assert out({}, ("data.path", "mine.json"), rules=rules)[0] == {"data": "vqa"}
    assert out({"data": "digits"}, ("data.path", "mine.json"), rules=rules)[0] == {"data": "digits"}
    assert out({}, ("model.path", "mine"), rules=rules)[0] == {}


def test_what_follows_from_a_name_follows_from_all_options_that_have_it() -> None:
    rules = {"implied": {"data=vqa": {"model": "llava"}}}
    names = {"data": {"digits": "digits", "questions": "vqa"}}
    choices = {"data": "questions"}
    written = write_out(choices, [], options=OPTIONS, names=names, unions=[], rules=rules)
    assert written == ({"data": "questions", "model": "llava"}, [])


def test_the_first_rule_for_an_arm_wins() -> None:
    assert out({"model": "llava"}, ("pruner", "random"))[1] == [("pruner.name", "random"), ("arm", "random")]


def test_a_folder_or_hub_name_in_place_of_an_option(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "toy").mkdir()
    for name in (str(tmp_path), "owner/name", "~/x/y", "mine"):
        choices, keys = out({"model": name})
        assert choices == {"model": "llava", "data": "vqa"} and keys[0] == ("model.path", name)
    assert out({"model": "toy"}) == ({"model": "toy"}, [])  # an option wins over a folder of its name
    assert out({"model": "yours"}) == ({"model": "yours"}, [])
    assert out({"data": "owner/name"}) == ({"data": "owner/name"}, [])  # no rule for this group


def holding(folder: Path, kind: str) -> Path:
    """A folder as of a model of this type, or of a run."""
    folder.mkdir()
    if kind.startswith("run of "):
        (folder / "config.yaml").write_text(f"recipe: {kind.removeprefix('run of ')}\n")
        (folder / "status.json").write_text("{}")
    else:
        (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    return folder


def test_a_run_stands_for_the_option_that_takes_the_model_it_left(tmp_path: Path) -> None:
    run = holding(tmp_path / "mine", "run of prior")
    holding(run / "hf", "llava")
    for folder in (run, run / "hf"):
        assert compose.compose("prior", [f"model={folder}"]).model.name == "llava"
        assert compose.compose("token-pruning", [f"model={folder}"]).model.name == "prior-vlm"  # is asked for first


TEXT = ("sparsepo", "cdpo", "t-reg", "aligndistil", "sample-reweighting")
STANDS_FOR = [
    *(
        (recipe, kind, "causal-lm", ("arm=self",) if recipe == "t-reg" else ())
        for recipe in TEXT
        for kind in ("llama", "run of sparsepo")
    ),
    ("dsir", "llama", "causal-lm", ()),
    ("prior", "llama", "smollm2-135m", ()),
    ("prior", "llava", "llava", ()),
    ("token-pruning", "llava_next", "llava", ()),
    ("token-pruning", "bert", "minilm", ()),
    ("token-pruning", "run of prior", "prior-vlm", ()),
]


@pytest.mark.parametrize(("recipe", "kind", "option", "more"), STANDS_FOR)
def test_a_folder_stands_for_the_option_that_takes_what_it_holds(
    recipe: str, kind: str, option: str, more: tuple[str, ...], tmp_path: Path
) -> None:
    folder = holding(tmp_path / "mine", kind)
    data = {"token-pruning": {"llava": ["data.path=q.jsonl", "data.images=i"]}.get(option, [])}.get(recipe, [])
    data = data or (["data.path=pairs.jsonl"] if recipe in TEXT[:4] else [])
    config = compose.compose(recipe, [f"model={folder}", *data, *more])
    assert (config.model.name, config.model.path) == (option, str(folder))
    assert config == compose.compose(recipe, [f"model={option}", f"model.path={folder}", *data, *more])


def test_a_recipe_that_takes_no_folder_says_so() -> None:
    with pytest.raises(UserError, match="is a folder or hub name, and this recipe takes none for model; type toy-vit"):
        compose.compose("tokenflex", ["model=owner/name"])
    with pytest.raises(UserError, match="none trains no model, so model.path would not be read; type downstream=lm"):
        compose.compose("dsir", ["model=owner/name", "data.source=a.jsonl", "data.target=b.jsonl"])


def test_two_models_are_one_too_many() -> None:
    with pytest.raises(UserError, match="two are typed, owner/name and model.path=other"):
        compose.compose("sparsepo", ["model=owner/name", "model.path=other", "data.path=x"])
