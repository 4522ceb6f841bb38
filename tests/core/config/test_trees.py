"""Interpolations: of what OmegaConf need not read, the same comes out as if it read all."""

import pytest
from omegaconf import OmegaConf

from recipes.core.config.trees import resolve
from recipes.core.errors import UserError

PLAIN = {"seed": 1, "rates": [0.1, None], "model": {"name": "small", "path": None, "words": ["a", "$b", "???"]}}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"outputs": "${oc.env:STEELYARD_TEST_PLACE,elsewhere}"},
        {"outputs": "${oc.env:STEELYARD_TEST_NOWHERE,elsewhere}", "model": {"path": "${oc.env:STEELYARD_TEST_PLACE}"}},
        {"outputs": "${oc.env:STEELYARD_TEST_NOWHERE,${model.name}}"},
        {"trainer": {"steps": "${seed}", "names": ["${model.name}/${oc.env:STEELYARD_TEST_PLACE}"]}},
        {"outputs": r"\${seed}"},
    ],
)
def test_a_tree_is_resolved_as_by_omegaconf(more: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEELYARD_TEST_PLACE", "here")
    tree = PLAIN | more
    resolved = resolve(tree)
    assert resolved == OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    assert list(resolved) == list(tree) and resolved["rates"] is not PLAIN["rates"]


@pytest.mark.parametrize(("text", "value"), [("${oc.env:STEELYARD_TEST_NOWHERE}", "x"), ("${seeds}", "y")])
def test_what_cannot_be_read_is_named_by_its_key(text: str, value: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(PLAIN | {"model": {"name": value, "path": text}})
    assert "model.path" in str(caught.value) and "names no key of the config" in str(caught.value)
