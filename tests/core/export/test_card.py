"""The card of a model: what the hub reads at its head, and what is left out where it is not known."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    ElectraConfig,
    ElectraModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    LongformerConfig,
    LongformerModel,
)

from recipes.core.export import card
from recipes.core.export.card import Base, base_of, front_matter
from recipes.core.storage.files import write_json
from tests.core import tokenizer_kinds
from tests.core.trials import CARD


def card_code(folder: Path, names: dict[str, Any]) -> Any:
    """The Python of a card, compiled; words in capitals stand for what a reader fills in."""
    [code] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    for name, value in names.items():
        code = code.replace(f'"{name}"', f'"{value}"')
    return compile(code, "README.md", "exec")


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


@pytest.mark.parametrize(("max_flops", "shown"), [(2e9, {"steps": "1,142"}), (None, {"`trainer.max_steps`": "600"})])
def test_a_run_that_operations_measured_is_as_long_as_it_was(
    max_flops: float | None, shown: dict[str, str], tmp_path: Path
) -> None:
    write_json(tmp_path / "status.json", {"state": "done", "step": 1142, "max_steps": 1142})
    run = run_with(trainer={"max_steps": 600, "max_flops": max_flops})
    run.arm, run.seed, run.path = "electra", 0, tmp_path
    rows = dict(card._settings(run, CARD, Base("none"), True))
    flops = {"`trainer.max_flops`": str(max_flops)} if max_flops else {}
    assert {key: value for key, value in rows.items() if "steps" in key or "flops" in key} == shown | flops


@pytest.mark.parametrize("kind", ["parts", "llava"])
def test_the_code_of_a_caption_models_card_runs(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from PIL import Image

    from recipes.core.models.build import llama
    from recipes.core.models.vision_language import PatchEmbedding
    from tests.core.models.test_caption_folder import encoder, written

    vision = encoder("clip") if kind == "llava" else PatchEmbedding(8, 2, 1, 16)
    _, folder = written(vision, tmp_path, rank=0 if kind == "llava" else 2)
    LlamaForCausalLM(llama(300, 2, 16, 2, 32)).save_pretrained(tmp_path / "base")
    Image.new("L", (8, 8)).save(tmp_path / "image.png")
    (folder / "README.md").write_text(card._code(folder, Base("x")), encoding="utf-8")
    names: dict[str, Any] = {}
    values = {"FOLDER": folder, "BASE": tmp_path / "base", "IMAGE": tmp_path / "image.png"}
    exec(card_code(folder, values), names)
    if kind == "llava":
        assert names["model"](**names["inputs"]).logits.shape[-1] == 300
    else:
        assert names["decoder"].config.hidden_size == 16 and names["model"].peft_config


def test_the_code_of_an_encoders_card_runs(tmp_path: Path) -> None:
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=30, **shape)).save_pretrained(tmp_path)
    tokenizer_kinds.byte_level(False, False).save_pretrained(tmp_path)
    base = base_of(run_with(model={"name": "minilm", "path": None}))
    assert base.name == "sentence-transformers/all-MiniLM-L6-v2" and base.licence == "apache-2.0"
    assert front_matter(run_with(), base, tmp_path)["pipeline_tag"] == "feature-extraction"
    (tmp_path / "README.md").write_text(card._code(tmp_path, base), encoding="utf-8")
    names: dict[str, Any] = {}
    exec(card_code(tmp_path, {"FOLDER": tmp_path}), names)
    assert type(names["model"]) is BertModel


@pytest.mark.parametrize(
    ("kind", "config", "pipeline"),
    [
        (BertForMaskedLM, BertConfig, "fill-mask"),
        (ElectraModel, ElectraConfig, "feature-extraction"),
        (LongformerModel, LongformerConfig, "feature-extraction"),
        (GPT2LMHeadModel, GPT2Config, "text-generation"),
    ],
)
def test_the_code_of_a_card_loads_the_class_that_was_written(
    kind: Any, config: Any, pipeline: str, tmp_path: Path
) -> None:
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    if kind is GPT2LMHeadModel:
        shape = {"n_embd": 16, "n_layer": 1, "n_head": 2}
    kind(config(vocab_size=30, **shape)).save_pretrained(tmp_path)
    tokenizer_kinds.byte_level(False, False).save_pretrained(tmp_path)
    assert front_matter(run_with(), Base("x"), tmp_path)["pipeline_tag"] == pipeline
    (tmp_path / "README.md").write_text(card._code(tmp_path, Base("x")), encoding="utf-8")
    names: dict[str, Any] = {}
    exec(card_code(tmp_path, {"FOLDER": tmp_path}), names)
    assert type(names["model"]) is kind


def test_a_base_of_the_hub_is_loaded_at_its_revision() -> None:
    [line] = [line for line in card._adapter_code(Base("x", "o/n", exact=True)) if line.startswith("base = ")]
    assert line == 'base = AutoModelForCausalLM.from_pretrained("o/n")'


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("data.path=/home/me/my texts/a.jsonl", "data.path=a.jsonl"),
        ("--config=~/mine.yaml", "--config=mine.yaml"),
        ("model=owner/name@v1", "model=owner/name@v1"),
        ("data.path=[/a/b.jsonl, ../c/d.jsonl]", "data.path=[b.jsonl, d.jsonl]"),
        ("{'/a/b.jsonl': 0.5, owner/name: 1}", "{'b.jsonl': 0.5, owner/name: 1}"),
        ("Is this good and/or bad? {x}", "Is this good and/or bad? {x}"),
    ],
)
def test_paths_of_this_machine_become_their_last_names(text: str, shown: str) -> None:
    assert card.without_folders(text) == shown
