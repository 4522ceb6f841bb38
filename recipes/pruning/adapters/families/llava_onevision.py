"""LLaVA-OneVision: crops packed behind the projector, shrunk where they are many, with newline tokens between rows."""

import math
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import ModuleList
from transformers.models.llava_onevision.modeling_llava_onevision import (
    get_anyres_image_grid_shape,
    image_size_to_num_patches,
    unpad_image,
)

from recipes.core.models.anatomy import encoder_parts
from recipes.pruning.adapters.anatomy import Parts, count_used_blocks
from recipes.pruning.adapters.family import Call, Family, View, require_one_image

SHRUNK = 1.1  # above this ratio of patches to the most there may be, the pack is resized


class LlavaOnevision(Family):
    """A SigLIP tower; the whole image comes first, then the rows of its crops."""

    kinds = ("llava_onevision",)
    prompt: ClassVar[str] = "<|im_start|>user {image}\n{question}<|im_end|><|im_start|>assistant\n"
    reason = "its crops are packed behind it and, where they are many, resized, for which a pruned grid has no meaning"

    def parts(self, model: Any) -> Parts:
        config, core = model.config, model.model
        lead, width = encoder_parts(core.vision_tower).lead, config.text_config.hidden_size
        return self.two_towers(
            model,
            core.language_model,
            (config.vision_config.hidden_size, width, width),
            special=lead,
            used_blocks=count_used_blocks(config, len(self.blocks(core)), lead),
        )

    def blocks(self, core: Any) -> ModuleList:
        blocks: ModuleList = core.vision_tower.encoder.layers
        return blocks

    def rows(self, core: Any, call: Call, totals: list[int]) -> list[int]:
        sizes, numbers = call.arguments["image_sizes"], call.arguments.get("batch_num_images")
        require_one_image(len(sizes), len(totals), "image_sizes")
        for number in [] if numbers is None else numbers:
            require_one_image(int(number), 1, "batch_num_images")
        config = core.config
        grid, side = config.image_grid_pinpoints, config.vision_config.image_size
        return [image_size_to_num_patches(size, grid, side) for size in sizes]

    def projected(self, core: Any, rows: list[int], totals: list[int]) -> list[int]:
        return [crops * _side(core.config) ** 2 for crops in rows]

    def newline(self, core: Any, call: Call) -> list[Tensor]:
        return [_newlines(core.config, size) for size in call.arguments["image_sizes"]]

    def views(self, config: Any, inputs: dict[str, Tensor]) -> list[View]:
        [crops], [size], side = inputs["pixel_values"], inputs["image_sizes"], _side(config)
        base = View(crops[0], np.arange(side**2).reshape(side, side))
        high, wide = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, config.vision_config.image_size)
        pixels = crops[1:].unflatten(0, (high, wide)).permute(2, 0, 3, 1, 4).flatten(1, 2).flatten(2, 3)
        rows, columns = _pack_shape(config, size)
        # A newline token stands behind each row, and nowhere in the picture.
        cells = side**2 + np.arange(rows * (columns + 1)).reshape(rows, columns + 1)[:, :columns]
        return [base, View(unpad_image(pixels, size), cells)]


def _side(config: Any) -> int:
    side: int = config.vision_config.image_size // config.vision_config.patch_size
    return side


def _pack_shape(config: Any, size: Tensor) -> tuple[int, int]:
    """Rows and columns of the packed crops of an image of this size [2], padding left out, shrunk where they are many.

    Source:
        arXiv 2408.03326, "Higher AnyRes": bilinear shrinking to a limit of tokens, which together with the threshold
        is that of `transformers`.
    """
    side, limit = _side(config), int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
    high, wide = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, config.vision_config.image_size)
    rows, columns = unpad_image(torch.zeros(1, high * side, wide * side), size).shape[1:]
    ratio = math.sqrt(rows * columns / (limit * side**2))
    return (int(rows // ratio), int(columns // ratio)) if ratio > SHRUNK else (rows, columns)


def _newlines(config: Any, size: Tensor) -> Tensor:
    """[N] bool, which tokens of an image only mark the end of a row."""
    rows, columns = _pack_shape(config, size)
    packed = torch.zeros(rows, columns + 1, dtype=torch.bool)
    packed[:, -1] = True
    return torch.cat([torch.zeros(_side(config) ** 2, dtype=torch.bool), packed.flatten()])


FAMILY = LlavaOnevision()
