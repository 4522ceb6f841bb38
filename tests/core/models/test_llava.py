"""Any LLaVA-type checkpoint behind the caption model's interface, on a tiny random one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.models import from_config as caption_models
from recipes.core.models.normalisation import image_processor
from recipes.core.models.quantised import plain_weights, quantised_layers
from recipes.core.models.sources import load_model
from recipes.core.scoring.fingerprints import weights_hash
from tests.core.models.conftest import hidden

WORDS = [
    *(
        "<pad>",
        "<bos>",
        "<eos>",
        "<image>",
        "it",
        "shows",
        "a",
        "thin",
        "bold",
        "handwritten",
        "on",
        "white",
        "paper",
        ".",
    ),
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
]


def save_llava(folder: Path, context: int = 256, width: int = 16) -> Path:
    """A random LLaVA: CLIP of 8x8 images in 4x4 patches, a two-layer Llama, a tokenizer of whole words."""
    tokens = {word: i for i, word in enumerate(WORDS)}
    vocabulary = models.WordLevel(tokens | {"<unk>": len(WORDS)}, unk_token="<unk>")
    tokenizer = Tokenizer(vocabulary)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(folder)
    shape = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(image_size=8, patch_size=4, **shape),
            text_config=LlamaConfig(vocab_size=len(WORDS) + 1, max_position_embeddings=context, **shape),
            image_token_index=WORDS.index("<image>"),
            vision_feature_layer=-1,
        )
    ).save_pretrained(folder)
    given = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2]}
    (folder / "preprocessor_config.json").write_text(json.dumps(given))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture
def config(folder: Path) -> Any:
    return compose.compose("prior", ["model=llava", f"model.path={folder}"]).model


@pytest.fixture
def model(config: Any) -> Any:
    tokenizer = caption_models.build_tokenizer(config, None)  # type: ignore[arg-type]
    return caption_models.build_caption_model(config, "H", tokenizer, None, 0, "cpu", 32).eval()  # type: ignore[arg-type]


def inputs(model: Any) -> dict[str, torch.Tensor]:
    rows = torch.tensor([[*model.prefix_ids, 4, 5, 6, 16], [*model.prefix_ids, 4, 5, 6, 17]])
    images = [np.full((8, 8, 1), value, np.uint8) for value in (0, 200)]
    return {
        "input_ids": rows,
        "attention_mask": torch.ones_like(rows),
        "pixels": torch.stack([model.pixels(image) for image in images]),
    }


def test_the_prefix_has_one_placeholder_per_patch(model: Any) -> None:
    # The tokenizer names a BOS and does not put it before texts itself.
    assert model.prefix_ids == [WORDS.index("<image>")] * 4


def test_gray_images_get_three_channels_and_the_checkpoints_normalisation(model: Any) -> None:
    pixels = model.pixels(np.full((8, 8, 1), 255, np.uint8))
    torch.testing.assert_close(pixels[:, 0, 0], torch.tensor([2.5, 3.0, 3.5]))


def test_the_read_out_sees_what_the_model_itself_computes(model: Any) -> None:
    batch = inputs(model)
    logits = model(**batch, readout=lambda states, head: head.logits(states))
    own = model.llava(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], pixel_values=batch["pixels"]
    ).logits
    torch.testing.assert_close(logits, own, rtol=1e-5, atol=1e-5)
    other = model(**{**batch, "pixels": batch["pixels"].flip(0)}, readout=hidden)
    assert not torch.allclose(other[:, -1], model(**batch, readout=hidden)[:, -1])


def test_generation_follows_the_logits(model: Any) -> None:
    batch = inputs(model)
    model.eos = len(WORDS)  # the unknown word, so that both steps are compared
    generated = model.generate_captions(batch["pixels"], max_new_tokens=2)
    for row, pixels in zip(generated, batch["pixels"], strict=True):
        ids = list(model.prefix_ids)
        for token in row:
            rows = torch.tensor([ids])
            logits = model(rows, torch.ones_like(rows), pixels[None], lambda states, head: head.logits(states[0, -1]))
            assert int(logits.argmax()) == token
            ids.append(token)


def test_the_text_model_is_its_language_model(config: Any, model: Any) -> None:
    text = caption_models.build_text_model(config, None, 0).eval()
    ids = torch.tensor([[1, 4, 5, 6]])
    mine = text(input_ids=ids, attention_mask=torch.ones_like(ids), pixels=None, readout=lambda h, head: head.logits(h))
    torch.testing.assert_close(mine, model.llava(input_ids=ids).logits, rtol=1e-5, atol=1e-5)


def test_a_context_too_small_says_the_limit(tmp_path: Path) -> None:
    folder = save_llava(tmp_path, context=20)
    config = compose.compose("prior", ["model=llava", f"model.path={folder}"]).model
    tokenizer = caption_models.build_tokenizer(config, None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="do not fit the model's context of 20") as caught:
        caption_models.build_caption_model(config, "H", tokenizer, None, 0, "cpu", 32)  # type: ignore[arg-type]
    assert "data.max_tokens=16" in str(caught.value)


@pytest.mark.parametrize("train", [True, False])
def test_prior_trains_it_end_to_end(train: bool, folder: Path, tmp_path: Path) -> None:
    typed = ["model=llava", f"model.path={folder}", f"model.train_backbone={str(train).lower()}", "tracker=none"]
    typed += ["trainer.max_steps=3", "trainer.threads=1", "evaluation.examples=4", f"outputs={tmp_path}"]
    config = compose.compose("prior", typed)
    assert config.setting == "H"
    outcome = runner.run(config, False, "steelyard run prior")
    assert outcome.status == "done" and "grounded/digit" in outcome.metrics
    from safetensors.torch import load_file

    weights = load_file(outcome.folder / "checkpoints" / "checkpoint-3" / "model.safetensors")
    start = LlavaForConditionalGeneration.from_pretrained(folder).state_dict()
    changed = {name for name, tensor in start.items() if not torch.equal(tensor, weights[f"llava.{name}"])}
    assert "model.multi_modal_projector.linear_1.weight" in changed
    assert not any("vision_tower" in name for name in changed)
    assert any("language_model" in name for name in changed) == train
    again = load_model(LlavaForConditionalGeneration, str(outcome.folder), "model.path").state_dict()
    assert all(torch.equal(again[name], weights[f"llava.{name}"]) for name in start)
    assert image_processor(str(outcome.folder), "model.path") == image_processor(str(folder), "model.path")


@pytest.mark.parametrize("keys", [("4bit", "model.train_backbone=false"), ("8bit", "lora.rank=2")])
def test_prior_trains_beside_frozen_weights_in_few_bits(keys: tuple[str, str], tmp_path: Path) -> None:
    (load_in, how), folder = keys, save_llava(tmp_path / "llava", width=64)
    typed = ["model=llava", f"model.path={folder}", f"model.load_in={load_in}", how, "tracker=none"]
    typed += ["trainer.max_steps=3", "trainer.threads=1", "evaluation.examples=4", f"outputs={tmp_path}"]
    config = compose.compose("prior", typed)
    outcome = runner.run(config, False, "steelyard run prior")
    tokenizer = caption_models.build_tokenizer(config.model, None)  # type: ignore[arg-type]
    quantised = caption_models.build_caption_model(config.model, "H", tokenizer, None, 0, "cpu", 32)  # type: ignore[arg-type]
    layers = {name.removeprefix("llava.") for name in quantised_layers(quantised)}
    assert len(layers) == 14 and all(name.startswith("model.language_model.layers.") for name in layers)
    start, plain = plain_weights(quantised), LlavaForConditionalGeneration.from_pretrained(folder).state_dict()
    again = load_model(LlavaForConditionalGeneration, str(outcome.folder), "model.path").state_dict()
    for name, values in again.items():
        if name.removesuffix(".weight") in layers:
            assert torch.allclose(values, start[f"llava.{name}"]) == (how != "lora.rank=2"), name
        elif "multi_modal_projector" in name and name.endswith("weight"):
            assert not torch.equal(values, plain[name]), name
        else:
            assert torch.equal(values, plain[name]) or "projector" in name, name


def test_loading_twice_gives_one_hash(config: Any) -> None:
    one, two = (caption_models.build_text_model(config, None, seed) for seed in (0, 1))
    assert weights_hash(one) == weights_hash(two)
