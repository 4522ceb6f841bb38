"""`prior` on a user's own data, backbone and reference; easy-VQA; what is refused before training."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.data.images.load import load_captions
from recipes.core.errors import UserError
from recipes.core.models import from_config as models
from recipes.core.recipe import Recipe
from recipes.core.storage import assets
from recipes.pretraining.prior.recipe import PriorRecipe

TINY = ["tracker=none", "trainer.threads=1", "trainer.max_steps=3", "trainer.batch_size=4", "reference.steps=2"]
TINY += ["reference.batch_size=4", "evaluation.examples=4", "evaluation.candidates=2", "evaluation.captions=2"]


def run(outputs: Path, *overrides: str) -> runner.RunOutcome:
    return runner.run(compose.compose("prior", [*TINY, f"outputs={outputs}", *overrides]), False, "steelyard run prior")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty colour images of several sizes with captions, as JSONL."""
    folder = tmp_path_factory.mktemp("corpus")
    lines = []
    for i in range(20):
        pixels = np.random.default_rng(i).integers(0, 255, (20 + i, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        lines.append(json.dumps({"image": f"{i}.png", "caption": f"a picture of thing {i % 5} in the park"}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder / "captions.jsonl"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory, session_home: Path) -> Path:
    """A random Llama with the tokenizer that digit captions get, without its image tokens, as a user's own model."""
    folder = tmp_path_factory.mktemp("backbone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELYARD_HOME", str(session_home))
        config = compose.compose("prior", [])
        tokenizer = models.build_tokenizer(config.model, load_captions(config.data, 0))
    tokenizer.save_pretrained(folder)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **shape)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("arm", ["prior", "ntp"])
def test_a_users_own_corpus(arm: str, corpus: Path, tmp_path: Path) -> None:
    outcome = run(tmp_path, "data=image-text", f"data.path={corpus}", f"arm={arm}", "data.test_fraction=0.3")
    assert outcome.status == "done"
    assert {"nll/all", "nll/hard_for_text", "matching/nll", "greedy/reference_nll"} & set(outcome.metrics)
    assert not any(name.startswith("grounded") for name in outcome.metrics)


def test_a_corpus_without_labels_has_no_encoder(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no labels to train a visual encoder"):
        run(tmp_path, "data=image-text", f"data.path={corpus}", "setting=H")


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("setting", ["U", "H"])
def test_a_pretrained_backbone(setting: str, train: bool, backbone: Path, tmp_path: Path) -> None:
    keys = ["model=smollm2-135m", f"model.path={backbone}", f"model.train_backbone={str(train).lower()}"]
    outcome = run(tmp_path, *keys, f"setting={setting}", "model.vision.steps=2")
    weights = load_file(outcome.folder / "checkpoints" / "checkpoint-3" / "model.safetensors")
    start = load_file(backbone / "model.safetensors")
    layers = [name for name in start if "layers" in name]
    same = all((weights[f"language_model.{name}"] == start[name]).all() for name in layers)
    assert same != train


@pytest.mark.parametrize("keys", [("setting=U", "lora.rank=2"), ("setting=H", "model.train_backbone=false")])
def test_a_backbone_in_4_bits_stays_as_it_is(keys: tuple[str, str], backbone: Path, tmp_path: Path) -> None:
    typed = ["model=smollm2-135m", f"model.path={backbone}", "model.load_in=4bit", "model.vision.steps=2", *keys]
    outcome = run(tmp_path, *typed)
    weights = load_file(outcome.folder / "checkpoints" / "checkpoint-3" / "model.safetensors")
    start = load_file(backbone / "model.safetensors")
    adapted = keys[1] == "lora.rank=2"
    for name in ("model.layers.0.mlp.up_proj.weight", "model.norm.weight"):
        at = name.replace(".weight", ".base_layer.weight") if adapted and "proj" in name else name
        difference = (weights[f"language_model.{at}"] - start[name]).abs().max() / start[name].abs().max()
        assert difference == 0 if "norm" in name else 0 < difference < 0.2
    assert any("lora_B" in name and weights[name].any() for name in weights) == adapted


@pytest.mark.parametrize(
    ("keys", "key"),
    [((), "model.load_in"), (("lora.rank=2", "reference.source=train"), "reference.source")],
)
def test_few_bits_are_for_what_is_not_trained(keys: tuple[str, ...], key: str) -> None:
    with pytest.raises(UserError) as caught:
        compose.compose("prior", ["model=smollm2-135m", "model.load_in=8bit", *keys])
    assert key in str(caught.value) and "8bit" in str(caught.value)


def test_the_untouched_backbone_is_the_reference(backbone: Path) -> None:
    config = compose.compose("prior", [*TINY, "model=smollm2-135m", f"model.path={backbone}"])
    assert config.reference.source == "backbone"
    recipe: Recipe = PriorRecipe()
    reference = recipe.prepare(config, "cpu").reference.model.language_model
    start = load_file(backbone / "model.safetensors")
    assert (reference.state_dict()["model.norm.weight"] == start["model.norm.weight"]).all()


def test_new_parts_have_their_own_learning_rate(backbone: Path) -> None:
    config = compose.compose("prior", [*TINY, "model=smollm2-135m", f"model.path={backbone}"])
    assert models.learning_rates(config.model) == {"vision.": 1e-3}
    assert config.trainer.learning_rate == 1e-4


def test_a_users_own_reference(backbone: Path, tmp_path: Path) -> None:
    assert run(tmp_path, "reference.source=path", f"reference.path={backbone}").status == "done"


def test_a_reference_with_another_tokenizer_is_refused(backbone: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    pieces = sorted(state["model"]["vocab"], key=state["model"]["vocab"].get)
    swapped = {**state["model"]["vocab"], pieces[-1]: len(pieces) - 2, pieces[-2]: len(pieces) - 1}
    state["model"]["vocab"] = swapped
    tokenizer.save_pretrained(other)
    (other / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match="the tokenizer of the reference and of the model differ in 2 of") as caught:
        run(tmp_path, "reference.source=path", f"reference.path={other}")
    assert "reference.source=train" in str(caught.value)


def test_a_pickled_reference_is_refused(backbone: Path, tmp_path: Path) -> None:
    AutoTokenizer.from_pretrained(backbone).save_pretrained(tmp_path / "ref")
    (tmp_path / "ref" / "pytorch_model.bin").write_bytes(b"pickle")
    (tmp_path / "ref" / "config.json").write_text((backbone / "config.json").read_text())
    with pytest.raises(UserError, match=r"refused: pytorch_model.bin is pickled"):
        run(tmp_path / "out", "reference.source=path", f"reference.path={tmp_path / 'ref'}")


def test_a_changed_caption_changes_the_scores_that_are_read(corpus: Path, tmp_path: Path) -> None:
    def fingerprint(path: Path) -> str:
        config = compose.compose("prior", [*TINY, "data=image-text", f"data.path={path}", "data.test_fraction=0.3"])
        scores: Any = PriorRecipe().prepare(config, "cpu").reference.train[0]
        return hashlib.sha256(scores["logprob"].tobytes()).hexdigest()

    other = corpus.with_name("changed.jsonl")
    other.write_text(corpus.read_text().replace("park", "garden"))
    assert fingerprint(corpus) == fingerprint(corpus)
    assert fingerprint(corpus) != fingerprint(other)


@pytest.mark.asset
def test_easy_vqa_end_to_end(tmp_path: Path) -> None:
    try:
        assets.asset_path("easy-vqa")
    except UserError as error:
        pytest.skip(f"the asset cannot be had here: {error}")
    outcome = run(tmp_path, "data=easy-vqa")
    assert {"answers/shape", "answers/color", "answers/yesno", "grounded/answer/color"} <= set(outcome.metrics)


@pytest.mark.asset
@pytest.mark.slow
def test_smollm2_is_the_model_it_says(steelyard_home: Path) -> None:
    try:
        assets.asset_path("smollm2-135m")
    except UserError as error:
        pytest.skip(f"the asset cannot be had here: {error}")
    import torch

    config = compose.compose("prior", ["model=smollm2-135m"]).model
    tokenizer = models.build_tokenizer(config, load_captions(compose.compose("prior", []).data, 0))
    model = models.build_text_model(config, tokenizer, 0).eval()
    assert sum(p.numel() for p in model.parameters()) == 134_515_008 + (len(tokenizer) - 49_152) * 576
    ids = torch.tensor([tokenizer("The capital of France is", add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        best = model(ids, torch.ones_like(ids), None, lambda states, head: int(head.logits(states[0, -1]).argmax()))
    assert tokenizer.decode([best]) == " Paris"
