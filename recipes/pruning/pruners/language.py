"""Pruners inside the language model: FastV, SparseVLM, PyramidDrop and VTW."""

import torch
from torch import Tensor

from recipes.core.errors import UserError
from recipes.core.kernels import exact
from recipes.pruning.pruners.schedules import checked_layers, geometric, scaled_layers
from recipes.pruning.selecting import given, pack, top
from recipes.pruning.tokens import (
    Depth,
    Point,
    Pruner,
    Selection,
    State,
    Tokens,
    everything,
    generator,
    per_sample,
    random_scores,
)

# SparseVLM's published tokens kept at its three layers, by budget, of 576.
KEPT = {192: (300, 200, 110), 128: (303, 110, 36), 96: (238, 48, 26), 64: (66, 30, 17)}
KEPT_OF = 576


class FastV(Pruner):
    """Keeps what the last prompt token attended to in the layer before; rotary positions stay.

    Source: arXiv 2403.06764, as its code does it (the last token's row, not the mean over all).
    """

    positions = "original"

    def points(self, depth: Depth) -> tuple[Point, ...]:
        return tuple(Point("llm", k) for k in checked_layers("fastv", (self.options.layer,), depth.llm))

    def needs(self, point: Point) -> tuple[str, ...]:
        return ("last_row",) if point.layer else ()

    def select(self, tokens: Tokens, state: State) -> Selection:
        scores = exact(given(tokens.last_row)).mean(1) if tokens.point.layer else random_scores(tokens)
        return Selection(*pack(top(scores, tokens.budget, tokens.valid)))


class SparseVLM(Pruner):
    """Keeps what the text tokens that look at the image attend to; clusters some of the rest into new tokens.

    Source: arXiv 2410.04417, version 1.5 of its code: fixed numbers of tokens by budget.
    """

    def points(self, depth: Depth) -> tuple[Point, ...]:
        """Layer 0, where the raters are chosen, and the layers behind the pruning ones.

        Raises:
            UserError: the model has too few layers for the published lists.
        """
        behind = [layer + 1 for layer in self.options.layers] or scaled_layers((3, 7, 16), 32, depth.llm)
        if not self.options.layers and len(behind) < 3:
            raise UserError(
                f"sparsevlm prunes at three layers, but the model has {depth.llm}", hint="give layers and keep"
            )
        return (Point("llm", 0), *(Point("llm", k) for k in checked_layers("sparsevlm", behind, depth.llm)))

    def needs(self, point: Point) -> tuple[str, ...]:
        return ("text_rows", "text_valid") if point.layer else ("text_states", "text_valid")

    def select(self, tokens: Tokens, state: State) -> Selection:
        if not tokens.point.layer:
            state["raters"] = raters(tokens.x, given(tokens.text_states), tokens.valid, given(tokens.text_valid))
            return everything(tokens)
        step = self.points(Depth(llm=tokens.layers)).index(tokens.point) - 1
        scores = rated(given(tokens.text_rows), state["raters"])
        original = state["count/llm"]
        keep = torch.tensor(
            [self._keep(int(n), int(m), step) for n, m in zip(original, tokens.budget, strict=True)],
            device=scores.device,
        )
        keep = torch.minimum(keep, tokens.count)
        kept = top(scores, keep, tokens.valid)
        if not self.options.recycle:
            return Selection(*pack(kept))

        rows = iter(range(len(kept)))

        def one(alone: Tokens) -> Selection:
            row = next(rows)
            inside = tokens.valid[row]
            return recycled(alone, kept[row, inside], scores[row, inside], self.options.recycle)

        return per_sample(tokens, one)

    def _keep(self, original: int, budget: int, step: int) -> int:
        if self.options.keep:
            kept: int = self.options.keep[step]
            return kept
        return published_keep(original, budget)[step]


class PyramidDrop(Pruner):
    """Keeps ever smaller shares of the original tokens, by the last token's attention in the layer about to run.

    Source: arXiv 2410.17247.
    """

    def points(self, depth: Depth) -> tuple[Point, ...]:
        """Layers entered.

        Raises:
            UserError: fewer layers in the model than rates.
        """
        layers = checked_layers(
            "pyramiddrop", self.options.layers or scaled_layers((8, 16, 24), 32, depth.llm), depth.llm
        )
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
        return Selection(*pack(top(exact(given(tokens.next_row)).mean(1), keep, tokens.valid)))


