"""FlowCut: prune step by step inside the encoder by a score that is averaged over layers.

Source: arXiv 2505.19536 (NeurIPS 2025), as the authors' code computes it.
"""

import torch
from torch import Tensor

from recipes.core.errors import UserError
from recipes.core.models.padded import gather, normalise, pack, top
from recipes.core.models.precision import exact
from recipes.pruning.tokens import Depth, Point, Pruner, Selection, State, Tokens, cls_scores, everything, not_none


class FlowCut(Pruner):
    """Looks behind every encoder block up to the third last and prunes behind every second of them.

    With `llm_layer` a second stage prunes to the budget inside the language model.
    """

    def points(self, depth: Depth) -> tuple[Point, ...]:
        """Blocks 0 to L - 3, and the layer of the second stage.

        Raises:
            UserError: the encoder has fewer than three blocks.
        """
        if depth.vit < 3:
            raise UserError(f"flowcut prunes up to the third last block, but the encoder has {depth.vit}")
        blocks = tuple(Point("vit", layer) for layer in range(depth.vit - 2))
        return (*blocks, Point("llm", self.options.llm_layer)) if self.options.llm_layer else blocks

    def needs(self, point: Point) -> tuple[str, ...]:
        if point.place == "llm":
            return ("keys", "values", "last_query", "last_value")
        row = ("cls_row",) if self.options.query == "cls" else ("queries", "keys")
        return (*row, "values") if {"density", "semantic"} & set(self.options.criteria) else row

    def select(self, tokens: Tokens, state: State) -> Selection:
        if tokens.point.place == "llm":
            return Selection(*pack(top(llm_score(tokens), tokens.budget, tokens.valid)))
        o, count = self.options, tokens.count
        target = torch.minimum((tokens.budget.double() * o.vit_share).long(), count)
        attention = normalise(cls_scores(tokens) if o.query == "cls" else _mean_query_scores(tokens), tokens.valid)
        score = self._running(tokens, _score(tokens, attention, o.criteria, o.combine), state)
        left = tokens.layers - tokens.point.layer - 3
        if left < 0 or left % o.interval:
            return everything(tokens)
        return Selection(*pack(top(score, self._keep(attention, count, target, left), tokens.valid)))

    def _running(self, tokens: Tokens, score: Tensor, state: State) -> Tensor:
        """The score averaged over the layers so far; kept by original position, so that it survives any gather."""
        position = tokens.positions.clamp(min=0)
        if "flow" not in state:
            state["flow"] = score.new_zeros(len(score), int(position.max()) + 1)
        else:
            score = self.options.cumulative * gather(state["flow"], position) + (1 - self.options.cumulative) * score
        row, column = tokens.valid.nonzero(as_tuple=True)
        state["flow"][row, position[row, column]] = score[row, column]
        return score

    def _keep(self, attention: Tensor, count: Tensor, target: Tensor, left: int) -> Tensor:
        excess = count - target
        if self.options.ratio == "fixed":
            points = left // self.options.interval + 1
            return count - (excess + points - 1) // points
        if self.options.ratio == "one_shot":
            return target if left == 0 else count
        taken = tokens_to_prune(count, target, left, entropy_ratio(attention, count))
        if self.options.ratio_reduce == "max":
            taken = torch.minimum(taken.max(), excess.clamp(min=0))
        return count - taken


def combine_scores(
    attention: Tensor | None, semantic: Tensor | None, density: Tensor | None, how: str = "(a+g)n"
) -> Tensor:
    """One score of the parts that are given.

    Args:
        attention: [B, N] attention strength a, sums to 1.
        semantic: [B, N] relevance g to the value of CLS, sums to 1.
        density: [B, N] L1 norm n of the head-mean value.
        how: "(a+g)n", "product" (a g n) or "sum" (a + g + n; ours, for an n that sums to 1).
    """
    shares = [part for part in (attention, semantic) if part is not None]
    if how == "(a+g)n":
        total = torch.stack(shares).sum(0)
        return total if density is None else total * density
    parts = torch.stack([*shares, *([] if density is None else [density])])
    return parts.prod(0) if how == "product" else parts.sum(0)


