"""Qwen2-VL and Qwen2.5-VL: images of any size, 2 x 2 patches merged to a token, positions of three parts (M-RoPE)."""

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import ModuleList
from transformers.vision_utils import get_vision_window_index

from recipes.core.models.costs import LayerShape
from recipes.pruning.adapters.anatomy import Parts
from recipes.pruning.adapters.family import Call, Family, Handle, View, require_one_image
from recipes.pruning.adapters.packed import PackedPruning


class QwenVL(Family):
    """What both have in common; their encoders differ in widths, MLPs and windows."""

    kinds = ("qwen2_vl", "qwen2_5_vl")
    decoders = ("qwen2_vl_text", "qwen2_5_vl_text")
    grid_positions = True
    inside: ClassVar[tuple[str, ...]] = ("flowcut",)
    prompt: ClassVar[str] = (
        "<|im_start|>user\n<|vision_start|>{image}<|vision_end|>{question}<|im_end|>\n<|im_start|>assistant\n"
    )

    def parts(self, model: Any) -> Parts:
        core, vision = model.model, model.config.vision_config
        block, merged = core.visual.blocks[0], core.visual.merger.hidden_size
        gated = hasattr(block.mlp, "gate_proj")
        return self.two_towers(
            model,
            core.language_model,
            (merged, merged, model.config.text_config.hidden_size),
            encoder=LayerShape(
                width=block.attn.qkv.in_features,
                ffn=(block.mlp.gate_proj if gated else block.mlp.fc1).out_features,
                matrices=3 if gated else 2,
            ),
            pixels=vision.in_channels * vision.temporal_patch_size * vision.patch_size**2,
        )

    def blocks(self, core: Any) -> ModuleList:
        blocks: ModuleList = core.visual.blocks
        return blocks

    def encoder_hooks(self, session: Any) -> list[Handle]:
        tower = session.parts.core.visual
        return PackedPruning(session, lambda call: places(tower, call)).install()

    def rows(self, core: Any, call: Call, totals: list[int]) -> list[int]:
        images = len(call.arguments["image_grid_thw"])
        require_one_image(images, len(totals), "image_grid_thw")
        return [1] * images

    def block_load(self, call: Call, hidden: Tensor, others: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Images stand behind each other; each attends within its segments: itself, or its windows."""
        ends = others["cu_seqlens"].long().cpu()
        lengths = ends.diff()
        images = image_ends(call)
        owner = torch.bucketize(ends[:-1], images, right=True)
        zeros = torch.zeros(len(images), dtype=torch.long)
        return zeros.index_add(0, owner, lengths), zeros.index_add(0, owner, lengths**2)

    def views(self, config: Any, inputs: dict[str, Tensor]) -> list[View]:
        vision = config.vision_config
        _, height, width = inputs["image_grid_thw"][0].tolist()
        side, size = vision.spatial_merge_size, vision.patch_size
        rows, columns = height // side, width // side
        # Patches are listed group by group; of the equal frames of an image the first is shown.
        packed = inputs["pixel_values"].view(rows, columns, side, side, vision.in_channels, -1, size, size)
        first = packed[:, :, :, :, :, 0]
        pixels = first.permute(4, 0, 2, 5, 1, 3, 6).reshape(vision.in_channels, height * size, width * size)
        return [View(pixels, np.arange(rows * columns).reshape(rows, columns))]


def image_ends(call: Call) -> Tensor:
    """[images] where each image ends among the patches of a batch that are there now."""
    if call.patches is not None:
        return torch.tensor([len(each) for each in call.patches]).cumsum(0)
    ends: Tensor = call.arguments["image_grid_thw"].prod(1).cumsum(0).cpu()
    return ends


def places(tower: Any, call: Call) -> Tensor:
    """[groups] place of each group in the tower's order: the image's, or window by window."""
    grid = call.arguments["image_grid_thw"]
    groups = int(grid.prod(1).sum()) // tower.spatial_merge_size**2
    if not hasattr(tower, "window_size"):
        return torch.arange(groups)
    return get_vision_window_index(grid, tower.spatial_merge_size, tower.window_size, tower.patch_size)[0]


FAMILY = QwenVL()
