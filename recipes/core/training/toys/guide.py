"""What the encoder of question canvases learns beside CLS: every patch names the digit it shows, and where it is.

Words of digits and patches share a space: that is what pruners read which compare patches with the question. Patches of
pretrained encoders tell where they are; those of an encoder that only names what a canvas shows somewhere do not, and
no language model could answer in which quadrant a digit stands.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cosine_similarity, cross_entropy

from recipes.core.data.images.digits import DIGITS

GUIDE = "guide.safetensors"
WIDTH, TAU, QUADRANTS = 48, 0.1, 4
PATCH_WEIGHT = 10.0  # a patch's digit counts as much as the presence of all ten digits


class Guide(nn.Module):
    """Digit words and patches in one space: a patch that shows a digit lies near its word, one of none near no word.

    Args:
        width: Of a patch.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.text = nn.Parameter(torch.randn(len(DIGITS), WIDTH))
        self.patch = nn.Linear(width, WIDTH, bias=False)

    def forward(self, patches: Tensor) -> Tensor:
        """[B, N, C] patches of the last hidden state, behind the closing norm, to logits [B, N, 11]: digits, none.

        Source:
            cos(patch, word) / tau, notes on recoverable compression, section 7; ours: a label for every patch in place
            of the largest patch's for the canvas.
        """
        cosines = cosine_similarity(self.patch(patches)[:, :, None], self.text, dim=-1)
        return torch.cat([cosines / TAU, torch.zeros_like(cosines[..., :1])], 2)


class Naming(nn.Module):
    """The encoder with all that it learns to predict.

    Args:
        digits: A `toys.encoder.Digits`; its heads predict which digits a canvas shows.
    """

    def __init__(self, digits: Any) -> None:
        super().__init__()
        width = digits.tower.config.hidden_size
        self.digits, self.guide, self.places = digits, Guide(width), nn.Linear(width, QUADRANTS)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, 3, S, S] to logits: presence [B, 10], digit of each patch [B, N, 11], its quadrant [B, N, 4]."""
        tower = self.digits.tower
        out = tower(pixel_values=pixel_values)
        patches = tower.post_layernorm(out.last_hidden_state[:, 1:])
        return self.digits.heads(out.pooler_output), self.guide(patches), self.places(patches)


class NamingLoss:
    """Presence of each digit, the digit of each patch (none: 10) and its quadrant."""

    def normalizer(self, batch: dict[str, Tensor]) -> Tensor:
        """Canvases of this micro-batch."""
        return torch.tensor(float(len(batch["presence"])))

    def __call__(
        self, model: nn.Module, batch: dict[str, Tensor], normalizer: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over canvases, and the share of digits whose presence is predicted right."""
        presence, named, placed = model(batch["inputs"])
        rows, patches, quadrants = named.shape[0], named.shape[1], _quadrants(named.shape[1]).to(named.device)
        there = binary_cross_entropy_with_logits(presence, batch["presence"], reduction="sum")
        name = cross_entropy(named.flatten(0, 1), batch["named"].flatten(), reduction="sum") / patches
        place = cross_entropy(placed.flatten(0, 1), quadrants.repeat(rows), reduction="sum") / patches
        right = ((presence > 0) == (batch["presence"] > 0)).float().detach()
        counts = torch.stack([right.sum(), torch.ones_like(right).sum()])
        return (there + PATCH_WEIGHT * name + place) / normalizer, {"accuracy": counts}


def save_guide(guide: Guide, folder: Path) -> None:
    """Write the guide beside the encoder it was trained with."""
    save_file({"text": guide.text.detach(), "patch": guide.patch.weight.detach()}, folder / GUIDE)


def load_guide(folder: Path) -> tuple[Tensor, Tensor]:
    """The guide beside a toy model of question canvases.

    Returns:
        Embeddings of the questions [10, p], and the weight [p, C] that takes patches of the encoder's last hidden
        state, the closing norm applied, into their space.
    """
    saved = load_file(Path(folder) / GUIDE)
    return saved["text"], saved["patch"]


def _quadrants(patches: int) -> Tensor:
    """[patches] the quadrant of each patch of a square."""
    grid = round(patches**0.5)
    half = torch.arange(grid) * 2 // grid
    return (2 * half[:, None] + half).flatten()
