"""Columns of a prompt in a language model: text, visual tokens in one or several pieces, padding; and dropping some."""

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
        behind: [B, R] bool, those of them that stand behind all visual tokens.
        both: [B, R] bool, tokens that see each other both ways; all others see what stands before them.
        mask: [B, R] bool, False for padding.
        position_ids: [B, R], or [B, R, 3] where a position is a time, a row and a column (M-RoPE).
        visual: [B, M] columns of the visual tokens.
        pieces: [B, M] numbers of the pieces that they stand in, of tokens with no text between them.
        valid: [B, M] bool, which of the visual tokens are there.
        positions: [B, M] their original positions, -1 for new tokens.
        sizes: [B, M]
    """

    text: Tensor
    behind: Tensor
    both: Tensor
    mask: Tensor
    position_ids: Tensor
    visual: Tensor
    pieces: Tensor
    valid: Tensor
    positions: Tensor
    sizes: Tensor

    @staticmethod
    def of_prompt(mask: Tensor, position_ids: Tensor, image: Tensor, both: Tensor | None = None) -> "Columns":
        """Columns before anything was dropped.

        Args:
            mask: [B, L] bool.
            position_ids: [B, L] or [B, L, 3]
            image: [B, L] bool, the placeholders.
            both: [B, L] bool, tokens that see each other both ways; None: none do.
        """
        visual, valid = pack(image)
        column = torch.arange(mask.shape[1], device=mask.device)
        last = visual.masked_fill(~valid, -1).amax(1, keepdim=True)
        text = mask & ~image
        position = torch.arange(visual.shape[1], device=mask.device).expand(visual.shape)
        pieces = (visual.diff(dim=1, prepend=visual[:, :1]) > 1).cumsum(1)
        sizes = torch.ones(position.shape).to(position.device)
        behind = text & (column > last)
        both = torch.zeros_like(mask) if both is None else both & mask
        return Columns(text, behind, both, mask, position_ids, visual, pieces, valid, position, sizes)

    @property
    def count(self) -> Tensor:
        """[B] visual tokens."""
        return self.valid.sum(1)

    @property
    def following(self) -> Tensor:
        """[B] position of the token behind the prompt."""
        seen = self.mask if self.position_ids.ndim == 2 else self.mask[..., None]
        return self.position_ids.masked_fill(~seen, -1).flatten(1).amax(1) + 1

    def words(self) -> tuple[Tensor, Tensor]:
        """[B, P] columns of the text behind the image and [B, P] bool, which of them are no padding."""
        return pack(self.behind)

    def rebuilt(self, hidden: Tensor, kept: Kept, compact: bool) -> tuple[Tensor, "Columns"]:
        """Put other visual tokens in the place of those that are there; padding goes to the left.

        Tokens go on in the order of `kept` within their piece; new ones stand in the piece of the one before them.

        Args:
            hidden: [B, R, d] states in these columns.
            kept: The new visual tokens; `source` counts those that are there.
            compact: Whether positions are counted anew, from that of the first token on.

        Returns:
            The states and their columns.
        """
        # What stands before a new token decides where it goes; the first has the place of the first there was.
        source = torch.where(kept.source < 0, kept.source.cummax(1).values.clamp(min=0), kept.source)
        pieces = gather(self.pieces, source)
        order, mask = self._order(kept.valid, pieces)
        joined = torch.cat([hidden, kept.x.to(hidden.dtype)], 1)
        if compact:
            begin = gather(self.position_ids, self.mask.long().argmax(1)[:, None])
            position_ids = begin + (mask.cumsum(1) - 1).clamp(min=0)
        else:
            at = gather(self.position_ids, gather(self.visual, source))
            position_ids = gather(torch.cat([self.position_ids, at], 1), order)
        none, visual = torch.zeros_like(kept.valid), gather(self.both, gather(self.visual, source))
        marks = ((self.text, none), (self.behind, none), (self.both, visual))
        text, behind, both = (gather(torch.cat(each, 1), order) & mask for each in marks)
        columns = Columns(
            text,
            behind,
            both,
            mask,
            position_ids,
            self._columns_of(order, mask, kept.valid),
            pieces,
            kept.valid,
            kept.positions,
            kept.sizes,
        )
        return gather(joined, order), columns

    def _order(self, valid: Tensor, pieces: Tensor) -> tuple[Tensor, Tensor]:
        """[B, R'] where each new column comes from, in columns and visual tokens behind each other; [B, R'] mask."""
        columns, tokens = self.mask.shape[1], valid.shape[1]
        position = torch.arange(max(columns, tokens), device=valid.device)
        begins = self._begins(pieces)
        key = torch.cat(
            [
                (position[:columns] * (tokens + 1)).expand(len(valid), -1),
                begins * (tokens + 1) + position[:tokens],
            ],
            1,
        )
        index, mask = pack(torch.cat([self.text, valid], 1), key.argsort(dim=1, stable=True).argsort(1))
        width = mask.shape[1]
        moved = (torch.arange(width, device=valid.device) - (width - mask.sum(1, keepdim=True))) % max(width, 1)
        return gather(index, moved), gather(mask, moved)

    def _begins(self, pieces: Tensor) -> Tensor:
        """[B, M'] the column in which each of these pieces [B, M'] begins."""
        if not self.visual.shape[1]:
            return torch.zeros_like(pieces)
        columns = self.visual.masked_fill(~self.valid, self.mask.shape[1])
        first = columns.new_full((len(columns), int(self.pieces.max()) + 1), self.mask.shape[1])
        return gather(first.scatter_reduce(1, self.pieces, columns, "amin"), pieces)

    def _columns_of(self, order: Tensor, mask: Tensor, valid: Tensor) -> Tensor:
        """[B, M] in which column each visual token stands, of `order` [B, R']; 0 for padding."""
        before = self.mask.shape[1]
        column = torch.arange(order.shape[1], device=order.device).expand(order.shape)
        places = order.new_zeros(len(order), before + valid.shape[1])
        # Padding of a row repeats an index of its own: it writes into a place that nobody reads.
        places = torch.cat([places, places[:, :1]], 1)
        places.scatter_(1, order.masked_fill(~mask, places.shape[1] - 1), column)
        return places[:, before:-1].masked_fill(~valid, 0)
