"""Budgets of LLaVA-NeXT, whose image is several crops: all pruners leave equally many tokens of the whole image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from recipes.core.errors import UserError

NEWLINE = -1.0


@dataclass(frozen=True)
class Crops:
    """How the crops of a batch are packed.

    Attributes:
        counts: Crops of each image; a crop is a row of the encoder.
        sizes: [B, 2] height and width of the images.
        real: [rows, N] bool, patches that the pack takes; others are padding of the image.
        totals: [B] tokens of each pack, newline tokens included.
    """

    counts: list[int]
    sizes: Any
    real: Tensor
    totals: Tensor

    @staticmethod
    def of(core: Any, sizes: Any, patches: int) -> "Crops":
        """What the model's own pack makes of images of these sizes.

        Args:
            core: The module that joins the towers.
            sizes: [B, 2] height and width of the images.
            patches: Of a crop.
        """
        config = core.config
        grid, side = config.image_grid_pinpoints, config.vision_config.image_size
        counts = [image_size_to_num_patches(size, grid, side) for size in sizes]
        rows = sum(counts)
        numbers = torch.arange(rows * patches, dtype=torch.float64).view(rows, patches, 1)
        packed = pack_chart(core, numbers, counts, sizes, [NEWLINE])
        real = torch.zeros(rows * patches, dtype=torch.bool)
        for part in packed:
            real[part[part[:, 0] >= 0, 0].long()] = True
        return Crops(counts, sizes, real.view(rows, patches), torch.tensor([len(part) for part in packed]))

    def share_out(self, budgets: Tensor, names: Sequence[str]) -> Tensor:
        """[rows] tokens to leave of each crop, [B] `budgets` in proportion to the patches that are no padding.

        Raises:
            UserError: fewer tokens than crops.
        """
        parts, shares = self.real.sum(1).split(self.counts), []
        for name, budget, part in zip(names, budgets.tolist(), parts, strict=True):
            if budget < len(part):
                raise UserError(f"{budget} tokens cannot come from {len(part)} crops of {name}", "keep", "type more")
            shares += shares_of(budget, part.tolist())
        return torch.tensor(shares)


def pack_chart(core: Any, chart: Tensor, counts: list[int], sizes: Any, newline: list[float]) -> list[Tensor]:
    """Numbers of patches packed as the model packs its features.

    Args:
        core: The module that joins the towers.
        chart: [rows, N, k]
        counts: Crops of each image.
        sizes: [B, 2] height and width of the images.
        newline: The k numbers of a newline token.
    """
    packed, _ = core.pack_image_features(
        chart.split(counts),
        sizes,
        vision_feature_select_strategy=core.config.vision_feature_select_strategy,
        image_newline=torch.tensor(newline, dtype=chart.dtype, device=chart.device),
    )
    return list(packed)


def shares_of(total: int, counts: Sequence[int]) -> list[int]:
    """`total` in proportion to the counts, at most each count and, where there is any, at least 1.

    Whole numbers by the largest remainder; of equal ones the first.
    """
    whole = sum(counts)
    if total >= whole:
        return list(counts)
    shares = [min(max(total * count // whole, 1), count) for count in counts]
    while (missing := total - sum(shares)) != 0:
        step = 1 if missing > 0 else -1
        able = [row for row, share in enumerate(shares) if (share < counts[row] if step > 0 else share > 1)]
        row = max(able, key=lambda row: (step * (total * counts[row] / whole - shares[row]), -row))
        shares[row] += step
    return shares
