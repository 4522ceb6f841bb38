"""Which keys a layer attends to behind a prompt, of every kind of cache. No model here.

A `Selection` is made of the prompt's queries and keys and then asked row by row, or for all rows at once; what it
answers does not depend on which.
"""

from typing import Any

import torch
from torch import Tensor

from recipes.core.models.taps import attention_rows
from recipes.decoding.recycled_attention.config import (
    DYNAMIC,
    FULL,
    H2O,
    ORACLE,
    RANDOM,
    RECYCLED,
    SNAPKV,
    STREAMING,
    CacheConfig,
)
from recipes.decoding.recycled_attention.method import (
    MEAN,
    best,
    dynamic_refreshes,
    fixed_refreshes,
    group_scores,
    recycled_rows,
    smooth,
)


def causal_weights(queries: Tensor, keys: Tensor, rows: Tensor, scale: float) -> Tensor:
    """[B, H, R, T] attention of queries [B, H, R, d] at positions `rows` [R] to keys [B, G, T, d] up to them."""
    bias = torch.zeros(len(rows), keys.shape[2], device=keys.device)
    bias.masked_fill_(torch.arange(keys.shape[2], device=keys.device) > rows[:, None], -torch.inf)
    return attention_rows(queries, keys, bias, scale)


class Selection:
    """Every key: full attention.

    Args:
        options: Which cache.
        queries: [B, H, p, d] of the prompt.
        keys: [B, G, p, d] of the prompt.
        scale: What products are multiplied by before the softmax.
        layer: Number of the layer.
        seed: Decides what is drawn.
    """

    def __init__(
        self, options: CacheConfig, queries: Tensor, keys: Tensor, scale: float, layer: int = 0, seed: int = 0
    ) -> None:
        self.options, self.scale, self.layer, self.seed = options, scale, layer, seed
        self.start, self.groups = keys.shape[2], keys.shape[1]
        self.prepare(queries, keys)

    def prepare(self, queries: Tensor, keys: Tensor) -> None:
        """What the prompt decides once for all; here nothing."""

    def rows(self, queries: Tensor, keys: Tensor, rows: Tensor) -> Tensor:
        """Which keys some rows behind the prompt see.

        Args:
            queries: [B, H, R, d] of the rows.
            keys: [B, G, T, d] of all positions.
            rows: int64 [R] their positions, rising, the next ones that were not asked for.

        Returns:
            bool [B, G, R, T]
        """
        causal = torch.arange(keys.shape[2], device=keys.device) <= rows[:, None]
        seen = self.before(queries, keys, rows) | (torch.arange(keys.shape[2], device=keys.device) == rows[:, None])
        return (causal & seen).expand(len(keys), self.groups, -1, -1)

    def before(self, queries: Tensor, keys: Tensor, rows: Tensor) -> Tensor:
        """bool, of a shape that expands to [B, G, R, T]: which keys before each row it sees."""
        return torch.ones(1, 1, len(rows), keys.shape[2], dtype=torch.bool, device=keys.device)

    def scores(self, queries: Tensor, keys: Tensor, rows: Tensor, how: str = "") -> Tensor:
        """[B, G, R, T] attention of rows to the keys up to them, by groups of heads."""
        return group_scores(causal_weights(queries, keys, rows, self.scale), self.groups, how or self.options.heads)


class Recycled(Selection):
    """The method, for all rows at once: full steps of this layer, the queues that they leave, the rows between them."""

    def prepare(self, queries: Tensor, keys: Tensor) -> None:
        """The last token of the prompt is a full step."""
        self._last = queries[:, :, -1:]

    def rows(self, queries: Tensor, keys: Tensor, rows: Tensor) -> Tensor:
        """As `Selection.rows`, of all rows behind the prompt."""
        every = torch.cat([self._last, queries], 2)
        if self.options.schedule != DYNAMIC:
            refreshed = fixed_refreshes(0, every.shape[2], self.options.stride).to(keys.device)
            return self._seen(every, keys, refreshed, rows)
        return torch.cat([self._seen(*one, self._moved(one[0]), rows) for one in self._texts(every, keys)])

    def _texts(self, queries: Tensor, keys: Tensor) -> list[tuple[Tensor, Tensor]]:
        return list(zip(queries.split(1), keys.split(1), strict=True))

    def _moved(self, queries: Tensor) -> Tensor:
        return dynamic_refreshes(queries[0].mean(0), 0, self.options.check_every, self.options.similarity)

    def _seen(self, queries: Tensor, keys: Tensor, refreshed: Tensor, rows: Tensor) -> Tensor:
        first, options = self.start - 1, self.options
        scores = self.scores(queries[:, :, refreshed], keys, refreshed + first)
        return recycled_rows(smooth(scores, options.pool), refreshed + first, rows, options.k, options.evict)


