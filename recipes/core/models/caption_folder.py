"""Caption models that were trained here, as folders: a LLaVA where LLaVA can say what the model is, else its parts.

A model of setting H on a CLIP, SigLIP or ViT is a LLaVA, which `AutoModelForImageTextToText` loads. Others (setting U,
which has no visual encoder; a language model that does more to its logits; another kind of encoder) are written as a
language model in `language_model/`, which `AutoModelForCausalLM` loads, and the parts before it in
`vision.safetensors`; `load_caption_model` reads the whole.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModel, LlavaConfig, LlavaForConditionalGeneration

from recipes.core.errors import UserError
from recipes.core.models.as_llava import feature_strategy
from recipes.core.models.causal import load_causal_lm
from recipes.core.models.encoder import PatchFeatures
from recipes.core.models.head import output_head
from recipes.core.models.hf_folder import DESCRIPTION, ORIGIN, VISION
from recipes.core.models.run_models import describe_adapters, describer, save_config
from recipes.core.models.tokenizer import PATCH
from recipes.core.models.vision_language import CaptionModel, EncoderProjector, PatchEmbedding, SquarePixels
from recipes.core.storage.files import read_json, write_json
from recipes.core.storage.places import CAPTION_MODEL, LANGUAGE_MODEL

ENCODER = "encoder"


def caption_describer(model: CaptionModel, tokenizer: Any) -> Callable[[Path], None]:
    """What writes, into the folder of a checkpoint, how the model is read out of its weights."""
    llava = _as_plain_llava(model)
    if llava is None:
        return lambda checkpoint: _describe_parts(model, tokenizer, checkpoint / DESCRIPTION)
    vision: Any = model.vision
    base = model.language_model.base_model_prefix
    names = [
        (f"language_model.{base}.", "model.language_model."),
        ("language_model.lm_head.", "lm_head."),
        ("vision.encoder.tower.", "model.vision_tower."),
        ("vision.project.0.", "model.multi_modal_projector.linear_1."),
        ("vision.project.2.", "model.multi_modal_projector.linear_2."),
    ]
    read = set(vision.encoder.tower.state_dict())
    unread = [f"model.vision_tower.{name}" for name in llava.model.vision_tower.state_dict() if name not in read]
    processor = _processor(model, tokenizer, llava.config)
    return describer(model, tokenizer, view=llava, prefixes=names, unread=unread, processor=processor)


def load_caption_model(folder: Path) -> CaptionModel:
    """A caption model from the parts that a run has left in its `hf/`, in fp32 on the CPU and in evaluation mode.

    Captions follow `model.prefix_ids`, with pixels from `model.pixels(image)`.

    Args:
        folder: Holds caption_model.json.

    Raises:
        UserError: it holds no such model.
    """
    if not (folder / CAPTION_MODEL).is_file():
        raise UserError(f"holds no {CAPTION_MODEL}", str(folder), "give the hf/ of a run of prior that is no LLaVA")
    parts = read_json(folder / CAPTION_MODEL)
    language = load_causal_lm(str(folder / LANGUAGE_MODEL), "folder")
    width = language.get_input_embeddings().weight.shape[1]
    size, channels = parts["image_size"], parts["channels"]
    vision: nn.Module
    if parts["setting"] == "U":
        vision = PatchEmbedding(size, parts["patch"], channels, width)
    else:
        tower = AutoModel.from_config(AutoConfig.from_pretrained(folder / ENCODER))
        vision = EncoderProjector(PatchFeatures(tower, parts["patches"]), parts["features"], width)
    missing, unexpected = vision.load_state_dict(load_file(folder / VISION), strict=False)
    if wrong := [*(name for name in missing if not name.startswith("encoder.")), *unexpected]:
        raise UserError(f"{VISION} is not that of {CAPTION_MODEL}: {wrong[0]}", str(folder), "export the run again")
    pixels = SquarePixels(size, channels, parts["mean"], parts["std"])
    return CaptionModel(language, vision, parts["prefix_ids"], parts["placeholder"], parts["eos"], pixels).eval()


def _as_plain_llava(model: CaptionModel) -> Any:
    """A LLaVA of the same architecture without weights; None if there is none.

    LLaVA takes the features before the encoder's last norm, and these models learned from those behind it:
    `tie_last_hidden_states` in the encoder's config makes the two one.
    """
    vision, language = model.vision, model.language_model
    if not isinstance(vision, EncoderProjector) or not output_head(language).plain:
        return None
    tower: Any = vision.encoder.tower
    try:
        strategy = feature_strategy(tower)
    except UserError:
        return None
    encoder = copy.deepcopy(tower.config)
    encoder.tie_last_hidden_states = True
    config = LlavaConfig(
        vision_config=encoder,
        text_config=copy.deepcopy(language.config),
        image_token_index=model.placeholder,
        image_seq_length=model.prefix_ids.count(model.placeholder),
        vision_feature_layer=-1,
        vision_feature_select_strategy=strategy,
        tie_word_embeddings=language.config.tie_word_embeddings,
    )
    with torch.device("meta"):
        llava = LlavaForConditionalGeneration(config)
    # Of another layout than this class has it, or with a bias at the head.
    expected = {name for name in llava.state_dict() if name.startswith("model.language_model.")}
    decoder = language.base_model.state_dict()
    return llava if expected == {f"model.language_model.{name}" for name in decoder} else None


def _processor(model: CaptionModel, tokenizer: Any, config: Any) -> Any:
    from transformers import CLIPImageProcessor, LlavaProcessor

    pixels: Any = model.pixels
    side = {"height": pixels.image_size, "width": pixels.image_size}
    images = CLIPImageProcessor(
        size=side,
        do_center_crop=False,
        resample=2,  # bilinear, as SquarePixels
        image_mean=pixels.mean,
        image_std=pixels.std,
        do_convert_rgb=pixels.channels == 3,
    )
    strategy = config.vision_feature_select_strategy
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=strategy,
        image_token=PATCH,
        num_additional_image_tokens=int(strategy == "default"),
    )


def _describe_parts(model: CaptionModel, tokenizer: Any, folder: Path) -> None:
    vision, pixels = model.vision, model.pixels
    assert isinstance(pixels, SquarePixels)
    tokenizer.save_pretrained(folder)
    save_config(model.language_model, tokenizer, folder / LANGUAGE_MODEL)
    tokenizer.save_pretrained(folder / LANGUAGE_MODEL)
    parts: dict[str, Any] = {
        "setting": "H" if isinstance(vision, EncoderProjector) else "U",
        "read_by": f"{__name__}.{load_caption_model.__name__}",
        "image_size": pixels.image_size,
        "channels": pixels.channels,
        "mean": pixels.mean,
        "std": pixels.std,
        "prefix_ids": model.prefix_ids,
        "placeholder": model.placeholder,
        "eos": model.eos,
    }
    if isinstance(vision, EncoderProjector):
        encoder: Any = vision.encoder
        encoder.tower.config.save_pretrained(folder / ENCODER)
        first: Any = vision.project[0]
        parts |= {"patches": encoder.patches, "features": first.in_features}
    else:
        assert isinstance(vision, PatchEmbedding)
        parts["patch"] = vision.patch
    write_json(folder / CAPTION_MODEL, parts)
    names = [("language_model.", "")]
    origin = {"prefixes": names, "vision": "vision."} | describe_adapters(model, names, folder)
    write_json(folder / ORIGIN, origin)
