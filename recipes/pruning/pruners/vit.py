"""Pruners inside an encoder block, between attention and MLP: ToMe, ATS and EViT."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from recipes.core.errors import UserError
from recipes.core.models.padded import gather, normalise, pack, ranks, top
from recipes.core.models.precision import exact
from recipes.pruning.pruners.schedules import check_layers, geometric, scale_layers
from recipes.pruning.tokens import Depth, Point, Pruner, Selection, State, Tokens, cls_scores, not_none


class ToMe(Pruner):
    """Merges the most similar tokens of every block; tokens go on as the unmerged of group A, then group B.

    Source: arXiv 2210.09461.
    """

    limit = ": each of {layers} blocks merges at most half of them"

    @property
    def proportional(self) -> bool:  # type: ignore[override]
        """Whether attention counts merged tokens by their size."""
        return bool(self.options.proportional)

    def points(self, depth: Depth) -> tuple[Point, ...]:
        """Every block.

        Raises:
            UserError: the explicit schedule has another length.
        """
        if self.options.schedule and len(self.options.schedule) != depth.vit:
            raise UserError(
                f"tome has a schedule of {len(self.options.schedule)} blocks, but the model has {depth.vit}"
            )
        return tuple(Point("vit_attention", layer) for layer in range(depth.vit))

    def needs(self, point: Point) -> tuple[str, ...]:
        return ("keys",)

    def smallest_budget(self, count: int, layers: int) -> int:
        """All but the larger half merge in each block; `r` and `schedule` make numbers of their own."""
        has_schedule = self.options.schedule or self.options.r is not None
        return 0 if has_schedule else -(-count // 2**layers)

    def select(self, tokens: Tokens, state: State) -> Selection:
        keys = exact(not_none(tokens.keys)).mean(1)
        special = keys.shape[1] - tokens.x.shape[1]
        excess = (tokens.count - tokens.budget).clamp(min=0)
        return merge(tokens, keys[:, special:], special, torch.minimum(self._amount(tokens, excess), excess))

    def _amount(self, tokens: Tokens, excess: Tensor) -> Tensor:
        layer, o = tokens.point.layer, self.options
        if o.schedule:
            return torch.full_like(excess, o.schedule[layer])
        if o.r is not None:
            return torch.full_like(excess, tome_schedule(o.r, o.inflect, tokens.layers)[layer])
        left = tokens.layers - layer
        # A block can at most halve the tokens: more now where the blocks left could not reach the budget.
        needed = tokens.count - tokens.budget.clamp(min=1) * 2 ** min(left - 1, 40)
        return torch.maximum((excess + left - 1) // left, needed)


class ATS(Pruner):
    """Samples tokens at even steps of the distribution of their scores, so that few remain where few matter.

    Source: arXiv 2111.15667; the budget is the number of sampled steps, K - 1.
    """

    def points(self, depth: Depth) -> tuple[Point, ...]:
        layers = self.options.layers or range(round(depth.vit / 4), depth.vit)
        return tuple(Point("vit_attention", layer) for layer in check_layers("ats", tuple(layers), depth.vit))

    def needs(self, point: Point) -> tuple[str, ...]:
        return ("cls_row", "values")

    def select(self, tokens: Tokens, state: State) -> Selection:
        patches = tokens.x.shape[1]
        norms = exact(not_none(tokens.values))[:, :, -patches:].transpose(1, 2).flatten(2).norm(dim=2)
        scores = normalise(cls_scores(tokens) * norms, tokens.valid)
        steps = torch.minimum(tokens.budget, tokens.count)
        chosen = inverse_samples(scores, steps, tokens.valid)
        fewest = torch.minimum(steps, torch.full_like(steps, self.options.minimum))
        # Sampled tokens rank before all others, those by score: the fewest are filled up with the best.
        filled = top(scores + 2.0 * chosen, torch.maximum(chosen.sum(1), fewest), tokens.valid)
        return Selection(*pack(filled))


class EViT(Pruner):
    """Keeps what CLS attends to, in descending order, and fuses the rest into one token.

    Source: arXiv 2202.07800; weights of the fused token are not renormalised.
    """

    def points(self, depth: Depth) -> tuple[Point, ...]:
        layers = self.options.layers or scale_layers((3, 6, 9), 12, depth.vit)
        return tuple(Point("vit_attention", layer) for layer in check_layers("evit", layers, depth.vit))

    def needs(self, point: Point) -> tuple[str, ...]:
        return ("cls_row",)

    def select(self, tokens: Tokens, state: State) -> Selection:
        """The tokens that CLS attends to most; the rest of a sample is fused into one where asked for."""
        o, count, scores = self.options, tokens.count, cls_scores(tokens)
        points = self.points(Depth(vit=tokens.layers))
        if o.rate is not None:
            keep = (count.double() * o.rate - 1e-9).ceil().long()
        else:
            keep = geometric(count, tokens.budget, len(points) - points.index(tokens.point))
            # The fused token is one of the budget.
            keep = torch.where((keep < count) & (keep > 1), keep - 1, keep) if o.fuse else keep
        kept = top(scores, keep, tokens.valid)
        chosen = Selection(*pack(kept, ranks(scores, kept)))
        if not o.fuse:
            return chosen
        rest = tokens.valid & ~kept
        room = rest.any(1) & ((tokens.budget > kept.sum(1)) | (o.rate is not None))
        weights = torch.where(rest, scores, 0)
        fused = torch.einsum("bn,bnd->bd", weights.to(exact(tokens.x).dtype), _clean(tokens))
        return Selection(
            chosen.indices, chosen.valid, extra=fused[:, None].to(tokens.x.dtype), extra_valid=room[:, None]
        )


def tome_schedule(r: int, inflect: float, layers: int) -> list[int]:
    """Tokens to merge in each block.

    Args:
        r: Mean over the blocks.
        inflect: 0 constant, -1 falling to 0, +1 rising from 0.
        layers: Number of blocks.

    Source:
        lo = int(r (1 - inflect)), hi = 2 r - lo; block i takes int(lo + i (hi - lo) / (layers - 1)).
    """
    low = int(r * (1 - inflect))
    step = 2 * (r - low) / max(layers - 1, 1)  # hi - lo
    return [int(low + index * step) for index in range(layers)]


def merge(tokens: Tokens, keys: Tensor, special: int, amount: Tensor) -> Selection:
    """Bipartite soft matching of one block.

    Args:
        tokens: The tokens; A are those at even places of the sequence, special tokens counted.
        keys: [B, N, c] what is compared by cosine.
        special: Special tokens before them, which neither merge nor are merged into.
        amount: [B] tokens to merge away; at most half of what may be.

    Returns:
        Kept tokens in the order of the method: unmerged A ascending, then B; size-weighted means where merged.
    """
    position = tokens.valid.cumsum(1) - 1 + special
    first = tokens.valid & (position % 2 == 0)
    second = tokens.valid & ~first
    unit = normalize(keys, dim=2, eps=1e-12)
    similarity = (unit @ unit.mT).masked_fill(~(first[:, :, None] & second[:, None]), -torch.inf)
    best, partner = similarity.max(2)
    amount = torch.minimum(amount, torch.where(second.any(1), tokens.count // 2, 0))
    gone = top(best, amount, first)
    x, sizes = _clean(tokens), tokens.sizes.to(exact(tokens.x).dtype)
    weight = torch.where(gone, sizes, 0)
    received = torch.zeros_like(sizes).scatter_add_(1, partner, weight)
    index = partner[:, :, None].expand_as(x)
    total = (x * sizes[:, :, None]).scatter_add(1, index, x * weight[:, :, None])
    merged = total / (sizes + received)[:, :, None].clamp(min=torch.finfo(x.dtype).tiny)
    # Tokens that receive nothing keep their bits.
    x = torch.where((received > 0)[:, :, None], merged.to(tokens.x.dtype), tokens.x)
    kept, column = tokens.valid & ~gone, torch.arange(keys.shape[1], device=keys.device)
    order = torch.where(second, column + len(column), column).argsort(1).argsort(1)
    indices, valid = pack(kept, order)
    return Selection(indices, valid, x=gather(x, indices), sizes=gather((sizes + received).to(tokens.sizes), indices))


def inverse_samples(scores: Tensor, steps: Tensor, valid: Tensor) -> Tensor:
    """[B, N] bool, the tokens whose place in the score distribution is nearest to one of evenly spaced values.

    Args:
        scores: [B, N] summing to 1 over `valid`.
        steps: [B] number of values between the smallest that is not 0 and 1; a single one is 1 (ours).
        valid: [B, N] bool.

    Source:
        Scores sorted ascending, summed up, moved to [0, 1]; ties take the first entry.
    """
    order = scores.masked_fill(~valid, torch.inf).argsort(dim=1, stable=True)
    real = gather(valid, order)
    height = torch.where(real, gather(scores, order), 0).cumsum(1)
    low, high = height[:, :1], height.amax(1, keepdim=True)
    height = ((height - low) / (high - low).clamp(min=torch.finfo(height.dtype).tiny)).masked_fill(~real, torch.inf)
    start = height.masked_fill(height <= 0, torch.inf).amin(1, keepdim=True).clamp(max=1)
    step = torch.arange(int(steps.max()), device=scores.device)
    last = (steps[:, None] - 1).clamp(min=1)
    values = torch.where(steps[:, None] > 1, start + step * (1 - start) / last, 1.0)
    nearest = (height[:, None] - values[:, :, None]).abs().argmin(2)
    chosen = torch.zeros_like(valid)
    row, column = (step < steps[:, None]).nonzero(as_tuple=True)
    chosen[row, order[row, nearest[row, column]]] = True
    return chosen & valid


def _clean(tokens: Tokens) -> Tensor:
    """The tokens in fp32 with padding set to 0, so that what stands there (NaN even) reaches no sum."""
    return torch.where(tokens.valid[:, :, None], exact(tokens.x), 0)
