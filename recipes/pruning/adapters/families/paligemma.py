"""PaliGemma: one square image in front of a prompt whose tokens all see each other."""

from typing import Any, ClassVar

import numpy as np
from torch import Tensor
from torch.nn import ModuleList

from recipes.core.models.costs import LayerShape, decoder_shape
from recipes.pruning.adapters.anatomy import Layout, Parts, check_attention, check_decoder
from recipes.pruning.adapters.family import Call, Family, View, require_one_image
from recipes.pruning.tokens import Depth

DECODERS = ("gemma",)


class PaliGemma(Family):
    """A SigLIP tower and a Gemma. PaliGemma 2 has layers with a sliding window, which are not known."""

    kinds = ("paligemma",)
    prompt: ClassVar[str] = "{image}{question}"
    prefix = True
    reason = "which is known for LLaVA's towers only"

    def parts(self, model: Any) -> Parts:
        config, core = model.config, model.model
        vision, text = config.vision_config, config.text_config
        check_attention(vision, "the vision encoder")
        check_decoder(text, DECODERS)
        blocks = self.blocks(core)
        layout = Layout(
            kind=config.model_type,
            depth=Depth(vit=len(blocks), llm=len(core.language_model.layers)),
            special=0,
            encoder=LayerShape(vision.hidden_size, vision.intermediate_size),
            used_blocks=len(blocks),
            llm=decoder_shape(core.language_model.layers[0]),
            projector=(vision.hidden_size, text.hidden_size),
            patch_pixels=vision.num_channels * vision.patch_size**2,
        )
        return Parts(layout, None, core, llm=core.language_model, family=self)

    def blocks(self, core: Any) -> ModuleList:
        blocks: ModuleList = core.vision_tower.encoder.layers
        return blocks

    def rows(self, core: Any, call: Call, totals: list[int]) -> list[int]:
        images = len(call.arguments["pixel_values"])
        require_one_image(images, len(totals), "pixel_values")
        return [1] * images

    def views(self, config: Any, inputs: dict[str, Tensor]) -> list[View]:
        side = config.vision_config.image_size // config.vision_config.patch_size
        return [View(inputs["pixel_values"][0], np.arange(side**2).reshape(side, side))]


FAMILY = PaliGemma()
