"""InternVL: crops and a thumbnail in one piece, 2 x 2 patches joined by pixel shuffle; CLS is left out before."""

from typing import Any, ClassVar

from torch.nn import ModuleList

from recipes.core.errors import UserError
from recipes.core.models.costs import LayerShape, decoder_shape
from recipes.pruning.adapters.anatomy import Layout, Parts, check_attention, check_decoder, count_used_blocks
from recipes.pruning.adapters.tiled import Tiled
from recipes.pruning.tokens import Depth

LEAD = 1  # CLS


class InternVL(Tiled):
    """InternVL in the form that `transformers` has."""

    kinds = ("internvl",)
    prompt: ClassVar[str] = "<|im_start|>user\n{image}\n{question}<|im_end|>\n<|im_start|>assistant\n"

    def parts(self, model: Any) -> Parts:
        config, core = model.config, model.model
        vision, text = config.vision_config, config.text_config
        check_attention(vision, "the vision encoder")
        check_decoder(text)
        if vision.model_type != "internvl_vision":
            raise UserError(
                f"pruning knows InternVL with an encoder of type internvl_vision, not {vision.model_type}",
                "vision_config",
            )
        blocks, merged = self.blocks(core), core.multi_modal_projector.linear_1.in_features
        layout = Layout(
            kind=config.model_type,
            depth=Depth(vit=len(blocks), llm=len(core.language_model.layers)),
            special=LEAD,
            encoder=LayerShape(vision.hidden_size, vision.intermediate_size),
            used_blocks=count_used_blocks(config, len(blocks), LEAD),
            llm=decoder_shape(core.language_model.layers[0]),
            projector=(merged, text.hidden_size, text.hidden_size),
            patch_pixels=vision.num_channels * vision.patch_size[0] * vision.patch_size[1],
        )
        return Parts(layout, None, core, llm=core.language_model, family=self)

    def blocks(self, core: Any) -> ModuleList:
        blocks: ModuleList = core.vision_tower.encoder.layer
        return blocks

    def side(self, config: Any) -> int:
        vision = config.vision_config
        return int(vision.image_size[0] // vision.patch_size[0] * config.downsample_ratio)


FAMILY = InternVL()
