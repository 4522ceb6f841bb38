"""Pruners inside the language model: FastV, PyramidDrop and VTW."""

import torch

from recipes.core.errors import UserError
from recipes.core.models.padded import pack, top
from recipes.core.models.precision import exact
from recipes.pruning.draws import random_scores
from recipes.pruning.pruners.schedules import check_layers, geometric, scale_layers
from recipes.pruning.tokens import (
    Depth,
    Point,
    Pruner,
    Selection,
    State,
    Tokens,
    not_none,
)


class FastV(Pruner):
    """Keeps what the last prompt token attended to in the layer before; rotary positions stay.

    Source: arXiv 2403.06764, as its code does it (the last token's row, not the mean over all).
    """

    positions = "original"

    def points(self, depth: Depth) -> tuple[Point, ...]:
        return tuple(Point("llm", k) for k in check_layers("fastv", (self.options.layer,), depth.llm))

    def needs(self, point: Point) -> tuple[str, ...]:
        return ("last_row",) if point.layer else ()

    def select(self, tokens: Tokens, state: State) -> Selection:
        scores = exact(not_none(tokens.last_row)).mean(1) if tokens.point.layer else random_scores(tokens)
        return Selection(*pack(top(scores, tokens.budget, tokens.valid)))


class PyramidDrop(Pruner):
    """Keeps ever smaller shares of the original tokens, by the last token's attention in the layer about to run.

    Source: arXiv 2410.17247.
    """

    def points(self, depth: Depth) -> tuple[Point, ...]:
        """Layers entered.

        Raises:
            UserError: fewer layers in the model than rates.
        """
        layers = check_layers("pyramiddrop", self.options.layers or scale_layers((8, 16, 24), 32, depth.llm), depth.llm)
        if self.options.rates and len(self.options.rates) != len(layers):
            raise UserError(
                f"pyramiddrop has {len(self.options.rates)} rates for {len(layers)} layers of a model with {depth.llm}",
                hint="give as many layers as rates",
            )
        return tuple(Point("llm", layer) for layer in layers)

    def needs(self, point: Point) -> tuple[str, ...]:
        return ("next_row",)

    def select(self, tokens: Tokens, state: State) -> Selection:
        points = self.points(Depth(llm=tokens.layers))
        step = points.index(tokens.point)
        if self.options.rates:
            keep = (state["count/llm"].double() * self.options.rates[step] + 1e-9).long()
        else:
            keep = geometric(tokens.count, tokens.budget, len(points) - step)
        return Selection(*pack(top(exact(not_none(tokens.next_row)).mean(1), keep, tokens.valid)))


class VTW(Pruner):
    """Drops all image tokens entering one layer; of the budget it only sees whether to act at all.

    Source: arXiv 2405.05803; as its code does it, text keeps its rotary positions behind the gap.
    """

    positions = "original"

    def points(self, depth: Depth) -> tuple[Point, ...]:
        layers = (self.options.layer,) if self.options.layer else scale_layers((15,), 32, depth.llm) or (1,)
        return tuple(Point("llm", each) for each in check_layers("vtw", layers, depth.llm))

    def select(self, tokens: Tokens, state: State) -> Selection:
        return Selection(*pack(torch.zeros_like(tokens.valid)))
