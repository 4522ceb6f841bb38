"""What pruning knows of a model that was taken apart, and language models that it refuses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recipes.core.errors import UserError
from recipes.core.models.anatomy import Encoder
from recipes.core.models.costs import LayerShape
from recipes.pruning.tokens import Depth

DECODERS = ("llama", "mistral", "qwen2", "qwen3")
ATTENTION = ("sdpa", "eager")


@dataclass(frozen=True)
class Layout:
    """What kind of model it is.

    Attributes:
        kind: "llava" (LLaVA-NeXT too), "vit", "text", or the model type of another vision-language model.
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
        encoder: Parts of its encoder; None where a family prunes behind it only, or in its own way.
        core: The module that joins the towers; None without a language model.
        anyres: Whether an image is several crops, packed with newline tokens.
        llm: The language model without its head; None without one.
        family: Of a vision-language model other than LLaVA; None elsewhere.
    """

    layout: Layout
    encoder: Encoder | None
    core: Any = None
    anyres: bool = False
    llm: Any = None
    family: Any = None

    @property
    def grid_positions(self) -> bool:
        """Whether a rotary position is a time, a row and a column (M-RoPE)."""
        return self.family is not None and self.family.grid_positions

    @property
    def patches(self) -> int:
        """Visual tokens of an image or crop where that is one number; 0 where it depends on the sample."""
        return self.encoder.patches if self.encoder else 0


def patch_pixels(vision: Any) -> int:
    """Numbers in a square patch of an encoder with this config, all channels."""
    pixels: int = vision.num_channels * vision.patch_size**2
    return pixels


def check_decoder(config: Any, known: Sequence[str] = DECODERS) -> None:
    """Refuse a language model that cannot be pruned inside.

    Args:
        config: Its config.
        known: Model types that can.

    Raises:
        UserError: it is another one, or its attention cannot be masked.
    """
    check_language(config, known)
    check_attention(config, config.model_type)


def check_language(config: Any, known: Sequence[str] = DECODERS) -> None:
    """Refuse a language model by its config, before there is a model.

    Args:
        config: Its config.
        known: Model types that can be pruned inside.

    Raises:
        UserError: it is of another type, or has layers that see a window only.
    """
    if config.model_type not in known:
        raise UserError(
            f"pruning does not know the language model {config.model_type}", hint=f"it knows {', '.join(known)}"
        )
    if getattr(config, "sliding_window", None) is not None:
        raise UserError(
            "pruned layers hold tokens of other columns than a sliding window counts",
            "text_config.sliding_window",
            "set it to null if prompts are shorter than the window",
        )


def count_used_blocks(config: Any, blocks: int, lead: int) -> int:
    """Encoder blocks in front of the features that go to the projector.

    Args:
        config: Of a model whose features are those of `vision_feature_layer`.
        blocks: Of its encoder.
        lead: Special tokens of the encoder in front of the patches.

    Raises:
        UserError: features of several layers, of none, with CLS among them, or without the first patch.
    """
    layer, where, hint = config.vision_feature_layer, "vision_feature_layer", "type one layer, such as -2"
    if not isinstance(layer, int):
        raise UserError(f"pruning needs features of one encoder layer, not of {list(layer)}", where, hint)
    used = layer if layer >= 0 else blocks + 1 + layer
    if not 0 < used <= blocks:
        raise UserError(f"feature layer {layer} is behind none of {blocks} blocks", where, hint)
    strategy = config.vision_feature_select_strategy
    if (strategy == "full") == bool(lead):
        raise UserError(
            f"{strategy} would {'leave CLS among' if lead else 'take a patch from'} the features",
            "vision_feature_select_strategy",
            f"type {'default' if lead else 'full'}",
        )
    return used


def check_attention(config: Any, name: str) -> None:
    """Refuse a kernel that takes no mask over dropped tokens. Raises UserError."""
    used = config._attn_implementation
    if used not in ATTENTION:
        raise UserError(
            f"{name} runs with {used}, which takes no mask over dropped tokens",
            "attn_implementation",
            "load the model with attn_implementation=sdpa (or eager)",
        )
