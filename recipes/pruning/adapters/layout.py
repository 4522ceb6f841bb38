"""What kind of model it is, and where its parts are."""

from typing import Any

from transformers import (
    BertModel,
    CLIPVisionModel,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
    PreTrainedModel,
    ViTForImageClassification,
    ViTModel,
)

from recipes.core.errors import UserError
from recipes.core.models.anatomy import Encoder, encoder_parts
from recipes.core.models.costs import LayerShape, decoder_shape
from recipes.pruning.adapters.anatomy import (
    Layout,
    Parts,
    check_attention,
    check_decoder,
    count_used_blocks,
    patch_pixels,
)
from recipes.pruning.adapters.families import families, family_of
from recipes.pruning.tokens import Depth

LLAVA = (LlavaForConditionalGeneration, LlavaNextForConditionalGeneration)
SUPPORTED = "LlavaForConditionalGeneration, LlavaNextForConditionalGeneration, CLIPVisionModel, ViTModel, "
SUPPORTED += "ViTForImageClassification and BertModel"


def layout(model: Any) -> Layout:
    """What kind of model it is.

    Args:
        model: A model of `transformers`.

    Raises:
        UserError: pruning does not know this model.
    """
    return parts(model).layout


def parts(model: Any) -> Parts:
    """The model taken apart.

    Args:
        model: A model of `transformers`.

    Raises:
        UserError: pruning does not know this model, or its attention cannot be masked or read.
    """
    if isinstance(model, LLAVA):
        return _llava(model)
    if (family := family_of(model.config.model_type)) is not None:
        return family.parts(model)
    if isinstance(model, ViTForImageClassification):
        return _alone(model.vit)
    if isinstance(model, CLIPVisionModel | ViTModel | BertModel):
        return _alone(model)
    others = ", ".join(sorted(families()))
    raise UserError(
        f"pruning does not know {type(model).__name__}", hint=f"it knows {SUPPORTED}, and the types {others}"
    )


def _alone(model: PreTrainedModel) -> Parts:
    """An encoder without a language model."""
    config = model.config
    if isinstance(model, BertModel) and config.is_decoder:
        raise UserError("pruning needs BertModel as an encoder", hint="load it with is_decoder=False")
    encoder = _encoder_of(model)
    text = isinstance(model, BertModel)
    return Parts(
        Layout(
            kind="text" if text else "vit",
            depth=Depth(vit=len(encoder.blocks)),
            special=encoder.lead + encoder.trail,
            encoder=LayerShape(config.hidden_size, config.intermediate_size),
            used_blocks=len(encoder.blocks),
            llm=None,
            projector=(),
            patch_pixels=0 if text else patch_pixels(config),
        ),
        encoder,
    )


def _llava(model: PreTrainedModel) -> Parts:
    config, core = model.config, model.model
    encoder = _encoder_of(core.vision_tower)
    blocks = len(encoder.blocks)
    vision, text = config.vision_config, config.text_config
    check_decoder(text)
    return Parts(
        Layout(
            kind="llava",
            depth=Depth(vit=blocks, llm=len(core.language_model.layers)),
            special=encoder.lead,
            encoder=LayerShape(vision.hidden_size, vision.intermediate_size),
            used_blocks=count_used_blocks(config, blocks, encoder.lead),
            llm=decoder_shape(core.language_model.layers[0]),
            projector=(vision.hidden_size, text.hidden_size, text.hidden_size),
            patch_pixels=patch_pixels(vision),
        ),
        encoder,
        core,
        anyres=isinstance(model, LlavaNextForConditionalGeneration),
        llm=core.language_model,
    )


def _encoder_of(tower: PreTrainedModel) -> Encoder:
    check_attention(tower.config, type(tower).__name__)
    return encoder_parts(tower)
