"""The visual encoder of setting H: trained once, frozen, refused where it cannot be had."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.core.errors import UserError
from recipes.core.models import encoder
from recipes.core.models import from_config as models
from recipes.core.models.encoder import load_encoder
from recipes.core.scoring.fingerprints import weights_hash
from tests.core.models.conftest import gray, hidden


def build(config: Any, data: Any, tokenizer: Any, setting: str = "H") -> Any:
    return models.build_caption_model(config, setting, tokenizer, data, 0, "cpu", 64)


def test_the_encoder_stays_as_it_is_while_the_rest_learns(config: Any, data: Any, tokenizer: Any) -> None:
    model = build(config.model, data, tokenizer).train()
    assert model.vision.project.training and not model.vision.encoder.training
    before = {name: p.clone() for name, p in model.named_parameters()}
    rows = torch.tensor([model.prefix_ids + [30, 31]])
    pixels = model.pixels(data.train.image(0))[None]
    model(rows, torch.ones_like(rows), pixels, hidden).sum().backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert not any(name.startswith("vision.encoder") for name in changed)
    assert {"vision.project.0.weight", "vision.project.2.weight"} <= changed


def test_the_encoder_is_trained_once(config: Any, data: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build(config.model, data, tokenizer)
    monkeypatch.setattr(encoder, "_train", None)
    second = build(config.model, data, tokenizer)
    for a, b in zip(first.vision.encoder.parameters(), second.vision.encoder.parameters(), strict=True):
        assert torch.equal(a, b)


def test_data_without_labels_says_what_to_give(config: Any, data: Any, tokenizer: Any) -> None:
    with pytest.raises(UserError, match="no labels to train a visual encoder") as caught:
        build(config.model, replace(data, label_names=()), tokenizer)
    assert "model.vision.path=FOLDER" in str(caught.value)


@pytest.mark.parametrize(("setting", "key"), [("U", "model.patch=3"), ("H", "model.vision.patch=3")])
def test_a_patch_that_does_not_fit(setting: str, key: str, config: Any, data: Any, tokenizer: Any) -> None:
    model = replace(config.model, patch=3, vision=replace(config.model.vision, patch=3))
    with pytest.raises(UserError) as caught:
        build(model, data, tokenizer, setting)
    assert str(caught.value).startswith(f"{key}: does not divide the image side 8")


@pytest.mark.parametrize("kind", ["vit", "clip", "siglip"])
def test_a_pretrained_encoder_gives_one_feature_per_patch(kind: str, tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel, ViTConfig, ViTModel

    vision = {"image_size": 8, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"intermediate_size": 16}
    text = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 64,
    }
    if kind == "vit":
        model: Any = ViTModel(ViTConfig(**vision))
    elif kind == "clip":
        model = CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=8))
    else:
        model = SiglipModel(SiglipConfig(vision_config=vision, text_config=text))
    model.save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path))
    pixels = encoder.normalize(gray(20, 128))[None]
    assert encoder.tokens == 4 and encoder.width == 16
    with torch.no_grad():
        assert encoder.module(pixels).shape == (1, 4, 16)


def test_a_text_model_is_no_encoder(config: Any, tokenizer: Any, tmp_path: Path) -> None:
    models.build_text_model(config.model, tokenizer, 0).language_model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no patch-based vision model"):
        load_encoder(str(tmp_path))


def test_another_weight_is_another_hash(config: Any, tokenizer: Any) -> None:
    one, two = (models.build_text_model(config.model, tokenizer, seed) for seed in (0, 1))
    assert weights_hash(one) != weights_hash(two)
