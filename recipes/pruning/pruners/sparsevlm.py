"""SparseVLM: visual tokens that the question looks at, kept at three layers of the language model; some merge."""

from collections.abc import Sequence
from functools import lru_cache
from math import ceil

import torch
from torch import Tensor

from recipes.core.errors import UserError
from recipes.core.models.padded import pack, top
from recipes.core.models.precision import exact
from recipes.pruning.draws import generator
from recipes.pruning.pruners.schedules import check_layers, scale_layers
from recipes.pruning.tokens import Depth, Point, Pruner, Selection, State, Tokens, everything, not_none, per_sample

# The published tokens kept at its three layers, by budget, of 576.
KEPT = {192: (300, 200, 110), 128: (303, 110, 36), 96: (238, 48, 26), 64: (66, 30, 17)}
KEPT_OF = 576


class SparseVLM(Pruner):
    """Keeps what the text tokens that look at the image attend to; clusters some of the rest into new tokens.

    The budget is the mean number of visual tokens over all layers, clusters included.

    Source: arXiv 2410.04417, version 1.5 of its code: lists of tokens kept by budget, here scaled until their mean is
    the budget. As they stand, the list for 64 of 576 comes to 82 in 32 layers.
    """

    limit = ", mean over {layers} layers: those before its first count in full"

    def points(self, depth: Depth) -> tuple[Point, ...]:
        """Layer 0, where the raters are chosen, and the layers behind the pruning ones.

        Raises:
            UserError: the model has too few layers for the published lists.
        """
        behind = [layer + 1 for layer in self.options.layers] or scale_layers((3, 7, 16), 32, depth.llm)
        if not self.options.layers and len(behind) < 3:
            raise UserError(
                f"sparsevlm prunes at three layers, but the model has {depth.llm}", hint="give layers and keep"
            )
        return (Point("llm", 0), *(Point("llm", k) for k in check_layers("sparsevlm", behind, depth.llm)))

    def needs(self, point: Point) -> tuple[str, ...]:
        return ("text_rows", "text_valid") if point.layer else ("text_states", "text_valid")

    def smallest_budget(self, count: int, layers: int) -> int:
        """A token and its clusters behind each of the three layers."""
        if self.options.keep:
            return 0
        return ceil(mean_tokens(count, (1, 1, 1), self._behind(layers), layers, self.options.recycle))

    def select(self, tokens: Tokens, state: State) -> Selection:
        """Behind the first layer the raters are chosen; behind the others, the tokens that they rate highest."""
        if not tokens.point.layer:
            state["raters"] = raters(tokens.x, not_none(tokens.text_states), tokens.valid, not_none(tokens.text_valid))
            return everything(tokens)
        step = self.points(Depth(llm=tokens.layers)).index(tokens.point) - 1
        scores = rater_attention(not_none(tokens.text_rows), state["raters"])
        original = state["count/llm"]
        pairs = zip(original.tolist(), tokens.budget.tolist(), strict=True)
        lists = [self._keep(count, budget, tokens.layers) for count, budget in pairs]
        keep = torch.tensor([each[step] for each in lists], device=scores.device)
        keep = torch.minimum(keep, tokens.count)
        kept = top(scores, keep, tokens.valid)
        if not self.options.recycle:
            return Selection(*pack(kept))

        rows = iter(range(len(kept)))

        def one(alone: Tokens) -> Selection:
            row = next(rows)
            inside = tokens.valid[row]
            return recycle(alone, kept[row, inside], scores[row, inside], self.options.recycle)

        return per_sample(tokens, one)

    def _behind(self, layers: int) -> tuple[int, ...]:
        """The layers that see fewer tokens first, of a model with so many."""
        return tuple(point.layer for point in self.points(Depth(llm=layers))[1:])

    def _keep(self, count: int, budget: int, layers: int) -> tuple[int, ...]:
        keep: tuple[int, ...] = self.options.keep
        return keep or fit_keep(count, budget, self._behind(layers), layers, self.options.recycle)


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


def rater_attention(rows: Tensor, chosen: Tensor) -> Tensor:
    """[B, N] attention of the raters to each image token, mean over heads and raters, of rows [B, H, P, N]."""
    weight = chosen[:, None, :, None]
    return torch.where(weight, exact(rows), 0).sum((1, 2)) / (rows.shape[1] * chosen.sum(1, keepdim=True))


@lru_cache
def fit_keep(count: int, budget: int, behind: tuple[int, ...], layers: int, share: float) -> tuple[int, ...]:
    """Tokens to keep at each pruning layer so that the mean over all layers is the budget, never more.

    Args:
        count: Tokens there are.
        budget: Mean wanted, within reach.
        behind: The first layer that sees what each pruning layer left.
        layers: Of the language model.
        share: Of the dropped tokens that is clustered.

    Source:
        The published list of the nearest budget gives the shape; its scale is ours.
    """
    shape = KEPT[min(KEPT, key=lambda each: abs(each / KEPT_OF - budget / count))]

    def counts_at(scale: float) -> list[int]:
        return [min(count, max(1, round(scale * each))) for each in shape]

    def fits(keep: Sequence[int]) -> bool:
        return mean_tokens(count, keep, behind, layers, share) <= budget

    low, high = 0.0, count / min(shape)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(counts_at(middle)) else (low, middle)
    keep = counts_at(low)
    for index in range(len(keep)):  # what rounding left
        limit = keep[index - 1] if index else count
        while keep[index] < limit and fits([*keep[:index], keep[index] + 1, *keep[index + 1 :]]):
            keep[index] += 1
    return tuple(keep)


def mean_tokens(count: int, keep: Sequence[int], behind: Sequence[int], layers: int, share: float) -> float:
    """Mean over the layers of the visual tokens that enter each, clusters included; arguments as of `fit_keep`."""
    total, start = 0, 0
    for wanted, layer in zip(keep, behind, strict=True):
        total += count * (layer - start)
        kept, start = min(wanted, count), layer
        count = kept + clusters(count - kept, share)
    return (total + count * (layers - start)) / layers


def clusters(dropped: int, share: float) -> int:
    """New tokens that stand for the best of the dropped ones."""
    return recyclable(dropped, share) // 10 + 1 if dropped and share else 0


def recyclable(dropped: int, share: float) -> int:
    """Of the dropped tokens, how many are clustered."""
    return min(int(share * dropped) + 1, dropped)


def recycle(tokens: Tokens, kept: Tensor, scores: Tensor, share: float) -> Selection:
    """Keep some tokens of one sample and cluster the best of the others into new ones.

    Args:
        tokens: One sample without padding.
        kept: [N] bool.
        scores: [N] by which the others are ranked.
        share: Of the others that is clustered, plus one; into a tenth as many clusters, plus one.
    """
    chosen = Selection(*pack(kept[None]))
    taken = recyclable(int((~kept).sum()), share)
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
