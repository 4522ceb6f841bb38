"""Families whose images are cut into crops of one size, each of which gives equally many tokens."""

from abc import abstractmethod
from typing import Any

import numpy as np
from torch import Tensor

from recipes.core.errors import UserError
from recipes.pruning.adapters.family import ONE_IMAGE, Call, Family, View


class Tiled(Family):
    """Square crops, patches of each joined by neighbourhoods; crops follow each other, the whole image mostly last."""

    @abstractmethod
    def side(self, config: Any) -> int:
        """Rows, and columns, of the tokens of a crop."""

    def rows(self, core: Any, call: Call, totals: list[int]) -> list[int]:
        crop = self.side(core.config) ** 2
        crops = [total // crop for total in totals]
        if len(call.tokens) and sum(crops) != len(call.tokens[0]):
            raise UserError(
                f"{sum(crops)} crops have placeholders in the prompts, but {len(call.tokens[0])} were encoded",
                "pixel_values",
                ONE_IMAGE,
            )
        return crops

    def views(self, config: Any, inputs: dict[str, Tensor]) -> list[View]:
        side, pixels = self.side(config), inputs["pixel_values"]
        crops = pixels.flatten(0, -4)
        return [
            View(crop, number * side**2 + np.arange(side**2).reshape(side, side)) for number, crop in enumerate(crops)
        ]
