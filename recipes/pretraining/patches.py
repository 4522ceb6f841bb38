"""Images cut into a grid of patches, put together again, and as bytes."""

import numpy as np
from torch import Tensor
from torch.nn.functional import fold, unfold


def to_patches(pixels: Tensor, patch: int) -> Tensor:
    """[N, P, C * p * p] patches of images [N, C, S, S], row by row; p divides S."""
    return unfold(pixels, patch, stride=patch).mT


def from_patches(patches: Tensor, patch: int) -> Tensor:
    """The inverse of `to_patches`."""
    side = round(patches.shape[1] ** 0.5) * patch
    return fold(patches.mT, (side, side), patch, stride=patch)


def to_bytes(pixels: Tensor) -> np.ndarray:
    """uint8 [N, S, S, 3] of pixels [N, C, S, S] from -1 to 1, those outside cut off; of one channel three alike."""
    values = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
    return values.expand(-1, -1, -1, 3).cpu().numpy()
