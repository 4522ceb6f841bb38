"""PaliGemma: one square image in front of a prompt whose tokens all see each other."""

from typing import Any, ClassVar

import numpy as np
from torch import Tensor
from torch.nn import ModuleList

from recipes.pruning.adapters.anatomy import Parts
from recipes.pruning.adapters.family import Family, View


class PaliGemma(Family):
    """A SigLIP tower, each of whose patches is a token, and a Gemma.

    PaliGemma 2 has layers with a sliding window, which are not known.
    """

    kinds = ("paligemma",)
    prompt: ClassVar[str] = "{image}{question}"
    decoders = ("gemma",)
    prefix = True

    def parts(self, model: Any) -> Parts:
        config, core = model.config, model.model
        widths = (config.vision_config.hidden_size, config.text_config.hidden_size)
        return self.two_towers(model, core.language_model, widths, tower=core.vision_tower)

    def blocks(self, core: Any) -> ModuleList:
        blocks: ModuleList = core.vision_tower.encoder.layers
        return blocks

    def views(self, config: Any, inputs: dict[str, Tensor]) -> list[View]:
        side = config.vision_config.image_size // config.vision_config.patch_size
        return [View(inputs["pixel_values"][0], np.arange(side**2).reshape(side, side))]


FAMILY = PaliGemma()
