"""What kind of model it is, and where its parts are."""

from dataclasses import dataclass
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
from recipes.pruning.tokens import Depth

LLAVA = (LlavaForConditionalGeneration, LlavaNextForConditionalGeneration)
DECODERS = ("llama", "mistral", "qwen2")
SUPPORTED = "LlavaForConditionalGeneration, LlavaNextForConditionalGeneration, CLIPVisionModel, ViTModel, "
SUPPORTED += "ViTForImageClassification and BertModel"
ATTENTION = ("sdpa", "eager")


@dataclass(frozen=True)
class Layout:
    """What kind of model it is.

    Attributes:
        kind: "llava" (LLaVA-NeXT too), "vit" or "text".
        depth: Encoder blocks and layers of the language model.
        special: Tokens of the encoder that are never pruned: CLS (0 for SigLIP); of text CLS and SEP.
        encoder: A block of the encoder.
        used_blocks: Encoder blocks whose output is used: 5 of 6 for `vision_feature_layer=-2`.
        llm: A layer of the language model; None without one.
        projector: Its widths, empty without one.
        patch_pixels: Numbers in a patch, all channels; 0 for text.
    """

    kind: str
    depth: Depth
    special: int
    encoder: LayerShape
    used_blocks: int
    llm: LayerShape | None
    projector: tuple[int, ...]
    patch_pixels: int


@dataclass(frozen=True)
class Parts:
    """A model taken apart.

    Attributes:
        layout: Its numbers.
        encoder: Parts of its encoder.
        core: The module that joins the towers; None without a language model.
        anyres: Whether an image is several crops, packed with newline tokens.
    """

    layout: Layout
    encoder: Encoder
    core: Any = None
    anyres: bool = False


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
    if isinstance(model, ViTForImageClassification):
        return _alone(model.vit)
    if isinstance(model, CLIPVisionModel | ViTModel | BertModel):
        return _alone(model)
    raise UserError(f"pruning does not know {type(model).__name__}", hint=f"it knows {SUPPORTED}")


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
            patch_pixels=0 if text else _pixels(config),
        ),
        encoder,
    )


def _llava(model: PreTrainedModel) -> Parts:
    config, core = model.config, model.model
    encoder = _encoder_of(core.vision_tower)
    used, blocks = _count_blocks(config, encoder), len(encoder.blocks)
    vision, text = config.vision_config, config.text_config
    _check_decoder(text)
    return Parts(
        Layout(
            kind="llava",
            depth=Depth(vit=blocks, llm=len(core.language_model.layers)),
            special=encoder.lead,
            encoder=LayerShape(vision.hidden_size, vision.intermediate_size),
            used_blocks=used,
            llm=decoder_shape(core.language_model.layers[0]),
            projector=(vision.hidden_size, text.hidden_size, text.hidden_size),
            patch_pixels=_pixels(vision),
        ),
        encoder,
        core,
        anyres=isinstance(model, LlavaNextForConditionalGeneration),
    )


def _encoder_of(tower: PreTrainedModel) -> Encoder:
    _check_attention(tower.config, type(tower).__name__)
    return encoder_parts(tower)


def _count_blocks(config: Any, encoder: Encoder) -> int:
    """Blocks in front of the features that go to the projector.

    Raises:
        UserError: features of several layers, of none, or with CLS among them.
    """
    layer, blocks = config.vision_feature_layer, len(encoder.blocks)
    where, hint = "vision_feature_layer", "type one layer, such as -2"
    if not isinstance(layer, int):
        raise UserError(f"pruning needs features of one encoder layer, not of {list(layer)}", where, hint)
    used = layer if layer >= 0 else blocks + 1 + layer
    if not 0 < used <= blocks:
        raise UserError(f"feature layer {layer} is behind none of {blocks} blocks", where, hint)
    strategy = config.vision_feature_select_strategy
    if (strategy == "full") == bool(encoder.lead):
        raise UserError(
            f"{strategy} would {'leave CLS among' if encoder.lead else 'take a patch from'} the features",
            "vision_feature_select_strategy",
            f"type {'default' if encoder.lead else 'full'}",
        )
    return used


def _check_decoder(config: Any) -> None:
    _check_attention(config, config.model_type)
    if config.model_type not in DECODERS:
        raise UserError(
            f"pruning does not know the language model {config.model_type}", hint=f"it knows {', '.join(DECODERS)}"
        )
    if getattr(config, "sliding_window", None) is not None:
        raise UserError(
            "pruned layers hold tokens of other columns than a sliding window counts",
            "text_config.sliding_window",
            "set it to null if prompts are shorter than the window",
        )


def _check_attention(config: Any, name: str) -> None:
    used = config._attn_implementation
    if used not in ATTENTION:
        raise UserError(
            f"{name} runs with {used}, which takes no mask over dropped tokens",
            "attn_implementation",
            "load the model with attn_implementation=sdpa (or eager)",
        )


def _pixels(config: Any) -> int:
    pixels: int = config.num_channels * config.patch_size**2
    return pixels
