"""Baselines that need no thought: everything, random, a grid, average pooling, the top of CLS attention."""

from math import isqrt

import torch
from torch.nn.functional import adaptive_avg_pool2d

from recipes.core.errors import UserError
from recipes.core.models.padded import pack, top
from recipes.core.models.precision import exact
from recipes.pruning.draws import random_scores
from recipes.pruning.pruners.schedules import check_layers
from recipes.pruning.tokens import (
    Depth,
    Point,
    Pruner,
    Selection,
    State,
    Tokens,
    cls_scores,
    everything,
    per_sample,
)


class Full(Pruner):
    """Keeps every token."""

    def points(self, depth: Depth) -> tuple[Point, ...]:
        return (Point("encoder"),)

    def select(self, tokens: Tokens, state: State) -> Selection:
        return everything(tokens)


class Random(Pruner):
    """Keeps random tokens, in their order; each sample has its own seed."""

    def points(self, depth: Depth) -> tuple[Point, ...]:
        if self.options.place == "vit":
            return tuple(Point("vit", layer) for layer in check_layers("random", (self.options.layer,), depth.vit))
        return (Point(self.options.place),)

    def select(self, tokens: Tokens, state: State) -> Selection:
        return Selection(*pack(top(random_scores(tokens), tokens.budget, tokens.valid)))


class Grid(Pruner):
    """Keeps the positions floor((i + 0.5) N / M)."""

    def points(self, depth: Depth) -> tuple[Point, ...]:
        return (Point(self.options.place),)

    def select(self, tokens: Tokens, state: State) -> Selection:
        count, budget = tokens.count[:, None], tokens.budget[:, None]
        step = torch.arange(tokens.x.shape[1], device=count.device)
        chosen = (2 * step + 1) * count // (2 * budget.clamp(min=1))
        chosen = chosen.masked_fill(step >= budget, -1)
        rank = tokens.valid.cumsum(1) - 1
        return Selection(*pack((rank[:, :, None] == chosen[:, None]).any(2) & tokens.valid))


class Pool(Pruner):
    """Averages a square of tokens into a smaller square; a pooled token stands at the middle of its cell.

    Raises:
        UserError: the number of tokens or the budget is no square.
    """

    def points(self, depth: Depth) -> tuple[Point, ...]:
        return (Point(self.options.place),)

    def select(self, tokens: Tokens, state: State) -> Selection:
        return per_sample(tokens, _pool, tokens.budget >= tokens.count)


class ClsTopk(Pruner):
    """Keeps the tokens with the largest attention of CLS, mean over heads, in their order."""

    def points(self, depth: Depth) -> tuple[Point, ...]:
        return (Point("encoder"),)

    def needs(self, point: Point) -> tuple[str, ...]:
        return ("cls_row",)

    def select(self, tokens: Tokens, state: State) -> Selection:
        return Selection(*pack(top(cls_scores(tokens), tokens.budget, tokens.valid)))


def _pool(tokens: Tokens) -> Selection:
    count, budget = tokens.x.shape[1], int(tokens.budget[0])
    side, target = isqrt(count), isqrt(budget)
    if side**2 != count or target**2 != budget or not budget:
        raise UserError(
            f"pool makes a square of a square, but was to make {budget} tokens of {count}",
            hint="choose a budget such as 1, 4, 9, 16 or 64",
        )
    grid = exact(tokens.x).transpose(1, 2).unflatten(2, (side, side))
    middle = (2 * torch.arange(target, device=tokens.x.device) + 1) * side // (2 * target)
    return Selection(
        indices=(middle[:, None] * side + middle).reshape(1, -1),
        valid=torch.ones(1, budget, dtype=torch.bool, device=tokens.x.device),
        x=adaptive_avg_pool2d(grid, target).flatten(2).transpose(1, 2).to(tokens.x.dtype),
        sizes=tokens.sizes.new_full((1, budget), count / budget),
    )
