"""The tokens on their way through an encoder: special ones, those that may be pruned, padding."""

from dataclasses import dataclass

import torch
from torch import Tensor

from recipes.core.models.padded import gather
from recipes.pruning.tokens import Kept, size_bias


@dataclass(frozen=True)
class Sequence:
    """Where tokens stand.

    In the model's order a sample is lead, tokens, trail, padding; pruners see lead, trail, tokens, padding.

    Attributes:
        lead: Special tokens at the start.
        trail: Special tokens behind the others.
        valid: [B, N] bool, which of the other tokens are no padding; these come first.
        positions: [B, N] original positions, -1 for new tokens.
        sizes: [B, N]
        touched: Whether tokens were dropped or changed since the model's own mask was made.
    """

    lead: int
    trail: int
    valid: Tensor
    positions: Tensor
    sizes: Tensor
    touched: bool = False

    @staticmethod
    def start(lead: int, trail: int, valid: Tensor) -> "Sequence":
        """All tokens, none pruned yet."""
        position = torch.arange(valid.shape[1], device=valid.device).expand(valid.shape)
        return Sequence(lead, trail, valid, position, torch.ones(valid.shape, device=valid.device))

    @property
    def special(self) -> int:
        """Special tokens of a sample."""
        return self.lead + self.trail

    @property
    def count(self) -> Tensor:
        """[B] tokens that may be pruned."""
        return self.valid.sum(1)

    def view(self, hidden: Tensor) -> Tensor:
        """[B, S + N, ...] special tokens first, of `hidden` in the model's order."""
        if not self.trail:
            return hidden
        position, end = self._positions()
        front = torch.where(position < self.lead, position, end + position - self.lead)
        return gather(
            hidden, torch.where(position < self.special, front, self._move(position - self.trail, position, end))
        )

    def _move(self, moved: Tensor, position: Tensor, end: Tensor) -> Tensor:
        return torch.where(position < end + self.trail, moved, position)

    def model_order(self, view: Tensor) -> Tensor:
        """[B, T, ...] back to the model's order."""
        if not self.trail:
            return view
        position, end = self._positions()
        back = torch.where(position < end, position + self.trail, self.lead + position - end)
        return gather(view, torch.where(position < self.lead, position, self._move(back, position, end)))

    def _positions(self) -> tuple[Tensor, Tensor]:
        """[1, T] columns and [B, 1] the one behind each sample's tokens that may be pruned."""
        position = torch.arange(self.special + self.valid.shape[1], device=self.valid.device)[None]
        return position, self.lead + self.count[:, None]

    def everyone(self) -> Tensor:
        """[B, S + N] bool, special tokens first."""
        return torch.cat([self.valid.new_ones(len(self.valid), self.special), self.valid], 1)

    def bias(self, dtype: torch.dtype, proportional: bool) -> Tensor | None:
        """[B, 1, 1, S + N] what attention adds to its logits, special tokens first; None if that is nothing."""
        mask = self.everyone()
        sized = proportional and bool((self.sizes != 1).any())
        if not sized and bool(mask.all()):
            return None
        bias = size_bias(self.sizes, self.special) if sized else self.sizes.new_zeros(len(mask), 1, 1, mask.shape[1])
        return bias.masked_fill(~mask[:, None, None], -torch.inf).to(dtype)

    def after(self, kept: Kept) -> "Sequence":
        """What is left."""
        return Sequence(self.lead, self.trail, kept.valid, kept.positions, kept.sizes, touched=True)
