"""Caption models as folders: logits of the LLaVA that `transformers` loads, or of the parts that are put together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTModel,
)

from recipes.core.errors import UserError
from recipes.core.models.adapters import add_adapters
from recipes.core.models.build import llama
from recipes.core.models.caption_folder import caption_describer, load_caption_model
from recipes.core.models.encoder import PatchFeatures
from recipes.core.models.hf_folder import write_model
from recipes.core.models.tokenizer import IMAGE_TOKENS, train_bpe
from recipes.core.models.vision_language import CaptionModel, EncoderProjector, PatchEmbedding, SquarePixels
from tests.core.models.heads import tiny

TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "image_size": 8, "patch_size": 2, "num_channels": 1}  # fmt: skip
TOWERS: dict[str, Callable[[], Any]] = {
    "vit": lambda: ViTModel(ViTConfig(**TOWER), add_pooling_layer=False),
    "clip": lambda: CLIPVisionModel(CLIPVisionConfig(**TOWER)),
    "siglip": lambda: SiglipVisionModel(SiglipVisionConfig(**TOWER)),
}
PIXELS = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def encoder(kind: str) -> EncoderProjector:
    vision = EncoderProjector(PatchFeatures(TOWERS[kind](), 16), 16, 16)
    for part in vision.modules():
        if isinstance(part, torch.nn.LayerNorm):
            torch.nn.init.normal_(part.weight), torch.nn.init.normal_(part.bias)
    return vision


def written(vision: Any, folder: Path, language: Any = None, rank: int = 0) -> tuple[CaptionModel, Path]:
    """A caption model, with adapters of a rank, and the folder that is made of its checkpoint."""
    tokenizer = train_bpe(["a b c"], "captions", 300, IMAGE_TOKENS)
    language = language or LlamaForCausalLM(llama(300, 2, 16, 2, 32))
    placeholder = tokenizer.convert_tokens_to_ids("<vpatch>")
    prefix, pixels = [1, *[placeholder] * 16], SquarePixels(8, 1, [0.4], [0.3])
    model = CaptionModel(language, vision, prefix, placeholder, 2, pixels).eval()
    describe, checkpoint = caption_describer(model, tokenizer), folder / "checkpoint-1"
    checkpoint.mkdir()
    if rank:
        add_adapters(model, rank, 6.0, [], 0)  # type: ignore[arg-type]
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    save_model(model, str(checkpoint / "model.safetensors"))
    describe(checkpoint)
    write_model(checkpoint, folder / "hf")
    return model, folder / "hf"


def ids_of(model: CaptionModel) -> torch.Tensor:
    return torch.tensor([[*model.prefix_ids, 7, 8, 9]]).expand(3, -1)


@torch.no_grad()
def logits(model: CaptionModel, ids: torch.Tensor) -> torch.Tensor:
    values = model(ids, torch.ones_like(ids), PIXELS, lambda hidden, head: head.logits(hidden))
    assert values.std() > 0.01
    return values


@pytest.mark.parametrize("kind", TOWERS)
def test_a_model_of_setting_h_is_a_llava(kind: str, tmp_path: Path) -> None:
    model, folder = written(encoder(kind), tmp_path)
    llava, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = ids_of(model)
    with torch.no_grad():
        theirs = llava.eval()(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=PIXELS).logits
    torch.testing.assert_close(theirs, logits(model, ids), atol=1e-5, rtol=0)


@pytest.mark.parametrize("setting", ["U", "H"])
def test_adapters_in_its_language_model_are_merged(setting: str, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    model, folder = written(encoder("clip") if setting == "H" else PatchEmbedding(8, 2, 1, 16), tmp_path, rank=2)
    ids = ids_of(model)
    expected = logits(model, ids)
    if setting == "U":
        adapters = load_file(folder / "adapter" / "adapter_model.safetensors")
        assert len(adapters) == 28 and all(name.startswith("base_model.model.model.layers.") for name in adapters)
        torch.testing.assert_close(logits(load_caption_model(folder), ids), expected, atol=1e-5, rtol=0)
        return
    assert not (folder / "adapter").exists()  # the projector was trained too
    llava = AutoModelForImageTextToText.from_pretrained(folder).eval()
    with torch.no_grad():
        theirs = llava(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=PIXELS).logits
    torch.testing.assert_close(theirs, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["vit", "siglip"])
def test_its_processor_makes_prompt_and_pixels(kind: str, tmp_path: Path) -> None:
    model, folder = written(encoder(kind), tmp_path)
    image = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    made = AutoProcessor.from_pretrained(folder)(
        images=Image.fromarray(image), text="<bos><vpatch>", return_tensors="pt"
    )
    assert made["input_ids"][0].tolist() == model.prefix_ids
    torch.testing.assert_close(made["pixel_values"][0], model.pixels(image[..., None]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("setting", ["U", "H"])
def test_what_is_no_llava_is_put_together_from_its_parts(setting: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    language = tiny("phi") if setting == "H" else None  # its head has a bias
    vision = PatchEmbedding(8, 2, 1, 16) if setting == "U" else encoder("clip")
    if language is not None:
        vision.project = torch.nn.Sequential(torch.nn.Linear(16, width := language.config.hidden_size),
                                             torch.nn.GELU(), torch.nn.Linear(width, width))  # fmt: skip
    model, folder = written(vision, tmp_path, language)
    assert not (folder / "config.json").exists()
    again = load_caption_model(folder)
    ids = ids_of(model).clamp(max=len(model.language_model.get_input_embeddings().weight) - 1)
    torch.testing.assert_close(logits(again, ids), logits(model, ids), atol=1e-5, rtol=0)
    assert (again.prefix_ids, again.eos) == (model.prefix_ids, model.eos)
    decoder = AutoModelForCausalLM.from_pretrained(folder / "language_model").eval()
    with torch.no_grad():
        expected = model.language_model.eval()(ids).logits
        torch.testing.assert_close(decoder(ids).logits, expected, atol=1e-5, rtol=0)


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no caption_model.json"):
        load_caption_model(tmp_path)
