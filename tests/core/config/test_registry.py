"""Recipes whose config cannot be read, as while one is being written."""

from pathlib import Path

import pytest

from recipes.core.config import registry
from recipes.core.errors import UserError


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("CARD = Claim('a', 'b', direction=1)", "a claim is missing"),
        ("CARD = Claim('a', 'b', 'c', 'd', 1, '', 0.1, kind='ordre')", "kinds difference, equivalence, exact, order"),
        ("raise ValueError('a weight of nothing')", "a weight of nothing"),
    ],
)
def test_a_card_that_cannot_be_is_reported_with_its_recipe_and_line(
    line: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "recipes" / "family" / "half_done"
    folder.mkdir(parents=True)
    (folder / "recipe.py").touch()
    (folder / "config.py").write_text(f"from recipes.core.config.settings import Claim\n\n{line}\n")
    monkeypatch.setattr(registry, "ROOT", tmp_path)
    monkeypatch.setattr("recipes.__path__", [*registry.recipes.__path__, str(tmp_path / "recipes")])
    with pytest.raises(UserError) as caught:
        registry.card("half-done")
    assert what in caught.value.what
    assert caught.value.where == "recipe half-done, recipes/family/half_done/config.py, line 3"
