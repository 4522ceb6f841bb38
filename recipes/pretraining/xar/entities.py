"""How a grid of tokens falls into entities, in which order they come, and what may see what."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from recipes.pretraining.xar.config import CELL, SCALE, SUBSAMPLE, EntityConfig


@dataclass(frozen=True)
class Layout:
    """Tokens of an image in the order in which they are drawn.

    Attributes:
        grid: Tokens of a side.
        sizes: Tokens of each of the K entities.
        order: int64 [L] raster number of each token; None where entities are resolutions.
        places: float [L, 2] true (y, x) of each token, in tokens of the grid.
    """

    grid: int
    sizes: list[int]
    order: Tensor | None
    places: Tensor

    @property
    def entity(self) -> Tensor:
        """int64 [L] entity of each token."""
        return torch.repeat_interleave(torch.arange(len(self.sizes)), torch.tensor(self.sizes))

    @property
    def starts(self) -> list[int]:
        """First token of each entity, and one past the last of all."""
        return [0, *torch.tensor(self.sizes).cumsum(0).tolist()]

    def sequence(self, tokens: Tensor) -> Tensor:
        """Tokens [B, grid x grid, C] of the raster as entities one behind the other [B, L, C].

        A resolution is the mean over squares of tokens.
        """
        if self.order is not None:
            return tokens[:, self.order.to(tokens.device)]
        image = tokens.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        pooled = [adaptive_avg_pool2d(image, round(size**0.5)).flatten(2) for size in self.sizes]
        return torch.cat(pooled, 2).transpose(1, 2)

    def raster(self, sequence: Tensor) -> Tensor:
        """The inverse: [B, L, C] to [B, grid x grid, C]; of resolutions the last."""
        if self.order is None:
            return sequence[:, -self.sizes[-1] :]
        return sequence[:, self.order.argsort().to(sequence.device)]

    def block_mask(self) -> Tensor:
        """bool [L, L]: a token sees all tokens of its own entity and of those before; row sums (n + 1) m."""
        return self.entity[:, None] >= self.entity

    def doubled_mask(self) -> Tensor:
        """bool [2L, 2L] for [context; noisy]: a noisy token sees its own entity, and the context of those before it;
        context sees the context up to its own entity.
        """
        same = self.entity[:, None] == self.entity
        seen = self.block_mask()
        return torch.cat([torch.cat([seen, torch.zeros_like(seen)], 1), torch.cat([seen & ~same, same], 1)])


def layout(config: EntityConfig, grid: int) -> Layout:
    """Entities of a grid of so many tokens a side; cells and subsamples in raster order, and raster inside."""
    sizes, numbers = config.tokens(grid), torch.arange(grid**2).view(grid, grid)
    if config.kind == SCALE:
        places = torch.cat([_centres(side) * (grid / side) for side in config.scales(grid)]) - 0.5
        return Layout(grid, sizes, None, places)
    step = config.size if config.has_size else grid
    if config.kind == CELL:  # [grid/k, k, grid/k, k] -> cells, then tokens inside
        numbers = numbers.view(grid // step, step, grid // step, step).transpose(1, 2)
    elif config.kind == SUBSAMPLE:
        numbers = numbers.view(grid // step, step, grid // step, step).permute(1, 3, 0, 2)
    order = numbers.flatten()
    return Layout(grid, sizes, order, (_centres(grid) - 0.5)[order])


def _centres(side: int) -> Tensor:
    """[side x side, 2] centres (y, x) of squares of width 1."""
    middle = torch.arange(side) + 0.5
    return torch.cartesian_prod(middle, middle) if side > 1 else torch.full((1, 2), 0.5)


@dataclass(frozen=True)
class Frame:
    """What a forward is told of its tokens.

    Attributes:
        tokens: int64 [T] place of each in the layout.
        slots: int64 [T] which of the given times each has.
        mask: bool [T, P + T] what each sees of P cached tokens and of these; None: everything.
    """

    tokens: Tensor
    slots: Tensor
    mask: Tensor | None

    def to(self, device: torch.device) -> "Frame":
        """The same on a device."""
        mask = None if self.mask is None else self.mask.to(device)
        return Frame(self.tokens.to(device), self.slots.to(device), mask)


def training_frame(layout: Layout, doubled: bool) -> Frame:
    """All tokens of an image, or behind a context of as many; times are K, or those of the context before them."""
    entity, numbers = layout.entity, torch.arange(sum(layout.sizes))
    if not doubled:
        return Frame(numbers, entity, layout.block_mask())
    slots = torch.cat([entity, entity + len(layout.sizes)])
    return Frame(numbers.repeat(2), slots, layout.doubled_mask())


def sampling_frame(layout: Layout, entity: int, first: int) -> Frame:
    """Entities `first` to `entity`, those before `first` being in the cache; each has a time."""
    start, end = layout.starts[first], layout.starts[entity + 1]
    mask = None if first == entity else layout.block_mask()[start:end, :end]
    return Frame(torch.arange(start, end), layout.entity[start:end] - first, mask)
