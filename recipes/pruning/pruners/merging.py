"""Pruners at the encoder's output that merge what they drop: VisionZip, PruMerge and TRIM."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from recipes.core.models.padded import pack, top
from recipes.core.models.precision import exact
from recipes.pruning.tokens import Depth, Point, Pruner, Selection, State, Tokens, cls_scores, not_none, per_sample


class VisionZip(Pruner):
    """Keeps what CLS attends to (dominant) and merges the rest into contextual tokens at the end.

    Source: arXiv 2412.04467; a contextual token is its target plus the mean of those assigned to it.
    """

    def points(self, depth: Depth) -> tuple[Point, ...]:
        return (Point("encoder"),)

    def needs(self, point: Point) -> tuple[str, ...]:
        return ("cls_row", "keys", *(("cls",) if self.options.keep_cls else ()))

    def select(self, tokens: Tokens, state: State) -> Selection:
        return per_sample(tokens, self._one, tokens.budget >= tokens.count)

    def _one(self, tokens: Tokens) -> Selection:
        o, budget = self.options, int(tokens.budget[0])
        contextual = round(o.contextual_share * budget) if o.contextual is None else o.contextual
        contextual = min(contextual, budget)
        front = int(o.keep_cls and contextual < budget)
        kept = top(cls_scores(tokens), tokens.budget - contextual - front, tokens.valid)
        rest = (~kept[0]).nonzero().squeeze(1)
        keys = exact(not_none(tokens.keys)).mean(1)[0, -tokens.x.shape[1] :]
        extra = contextual_tokens(exact(tokens.x[0, rest]), keys[rest], contextual)
        chosen = Selection(*pack(kept))
        return Selection(
            chosen.indices,
            chosen.valid,
            extra=extra[None].to(tokens.x.dtype),
            extra_valid=_ones(tokens, len(extra)),
            front=not_none(tokens.cls)[:, None] if front else None,
            front_valid=_ones(tokens, 1) if front else None,
        )


class PruMerge(Pruner):
    """Keeps outliers of CLS attention in descending order, adds their neighbours to them, and appends the rest.

    `count=adaptive` keeps as many tokens as the IQR rule flags (at least one), whatever the budget.

    Source: arXiv 2403.15388.
    """

    def points(self, depth: Depth) -> tuple[Point, ...]:
        return (Point("encoder"),)

    def needs(self, point: Point) -> tuple[str, ...]:
        return ("final_query", "final_keys")

    def select(self, tokens: Tokens, state: State) -> Selection:
        return per_sample(tokens, self._one, tokens.budget >= tokens.count)

    def _one(self, tokens: Tokens) -> Selection:
        scores, budget = final_scores(tokens)[0], int(tokens.budget[0])
        append = True
        if self.options.count == "adaptive":
            count = max(1, int(iqr_outliers(scores).sum()))
        else:
            append = budget > 1
            count = budget - append
        ranked = scores.argsort(descending=True, stable=True)
        kept = self._best(ranked, count)
        keys = exact(not_none(tokens.final_keys))[0, -len(scores) :]
        x, members = exact(tokens.x[0]), self.options.neighbors
        merged = absorb(x, scores, kept, nearest_tokens(keys, kept, members))
        rest = torch.ones_like(scores, dtype=torch.bool).index_fill(0, kept, False)
        extra = torch.where(rest, scores, 0)[None].to(x.dtype) @ x if append and rest.any() else x[:0]
        return Selection(
            kept[None],
            _ones(tokens, len(kept)),
            x=merged[None].to(tokens.x.dtype),
            extra=extra[None].to(tokens.x.dtype),
            extra_valid=_ones(tokens, len(extra)),
        )

    def _best(self, ranked: Tensor, count: int) -> Tensor:
        """Ids of the tokens that are kept, from all of them, the best first."""
        return ranked[:count]


class PruMergePlus(PruMerge):
    """PruMerge with evenly strided tokens added behind: about three more for each outlier.

    With `count=budget` (ours) a quarter of the budget are the highest scores and the rest is strided.
    """

    def _best(self, ranked: Tensor, count: int) -> Tensor:
        total = len(ranked)
        if self.options.count == "adaptive":
            step = max(1, int(int(total / count) / 3))
            best, strided = ranked[:count], torch.arange(0, total - 1, step, device=ranked.device)
        else:
            best = ranked[: max(1, count // 4)] if count else ranked[:0]
            others = torch.ones_like(ranked, dtype=torch.bool).index_fill(0, best, False).nonzero().squeeze(1)
            want = count - len(best)
            strided = others[(2 * torch.arange(want, device=ranked.device) + 1) * len(others) // (2 * max(want, 1))]
        return torch.cat([best, strided[~torch.isin(strided, best)]])


class Trim(Pruner):
    """Keeps the tokens that the text embedding picks out, in their order, and appends the mean of the rest.

    Source: arXiv 2409.10994; its code takes the features that go to the projector through CLIP's closing norm and
    projection, and keeps the lowest products, because CLIP's patch-text maps are inverted.
    """

    def points(self, depth: Depth) -> tuple[Point, ...]:
        return (Point("encoder"),)

    def needs(self, point: Point) -> tuple[str, ...]:
        return ("text", self._patches)

    @property
    def _patches(self) -> str:
        return "feature_text" if self.options.states == "features" else "patch_text"

    def select(self, tokens: Tokens, state: State) -> Selection:
        return per_sample(tokens, self._one, tokens.budget >= tokens.count)

    def _one(self, tokens: Tokens) -> Selection:
        o, budget = self.options, int(tokens.budget[0])
        patches, text = exact(not_none(getattr(tokens, self._patches)))[0], exact(not_none(tokens.text))[0]
        if o.normalize:
            patches, text = normalize(patches, dim=1, eps=1e-12), normalize(text, dim=0, eps=1e-12)
        scores = (o.sign * (patches @ text)).softmax(0)
        append = o.append_mean
        if o.count == "adaptive":
            count = max(1, int(iqr_outliers(scores).sum()))
        else:
            append = append and budget > 1
            count = budget - append
        kept = top(scores[None], torch.tensor([count], device=scores.device), tokens.valid)
        rest = ~kept[0]
        extra = exact(tokens.x[0, rest]).mean(0, keepdim=True) if append and rest.any() else exact(tokens.x[0, :0])
        chosen = Selection(*pack(kept))
        return Selection(
            chosen.indices, chosen.valid, extra=extra[None].to(tokens.x.dtype), extra_valid=_ones(tokens, len(extra))
        )


def final_scores(tokens: Tokens) -> Tensor:
    """[B, N] attention of CLS to the patches in the encoder's last block, taken as a single head.

    Source: softmax over all tokens of q k^T C^-0.5 with C the full width; the row of CLS, its own entry dropped.
    """
    query, keys = exact(not_none(tokens.final_query)), exact(not_none(tokens.final_keys))
    logits = torch.einsum("bc,btc->bt", query, keys) / query.shape[1] ** 0.5
    patches = tokens.valid.shape[1]
    everyone = torch.cat([tokens.valid.new_ones(len(logits), logits.shape[1] - patches), tokens.valid], 1)
    return logits.masked_fill(~everyone, -torch.inf).softmax(1)[:, -patches:]


def iqr_outliers(values: Tensor) -> Tensor:
    """[N] bool: values above Q3 + 1.5 (Q3 - Q1), quartiles interpolated."""
    low, high = torch.quantile(
        exact(values), torch.tensor([0.25, 0.75], dtype=exact(values).dtype, device=values.device)
    )
    return values > high + 1.5 * (high - low)


def nearest_tokens(keys: Tensor, of: Tensor, members: int, bonus: Tensor | None = None) -> Tensor:
    """[M, members] the other tokens most similar to each of `of` [M], by cosine of keys [N, c] plus `bonus` [N]."""
    unit = normalize(keys, dim=1, eps=1e-12)
    similarity = unit[of] @ unit.T
    similarity = similarity if bonus is None else similarity + bonus
    similarity.scatter_(1, of[:, None], -torch.inf)
    return similarity.topk(min(members, len(keys) - 1), dim=1).indices


def absorb(x: Tensor, scores: Tensor, kept: Tensor, members: Tensor) -> Tensor:
    """[M, d] x_i + sum over its members of a_j x_j, weights not normalised.

    Args:
        x: [N, d]
        scores: [N] the weights a.
        kept: [M] indices i.
        members: [M, K] indices j of each.
    """
    weights = torch.zeros(len(kept), len(x), dtype=x.dtype, device=x.device)
    weights.scatter_(1, members, scores.to(x.dtype)[members])
    return x[kept] + weights @ x


def contextual_tokens(x: Tensor, keys: Tensor, count: int) -> Tensor:
    """[c, d] evenly strided targets, each with the mean of the tokens most similar to it added.

    Args:
        x: [R, d] the tokens not kept.
        keys: [R, c] what is compared by cosine.
        count: Number of targets, at most R.
    """
    count = min(count, len(x))
    if not count:
        return x[:0]
    target = torch.arange(0, len(x), max(1, len(x) // count), device=x.device)[:count]
    other = torch.ones(len(x), dtype=torch.bool, device=x.device).index_fill(0, target, False).nonzero().squeeze(1)
    unit = normalize(keys, dim=1, eps=1e-12)
    home = (unit[other] @ unit[target].T).argmax(1)
    total = torch.zeros(count, x.shape[1], dtype=x.dtype, device=x.device).index_add_(0, home, x[other])
    members = torch.bincount(home, minlength=count).clamp(min=1)
    return x[target] + total / members[:, None]


def _ones(tokens: Tokens, count: int) -> Tensor:
    return torch.ones(1, count, dtype=torch.bool, device=tokens.x.device)
