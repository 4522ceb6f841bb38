"""A caption model of setting H as the LLaVA that it is, for code that knows LLaVAs only."""

from typing import Any, Literal

import torch
from torch import nn
from transformers import (
    CLIPVisionModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    SiglipVisionModel,
    ViTModel,
)

from recipes.core.errors import UserError
from recipes.core.models.head import output_head
from recipes.core.models.llava import LlavaCaptionModel
from recipes.core.models.vision_language import CaptionModel, EncoderProjector


def as_llava(model: CaptionModel | LlavaCaptionModel) -> LlavaForConditionalGeneration:
    """The same weights as `LlavaForConditionalGeneration`: shared, not copied, and in evaluation mode.

    A prompt is `model.prefix_ids` and a caption, with pixels from `model.pixels`. Logits are those of the caption
    model.

    Args:
        model: Visual encoder, projector and language model (setting H).

    Raises:
        UserError: it has no visual encoder (setting U), or one of a kind that is not known here; its
            language model has an output head that LLaVA has not.
    """
    if isinstance(model, LlavaCaptionModel):
        whole: LlavaForConditionalGeneration = model.llava
        return whole.eval()
    vision, language = model.vision, model.language_model
    if not isinstance(vision, EncoderProjector):
        raise UserError("a model of setting U has no visual encoder, so it is no LLaVA", "setting=U", "use setting=H")
    if not output_head(language).plain:
        kind = type(language).__name__
        raise UserError(f"{kind} does more to its logits than LLaVA, which multiplies by a weight", "model.path")
    tower: Any = vision.encoder.tower
    norm, strategy = _output_norm(tower), feature_strategy(tower)
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=language.config,
        image_token_index=model.placeholder,
        image_seq_length=model.prefix_ids.count(model.placeholder),
        vision_feature_layer=-1,
        vision_feature_select_strategy=strategy,
    )
    with torch.device("meta"):  # every part of it is replaced
        llava = LlavaForConditionalGeneration(config)
    llava.model.vision_tower = tower
    llava.model.multi_modal_projector = nn.Sequential(norm, *vision.project)
    llava.model.language_model = language.model
    llava.lm_head = language.get_output_embeddings()
    return llava.eval()


def feature_strategy(tower: Any) -> Literal["default", "full"]:
    """How LLaVA selects the patches of a tower: "default" leaves out the class token that leads, "full" takes all.

    Raises:
        UserError: the tower is of a kind that is not known here.
    """
    if isinstance(tower, ViTModel | CLIPVisionModel):
        return "default"
    if isinstance(tower, SiglipVisionModel):
        return "full"
    raise UserError(
        f"the visual encoder is a {type(tower).__name__}; it is known how to take apart a CLIP, SigLIP or ViT",
        "model.vision.path",
        "train on an encoder of these",
    )


def _output_norm(tower: PreTrainedModel) -> nn.Module:
    """What a tower does behind its last block, which LLaVA's features leave out."""
    if isinstance(tower, ViTModel):
        return tower.layernorm
    if isinstance(tower, SiglipVisionModel):
        return tower.post_layernorm
    return nn.Identity()  # a CLIP norms its class token only