class VTW(Pruner):
    """Drops all image tokens entering one layer; of the budget it only sees whether to act at all."""

    def points(self, depth: Depth) -> tuple[Point, ...]:
        layer = self.options.layer or max(1, depth.llm // 2)
        return tuple(Point("llm", each) for each in checked_layers("vtw", (layer,), depth.llm))

    def select(self, tokens: Tokens, state: State) -> Selection:
        return Selection(*pack(torch.zeros_like(tokens.valid)))


def raters(visual: Tensor, text: Tensor, valid: Tensor, text_valid: Tensor) -> Tensor:
    """[B, P] bool, the text tokens that look at the image more than the mean one does; all if none does.

    Args:
        visual: [B, N, d] image tokens entering layer 0.
        text: [B, P, d] text tokens there.
        valid: [B, N] bool.
        text_valid: [B, P] bool.

    Source:
        m = mean over image tokens of the softmax over text of H_v H_q^T; raters are {t: m_t > mean(m)}.
    """
    logits = exact(visual) @ exact(text).mT
    shares = logits.masked_fill(~text_valid[:, None], -torch.inf).softmax(2)
    seen = torch.where(valid[:, :, None], shares, 0).sum(1) / valid.sum(1, keepdim=True)
    mean = seen.sum(1, keepdim=True) / text_valid.sum(1, keepdim=True)
    chosen = (seen > mean) & text_valid
    return torch.where(chosen.any(1, keepdim=True), chosen, text_valid)


def rated(rows: Tensor, chosen: Tensor) -> Tensor:
    """[B, N] attention of the raters to each image token, mean over heads and raters, of rows [B, H, P, N]."""
    weight = chosen[:, None, :, None]
    return torch.where(weight, exact(rows), 0).sum((1, 2)) / (rows.shape[1] * chosen.sum(1, keepdim=True))


def published_keep(tokens: int, budget: int) -> tuple[int, ...]:
    """The published list of the nearest budget, stretched to this number of tokens and this budget (ours)."""
    share = budget / max(tokens, 1)
    nearest = min(KEPT, key=lambda each: abs(each / KEPT_OF - share))
    factor = budget / nearest
    return tuple(min(tokens, max(1, round(each * factor))) for each in KEPT[nearest])


def recycled(tokens: Tokens, kept: Tensor, scores: Tensor, share: float) -> Selection:
    """Keep some tokens of one sample and cluster the best of the others into new ones.

    Args:
        tokens: One sample without padding.
        kept: [N] bool.
        scores: [N] by which the others are ranked.
        share: Of the others that is clustered, plus one; into a tenth as many clusters, plus one.
    """
    chosen = Selection(*pack(kept[None]))
    dropped = int((~kept).sum())
    taken = min(int(share * dropped) + 1, dropped)
    if not taken:
        return chosen
    index = top(scores[None], torch.tensor([taken], device=scores.device), ~kept[None])[0].nonzero().squeeze(1)
    x = exact(tokens.x[0, index])
    noise = torch.rand(taken, generator=generator(tokens, 0)).to(x)
    group = dpc_knn(x, taken // 10 + 1, noise)
    total = torch.zeros(int(group.max()) + 1, x.shape[1], dtype=x.dtype, device=x.device).index_add_(0, group, x)
    merged = total / torch.bincount(group, minlength=len(total))[:, None]
    return Selection(
        chosen.indices,
        chosen.valid,
        extra=merged[None].to(tokens.x.dtype),
        extra_valid=torch.ones(1, len(merged), dtype=torch.bool, device=x.device),
    )


def dpc_knn(x: Tensor, clusters: int, noise: Tensor) -> Tensor:
    """[n] cluster of each token, by density peaks.

    Args:
        x: [n, d]
        clusters: Number of clusters, and of neighbours (the token itself among them) for the density.
        noise: [n] uniform numbers that break ties between densities.

    Source:
        Distance = L2 / sqrt(d); density = exp(-mean squared distance of the nearest) + 1e-6 noise; centres are the
        largest products of density and distance to the nearest denser token (of the densest: to the farthest).
    """
    clusters = min(clusters, len(x))
    distance = torch.cdist(x, x) / x.shape[1] ** 0.5
    density = (-(distance.topk(clusters, largest=False).values ** 2).mean(1)).exp() + 1e-6 * noise
    denser = density[None] > density[:, None]
    nearest = distance.masked_fill(~denser, torch.inf).amin(1)
    nearest = torch.where(denser.any(1), nearest, distance.amax())
    centres = (density * nearest).argsort(descending=True, stable=True)[:clusters]
    group = distance[:, centres].argmin(1)
    group[centres] = torch.arange(clusters, device=x.device)
    return group