def entropy_ratio(attention: Tensor, count: Tensor) -> Tensor:
    """[B] r_H = -sum p ln p / ln N, 1 for even attention (and for a single token).

    Args:
        attention: [B, N] summing to 1, 0 for padding.
        count: [B] tokens N of each sample.
    """
    entropy = -torch.xlogy(attention, attention).sum(1)
    return torch.where(count > 1, entropy / count.clamp(min=2).log(), 1.0)


def tokens_to_prune(count: Tensor, target: Tensor, left: int, entropy: Tensor) -> Tensor:
    """[B] tokens that a pruning layer takes away.

    Args:
        count: [B] tokens now.
        target: [B] tokens wanted behind the last pruning layer.
        left: Layers until that one.
        entropy: [B] r_H.

    Source:
        P = round((N - T) / sqrt(left) (1 - r_H^2)); in the last layer all that are too many.
    """
    excess = count - target
    if left == 0:
        return excess
    drawn = (excess / left**0.5 * (1 - entropy**2)).round().long()
    return torch.minimum(drawn.clamp(min=0), excess)


def density(values: Tensor) -> Tensor:
    """[B, N] L1 norm of the mean over heads of values [B, H, N, c]."""
    return values.mean(1).abs().sum(2)


def llm_score(tokens: Tokens) -> Tensor:
    """[B, N] score of the second stage: softmaxes over the visual tokens only, of the last token's query and value."""
    keys, values = exact(not_none(tokens.keys)), exact(not_none(tokens.values))
    attention = _against(exact(not_none(tokens.last_query)), keys, tokens.valid, scaled=True)
    semantic = _against(exact(not_none(tokens.last_value)), values, tokens.valid, scaled=True)
    return combine_scores(attention, semantic, density(values))


def _score(tokens: Tokens, attention: Tensor, criteria: tuple[str, ...], how: str) -> Tensor:
    semantic = strength = None
    patches = tokens.x.shape[1]
    if "semantic" in criteria:
        semantic = _relevance(exact(not_none(tokens.values)), tokens.valid)
    if "density" in criteria:
        strength = density(exact(not_none(tokens.values))[:, :, -patches:])
        strength = normalise(strength, tokens.valid) if how == "sum" else strength
    return combine_scores(attention if "attn" in criteria else None, semantic, strength, how)


def _relevance(values: Tensor, valid: Tensor) -> Tensor:
    """Softmax over all tokens of the unscaled products with the value of CLS; mean over heads, patches normalised."""
    special = values.shape[2] - valid.shape[1]
    everyone = torch.cat([valid.new_ones(len(valid), special), valid], 1)
    shares = _against(values[:, :, 0], values, everyone, scaled=False)
    return normalise(shares[:, special:], valid)


def _mean_query_scores(tokens: Tokens) -> Tensor:
    patches = tokens.x.shape[1]
    queries, keys = (exact(not_none(each))[:, :, -patches:] for each in (tokens.queries, tokens.keys))
    mask = tokens.valid[:, None, :, None]
    mean = torch.where(mask, queries, 0).sum(2) / tokens.count[:, None, None]
    return _against(mean, keys, tokens.valid, scaled=True)


def _against(one: Tensor, all_: Tensor, among: Tensor, scaled: bool) -> Tensor:
    """[B, N] softmax over `among` of one vector [B, H, c] against all [B, G, N, c], mean over heads (G divides H)."""
    repeats = max(one.shape[1] // all_.shape[1], 1)
    one, all_ = one.repeat_interleave(max(all_.shape[1] // one.shape[1], 1), 1), all_.repeat_interleave(repeats, 1)
    logits = torch.einsum("bhc,bhnc->bhn", one, all_)
    if scaled:
        logits = logits / one.shape[2] ** 0.5
    return logits.masked_fill(~among[:, None], -torch.inf).softmax(2).mean(1)
