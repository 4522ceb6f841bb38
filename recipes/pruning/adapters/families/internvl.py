"""InternVL: crops and a thumbnail in one piece, 2 x 2 patches joined by pixel shuffle; CLS is left out before."""

from typing import Any, ClassVar

from torch.nn import ModuleList

from recipes.core.errors import UserError
from recipes.pruning.adapters.anatomy import Parts, count_used_blocks
from recipes.pruning.adapters.tiled import Tiled

LEAD = 1  # CLS


class InternVL(Tiled):
    """InternVL in the form that `transformers` has."""

    kinds = ("internvl",)
    prompt: ClassVar[str] = "<|im_start|>user\n{image}\n{question}<|im_end|>\n<|im_start|>assistant\n"

    def parts(self, model: Any) -> Parts:
        config, core = model.config, model.model
        vision, width = config.vision_config, config.text_config.hidden_size
        if vision.model_type != "internvl_vision":
            raise UserError(
                f"pruning knows InternVL with an encoder of type internvl_vision, not {vision.model_type}",
                "vision_config",
            )
        return self.two_towers(
            model,
            core.language_model,
            (core.multi_modal_projector.linear_1.in_features, width, width),
            special=LEAD,
            used_blocks=count_used_blocks(config, len(self.blocks(core)), LEAD),
            pixels=vision.num_channels * vision.patch_size[0] * vision.patch_size[1],
        )

    def blocks(self, core: Any) -> ModuleList:
        blocks: ModuleList = core.vision_tower.encoder.layer
        return blocks

    def side(self, config: Any) -> int:
        vision = config.vision_config
        return int(vision.image_size[0] // vision.patch_size[0] * config.downsample_ratio)


FAMILY = InternVL()
