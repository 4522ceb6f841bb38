"""The card of a model: what the hub reads at its head, and what is left out where it is not known."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recipes.core.export import card
from recipes.core.export.card import Base, base_of, front_matter


def run_with(**config: Any) -> Any:
    return SimpleNamespace(recipe="sparsepo", config=config)


def test_a_base_on_the_hub_is_named_with_the_licence_of_its_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "README.md"
    page.write_text("---\nlicense: mit\n---\n# A model\n")
    monkeypatch.setattr(card, "_in_hub_cache", lambda name: page if name == "owner/base" else None)
    base = base_of(run_with(model={"name": "causal-lm", "path": "owner/base@v1"}))
    assert base == Base("owner/base@v1", "owner/base", "mit", exact=True) and base.hub_name == "owner/base"


@pytest.mark.parametrize("text", ["", "# no head", "---\n: [\n---\n", "---\nlicense: [a]\n---\n"])
def test_a_local_base_is_named_without_its_place_and_a_licence_that_cannot_be_read_is_left_out(
    text: str, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text(text)
    assert base_of(run_with(model={"name": "causal-lm", "path": str(tmp_path / "mine")})) == Base("the folder mine")


def test_the_asset_comes_from_a_model_of_the_hub_and_is_not_it() -> None:
    base = base_of(run_with(model={"name": "smollm2-135m", "path": None}))
    assert (base.name, base.licence) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
    assert base.hub_name == ""


def test_the_head_names_data_of_the_hub_and_adapters(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"vision_config": {}}')
    (tmp_path / "adapter").mkdir()
    run = run_with(data={"name": "preferences", "path": "owner/pairs@main"})
    assert front_matter(run, Base("x", "owner/base", "mit"), tmp_path) == {
        "license": "mit",
        "base_model": "owner/base",
        "datasets": ["owner/pairs"],
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["steelyard", "sparsepo", "lora"],
    }
    (tmp_path / "config.json").unlink()
    assert front_matter(run_with(data={"path": "/mine/pairs.jsonl"}), Base("x"), tmp_path) == {
        "tags": ["steelyard", "sparsepo", "lora"]
    }