class Streaming(Selection):
    """The first tokens of the text and the last ones."""

    def before(self, queries: Tensor, keys: Tensor, rows: Tensor) -> Tensor:
        """As `Selection.before`."""
        columns, options = torch.arange(keys.shape[2], device=keys.device), self.options
        sinks = min(options.sinks, options.k)
        near = (columns < sinks) | (columns >= rows[:, None] - (options.k - sinks))
        if options.refresh:
            near = near | ((rows - self.start + 1) % options.stride == 0)[:, None]
        return near


class SnapKV(Selection):
    """What the last tokens of the prompt attended to, for good, and the last tokens."""

    def prepare(self, queries: Tensor, keys: Tensor) -> None:
        """Choose among the keys before those last tokens."""
        self._window = min(self.options.window, self.options.k)
        first = max(self.start - self._window, 0)
        rows = torch.arange(first, self.start, device=keys.device)
        sums = self.scores(queries[:, :, first:], keys, rows).sum(2)[..., :first]
        self._kept = best(smooth(sums, self.options.pool), self.options.k - self._window)

    def before(self, queries: Tensor, keys: Tensor, rows: Tensor) -> Tensor:
        """As `Selection.before`."""
        columns = torch.arange(keys.shape[2], device=keys.device)
        kept = torch.zeros(*self._kept.shape[:2], keys.shape[2], dtype=torch.bool, device=keys.device)
        kept.scatter_(-1, self._kept, True)
        return kept[:, :, None] | (columns >= rows[:, None] - self._window)


class HeavyHitters(Selection):
    """H2O: half of the keys are the last ones, half those of the largest attention so far; what is dropped is gone."""

    def prepare(self, queries: Tensor, keys: Tensor) -> None:
        """The attention of the whole prompt."""
        self._recent = self.options.k - self.options.k // 2
        rows = torch.arange(self.start, device=keys.device)
        self._sums = self.scores(queries, keys, rows, MEAN).sum(2)
        old = self._sums[..., : max(self.start - self._recent, 0)]
        self._kept = torch.ones_like(self._sums, dtype=torch.bool)
        self._kept[..., : old.shape[-1]] = False
        self._kept.scatter_(-1, best(old, self.options.k // 2), True)

    def rows(self, queries: Tensor, keys: Tensor, rows: Tensor) -> Tensor:
        """As `Selection.rows`, one row after the other."""
        new = keys.shape[2] - self._sums.shape[-1]
        self._sums = torch.nn.functional.pad(self._sums, (0, new))
        self._kept = torch.nn.functional.pad(self._kept, (0, new))
        products = (queries.unflatten(1, (self.groups, -1)) @ keys[:, :, None].mT).float() * self.scale
        seen = [self._step(products[:, :, :, at], int(row)) for at, row in enumerate(rows)]
        return torch.stack(seen, 2)

    def _step(self, products: Tensor, row: int) -> Tensor:
        """bool [B, G, T] what a row sees; `products` [B, G, H / G, T]."""
        self._kept[..., row] = True
        seen = self._kept.clone()
        weights = products.masked_fill(~seen[:, :, None], -torch.inf).softmax(-1)
        self._sums += weights.mean(2)
        # One key has left the recent ones; of those before them the least is dropped, of equal ones the later.
        old = max(row + 1 - self._recent, 0)
        candidates = self._sums[..., :old].masked_fill(~self._kept[..., :old], torch.inf)
        if old and int(self._kept[0, 0, :old].sum()) > self.options.k // 2:
            least = old - 1 - candidates.flip(-1).argmin(-1, keepdim=True)
            self._kept.scatter_(-1, least, False)
        return seen


class Oracle(Selection):
    """The keys that the row itself attends to most, summed over the heads of a group: no other k keep more."""

    def before(self, queries: Tensor, keys: Tensor, rows: Tensor) -> Tensor:
        """As `Selection.before`."""
        scores = self.scores(queries, keys, rows, MEAN)
        return _earlier(scores, rows, self.options.k)


class Chance(Selection):
    """Keys that are drawn anew for each row."""

    def before(self, queries: Tensor, keys: Tensor, rows: Tensor) -> Tensor:
        """As `Selection.before`."""
        scores = torch.zeros(1, self.groups, len(rows), keys.shape[2], device=keys.device)
        for at, row in enumerate(rows.tolist()):
            draw = torch.Generator().manual_seed((self.seed * 1_000_003 + self.layer) * 1_000_003 + row)
            scores[0, :, at, :row] = torch.rand(self.groups, row, generator=draw).to(keys.device)
        return _earlier(scores, rows, self.options.k)


def _earlier(scores: Tensor, rows: Tensor, k: int) -> Tensor:
    """bool like `scores` [..., R, T]: the k best columns before each row."""
    later = torch.arange(scores.shape[-1], device=scores.device) >= rows[:, None]
    chosen = best(scores.masked_fill(later, -torch.inf), k)
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, chosen, True) & ~later


KINDS: dict[str, Any] = {
    FULL: Selection,
    RECYCLED: Recycled,
    STREAMING: Streaming,
    SNAPKV: SnapKV,
    H2O: HeavyHitters,
    ORACLE: Oracle,
    RANDOM: Chance,
}
