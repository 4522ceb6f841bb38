"""Recoverable compression: keep what CLS picks out, recover what the question picks out, merge the rest into a few.

How many is decided by an outlier test of each sample's scores.

Source: arXiv 2409.01179 (AAAI 2025), its code with the deviations that the authors cannot have meant taken out.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from recipes.core.models.precision import exact
from recipes.pruning.pruners.merging import absorb, final_scores, iqr_outliers, nearest_tokens
from recipes.pruning.tokens import Depth, Point, Pruner, Selection, State, Tokens, not_none, per_sample

FLAGGED = 1.5  # local outlier factor above which a value stands out
UNION_NEIGHBORS = 10


class Fixed(NamedTuple):
    """Numbers of tokens given beforehand."""

    visual: int
    text: int
    merged: int


class Recoverable(Pruner):
    """Visual filter, text recovery, secondary recovery and merging, one sample at a time."""

    def points(self, depth: Depth) -> tuple[Point, ...]:
        return (Point("encoder"),)

    def needs(self, point: Point) -> tuple[str, ...]:
        return ("final_query", "final_keys", *(("text", self._patches) if self.options.text else ()))

    @property
    def _patches(self) -> str:
        return "patch_text_raw" if self.options.patch_proj == "raw" else "patch_text"

    def select(self, tokens: Tokens, state: State) -> Selection:
        return per_sample(tokens, self._one, tokens.budget >= tokens.count)

    def _one(self, tokens: Tokens) -> Selection:
        scores = final_scores(tokens)[0]
        text = self._text_scores(tokens) if self.options.text else None
        fixed = self._counts(len(scores), int(tokens.budget[0]))
        visual, recovered = self._main(scores, text, fixed)
        main = visual | recovered
        if not main.any():
            main = _highest(scores, min(self.options.min_keep, len(scores)))
        index = main.nonzero().squeeze(1)
        if self.options.order == "score":
            index = index[scores[index].argsort(descending=True, stable=True)]
        extra = self._merge(tokens, scores, text, ~main, fixed) if self.options.merge else exact(tokens.x[0, :0])
        mask = torch.ones(1, len(index) + len(extra), dtype=torch.bool, device=scores.device)
        return Selection(
            index[None],
            mask[:, : len(index)],
            extra=extra[None].to(tokens.x.dtype),
            extra_valid=mask[:, len(index) :],
        )

    def _text_scores(self, tokens: Tokens) -> Tensor:
        """[N] cosine with the question over sqrt(width)."""
        patches, text = exact(not_none(getattr(tokens, self._patches)))[0], exact(not_none(tokens.text))
        sign: int = self.options.text_sign
        return sign * cosine_similarity(patches, text, dim=1, eps=1e-12) / patches.shape[1] ** 0.5

    def _counts(self, count: int, budget: int) -> Fixed | None:
        """Numbers that do not depend on the scores: given ones, or the budget shared out."""
        o = self.options
        if o.counts:
            visual, text, merged = o.counts
            return Fixed(min(visual, count), text if o.text else 0, merged)
        if o.threshold != "topk":
            return None
        merged = round(o.merge_share * budget) if o.merge else 0
        main = budget - merged - (merged > 0)
        if main < 1:
            merged, main = 0, budget
        text = round(o.text_share * main) if o.text else 0
        return Fixed(main - text, text, merged)

    def _main(self, scores: Tensor, text: Tensor | None, fixed: Fixed | None) -> tuple[Tensor, Tensor]:
        """[N] bool each: tokens chosen by CLS, and by the text."""
        o = self.options
        union = o.text_mode == "union" and text is not None
        neighbors = UNION_NEIGHBORS if union else o.neighbors
        wanted = int(len(scores) * self._share(scores, neighbors)) if fixed is None else fixed.visual
        visual = _highest(scores, wanted)
        if text is None:
            return visual, torch.zeros_like(visual)
        if union:
            wanted = int(len(text) * self._share(text, neighbors)) if fixed is None else fixed.text
            return visual, _highest(text, wanted)
        if fixed is None:
            sample = text[~visual] if o.lof_exclude_selected else text.masked_fill(visual, float(text.min()))
            wanted = int(int((~visual).sum()) * self._share(sample, neighbors))
        else:
            wanted = fixed.text
        return visual, _highest(text.masked_fill(visual, -torch.inf), min(wanted, int((~visual).sum())))

    def _merge(self, tokens: Tokens, scores: Tensor, text: Tensor | None, rest: Tensor, fixed: Fixed | None) -> Tensor:
        """[K, d] the best of the rest with their members absorbed, and the sum of the others."""
        index, o = rest.nonzero().squeeze(1), self.options
        left, x = scores[index], exact(tokens.x[0, index])
        count = int(len(index) * self._share(left, o.merge_neighbors)) if fixed is None else fixed.merged
        count = min(count, len(index))
        if not count:
            return x[:0]
        centres = left.argsort(descending=True, stable=True)[:count]
        keys = exact(not_none(tokens.final_keys))[0, -len(scores) :][index]
        bonus = None if text is None else o.merge_text_weight * text[index]
        merged = absorb(x, left, centres, nearest_tokens(keys, centres, o.merge_members, bonus))
        return torch.cat([merged, left.index_fill(0, centres, 0)[None].to(x.dtype) @ x])

    def _share(self, values: Tensor, neighbors: int) -> float:
        """Share of the values that stand out."""
        if len(values) < 2:
            return 0.0
        flagged = iqr_outliers(values) if self.options.threshold == "iqr" else local_outliers(values, neighbors)
        # Counted before dividing: int(N x (n / N)) is not always n.
        return int(flagged.sum()) / len(values) + 1e-12


def local_outliers(values: Tensor, neighbors: int = 20) -> Tensor:
    """[N] bool: values whose local outlier factor is above 1.5, high or low."""
    return local_outlier_factor(values, neighbors) > FLAGGED


def local_outlier_factor(values: Tensor, neighbors: int = 20) -> Tensor:
    """[N] float64 local outlier factor of one-dimensional data, in O(N log N + N k).

    Args:
        values: [N], at least two.
        neighbors: k, at most N - 1 is used.

    Source:
        Breunig et al. 2000, with scikit-learn's guard of 1e-10: lrd = 1 / (mean reachability + 1e-10), LOF = mean of
        the neighbours' lrd over one's own. Of equally near neighbours those to the left are taken.
    """
    ordered, order = values.double().sort(stable=True)
    count, k = len(ordered), min(neighbors, len(ordered) - 1)
    ranks = torch.arange(count, device=values.device)
    # Neighbours stand beside each other after sorting: the k nearest are a window of k + 1 that holds the value.
    starts = (ranks[:, None] - k + torch.arange(k + 1, device=values.device)).clamp(0, count - 1 - k)
    reach = torch.maximum(ordered[:, None] - ordered[starts], ordered[starts + k] - ordered[:, None])
    start = starts.gather(1, reach.argmin(1, keepdim=True))
    near = start + torch.arange(k, device=values.device)
    near = near + (near >= ranks[:, None])  # skips the value itself
    gaps = (ordered[near] - ordered[:, None]).abs()
    kth = gaps.amax(1)
    density = 1 / (torch.maximum(kth[near], gaps).mean(1) + 1e-10)
    factor = (density[near] / density[:, None]).mean(1)
    return torch.empty_like(factor).scatter_(0, order, factor)


def _highest(scores: Tensor, count: int) -> Tensor:
    """[N] bool, the largest scores, the earlier of equal ones first."""
    index = scores.argsort(descending=True, stable=True)[:count]
    return torch.zeros_like(scores, dtype=torch.bool).index_fill(0, index, True)
