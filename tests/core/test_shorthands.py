"""What is typed shorter, written out."""

from pathlib import Path
from typing import Any

from recipes.core.shorthands import written_out

OPTIONS = {"model": ["toy", "llava"], "data": ["digits", "vqa"]}
RULES = {
    "folders": {"model": "llava"},
    "implied": {
        "pruner=random": {"arm": "random"},
        "model=llava": {"data": "vqa", "arm": "divprune"},
    },
}


def out(choices: dict[str, str], *keys: tuple[str, Any], rules: dict[str, Any] = RULES) -> Any:
    return written_out(choices, list(keys), options=OPTIONS, unions=["pruner"], rules=rules)


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
