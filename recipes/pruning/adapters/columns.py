"""Columns of a prompt in a language model: text, visual tokens in one piece, padding; and dropping some of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from recipes.core.models.padded import gather, pack
from recipes.pruning.tokens import Kept


@dataclass(frozen=True)
class Columns:
    """What stands in each column.

    Attributes:
        text: [B, R] bool, text tokens.
        mask: [B, R] bool, False for padding.
        position_ids: [B, R]
        start: [B] column of the first visual token.
        valid: [B, M] bool, which of the visual tokens at `start`, `start` + 1, ... are there.
        positions: [B, M] their original positions, -1 for new tokens.
        sizes: [B, M]
    """

    text: Tensor
    mask: Tensor
    position_ids: Tensor
    start: Tensor
    valid: Tensor
    positions: Tensor
    sizes: Tensor

    @staticmethod
    def of_prompt(mask: Tensor, position_ids: Tensor, start: Tensor, total: Tensor) -> "Columns":
        """Columns before anything was dropped.

        Args:
            mask: [B, L] bool.
            position_ids: [B, L]
            start: [B] column of the first placeholder.
            total: [B] placeholders.
        """
        column = torch.arange(mask.shape[1], device=mask.device)
        image = (column >= start[:, None]) & (column < (start + total)[:, None])
        position = torch.arange(int(total.max()), device=mask.device).expand(len(mask), -1)
        valid = position < total[:, None]
        return Columns(
            mask & ~image, mask, position_ids, start, valid, position, torch.ones(position.shape).to(position.device)
        )

    @property
    def count(self) -> Tensor:
        """[B] visual tokens."""
        return self.valid.sum(1)

    @property
    def visual(self) -> Tensor:
        """[B, M] columns of the visual tokens."""
        position = torch.arange(self.valid.shape[1], device=self.start.device)
        return (self.start[:, None] + position).clamp(max=self.mask.shape[1] - 1)

    @property
    def following(self) -> Tensor:
        """[B] position of the token behind the prompt."""
        return self.position_ids.masked_fill(~self.mask, -1).amax(1) + 1

    def words(self) -> tuple[Tensor, Tensor]:
        """[B, P] columns of the text behind the image and [B, P] bool, which of them are no padding."""
        column = torch.arange(self.mask.shape[1], device=self.mask.device)
        return pack(self.text & (column >= (self.start + self.count)[:, None]))

    def rebuilt(self, hidden: Tensor, kept: Kept, compact: bool) -> tuple[Tensor, "Columns"]:
        """Put other visual tokens in the place of those that are there; padding goes to the left.

        Args:
            hidden: [B, R, d] states in these columns.
            kept: The new visual tokens; `source` counts from `start`.
            compact: Whether positions are counted anew, from that of the first token on.

        Returns:
            The states and their columns.
        """
        order, mask = self._order(kept.valid)
        joined = torch.cat([hidden, kept.x.to(hidden.dtype)], 1)
        if compact:
            begin = gather(self.position_ids, self.mask.long().argmax(1)[:, None])
            position_ids = begin + (mask.cumsum(1) - 1).clamp(min=0)
        else:
            position_ids = gather(torch.cat([self.position_ids, self._positions(kept.source)], 1), order)
        text = gather(torch.cat([self.text, torch.zeros_like(kept.valid)], 1), order) & mask
        column = torch.arange(self.mask.shape[1], device=mask.device)
        before = (self.text & (column < self.start[:, None])).sum(1)
        start = mask.shape[1] - mask.sum(1) + before
        columns = Columns(text, mask, position_ids, start, kept.valid, kept.positions, kept.sizes)
        return gather(joined, order), columns

    def _order(self, valid: Tensor) -> tuple[Tensor, Tensor]:
        """[B, R'] where each new column comes from, in columns and visual tokens behind each other; [B, R'] mask."""
        columns, tokens = self.mask.shape[1], valid.shape[1]
        position = torch.arange(max(columns, tokens), device=valid.device)
        key = torch.cat(
            [
                (position[:columns] * (tokens + 1)).expand(len(valid), -1),
                self.start[:, None] * (tokens + 1) + position[:tokens],
            ],
            1,
        )
        index, mask = pack(torch.cat([self.text, valid], 1), key.argsort(dim=1, stable=True).argsort(1))
        width = mask.shape[1]
        moved = (torch.arange(width, device=valid.device) - (width - mask.sum(1, keepdim=True))) % max(width, 1)
        return gather(index, moved), gather(mask, moved)

    def _positions(self, source: Tensor) -> Tensor:
        """[B, M] positions of visual tokens; a new one has that of the one before it."""
        last = self.mask.shape[1] - 1
        first = gather(self.position_ids, self.start[:, None].clamp(max=last))
        at = gather(self.position_ids, (self.start[:, None] + source.clamp(min=0)).clamp(max=last))
        return torch.where(source < 0, torch.where(source < 0, first, at).cummax(1).values, at)
