"""Text that two models write together: the small one every token, the large one those that are routed to it."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recipes.core.models.kv_cache import KVCache

Texts = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Pair:
    """Two models of one vocabulary.

    Attributes:
        small: A `transformers` causal language model, in evaluation mode on its device.
        large: Another.
        vocabulary: Tokens that either may write; further rows of a head are no tokens.
        ends: Tokens that end a text.
        max_new_tokens: Longest text behind a prompt.
        batch_size: Prompts side by side.
        places: Key and value that named the small and the large model, for messages.
    """

    small: Any
    large: Any
    vocabulary: int
    ends: Collection[int]
    max_new_tokens: int
    batch_size: int
    places: tuple[str, str] = ("", "")

    def logits(self, cache: KVCache, hidden: Tensor) -> Tensor:
        """[rows, vocabulary] of hidden states [rows, width]."""
        return cache.head.logits(hidden)[:, : self.vocabulary]

    def has_ended(self, ids: Sequence[int], limit: int) -> bool:
        """Whether new tokens end there."""
        return len(ids) >= limit or (bool(ids) and ids[-1] in self.ends)


@dataclass(frozen=True)
class Place:
    """What the small model says at the end of some texts.

    Attributes:
        rows: Which texts.
        texts: Their tokens so far.
        new: How many of them came behind the prompt.
        hidden: [rows, width] what its head gets.
        logits: [rows, vocabulary]
        tokens: int64 [rows] what it would write.
    """

    rows: Sequence[int]
    texts: Texts
    new: Sequence[int]
    hidden: Tensor
    logits: Tensor
    tokens: Tensor


class Lagging:
    """The large model: each text is read as far as it was when it was last asked for.

    Args:
        pair: Both models.

    Attributes:
        read: Tokens read so far, over all texts.
        calls: Forwards so far.
    """

    def __init__(self, pair: Pair) -> None:
        self._pair, self.read, self.calls = pair, 0, 0
        self._caches = dict[int, tuple[KVCache, int]]()  # row -> where it was last read, and which row it is there
        self._behind = dict[int, tuple[int, Tensor]]()  # row -> tokens read, logits behind them

    def logits(self, rows: Sequence[int], texts: Texts) -> Tensor:
        """[rows, vocabulary] behind texts; of each only what is new is read, all in one forward.

        Args:
            rows: What each is called.
            texts: Their tokens.
        """
        lengths = {row: len(text) for row, text in zip(rows, texts, strict=True)}
        behind = [at for at, row in enumerate(rows) if self._behind.get(row, (0,))[0] != lengths[row]]
        # Texts that are new to the model are read from their start, in a forward of their own.
        for is_new in (True, False):
            if part := [at for at in behind if (rows[at] not in self._caches) == is_new]:
                self._catch_up([rows[at] for at in part], [texts[at] for at in part])
        return torch.stack([self._behind[row][1] for row in rows])

    def cache(self, rows: Sequence[int]) -> KVCache:
        """Keys and values of texts as far as they were read, to go on with apart from them."""
        sources = dict[int, tuple[KVCache, list[int]]]()
        for at, row in enumerate(rows):
            sources.setdefault(id(self._caches[row][0]), (self._caches[row][0], []))[1].append(at)
        parts, order = list[KVCache](), list[int]()
        for source, places in sources.values():
            parts.append(source.fork())
            parts[-1].gather([self._caches[rows[at]][1] for at in places])
            order += places
        joined = KVCache.join(parts) if len(parts) > 1 else parts[0]
        joined.gather(sorted(range(len(order)), key=order.__getitem__))
        return joined

    def forget(self, row: int) -> None:
        """A text has ended."""
        self._caches.pop(row, None)
        self._behind.pop(row, None)

    def _catch_up(self, rows: Sequence[int], texts: Texts) -> None:
        is_new = rows[0] not in self._caches
        cache = KVCache(self._pair.large, self._pair.places[1]) if is_new else self.cache(rows)
        self.read += sum(map(len, texts)) - (0 if is_new else int(cache.lengths.sum()))
        self.calls += 1
        logits = self._pair.logits(cache, cache.catch_up(texts))
        for at, (row, text) in enumerate(zip(rows, texts, strict=True)):
            self._caches[row], self._behind[row] = (cache, at), (len(text), logits[at])


# Which of some places the large model writes: bool [rows].
Decide = Callable[[Place, Lagging], Tensor]


@dataclass
class Routed:
    """A text behind a prompt.

    Attributes:
        ids: The new tokens, an end of text included.
        routed: Whether the large model wrote each.
        nlls: NLL of each in nats, as the small model has it.
    """

    ids: list[int]
    routed: list[bool]
    nlls: list[float]

    @property
    def usage(self) -> float:
        """Share of the tokens that the large model wrote."""
        return sum(self.routed) / len(self.routed)


def route(pair: Pair, prompts: Texts, decide: Decide) -> list[Routed]:
    """Continue prompts, greedily: the small model writes each token, and the large one rewrites those that it is given.

    The small model reads what was committed, so that nothing of it is ever taken back.

    Args:
        pair: Both models.
        prompts: Their tokens, at least one each.
        decide: Which tokens go to the large model. Rows are numbers of prompts.
    """
    results = [Routed([], [], []) for _ in prompts]
    for start in range(0, len(prompts), pair.batch_size):
        _route(pair, list(range(start, min(start + pair.batch_size, len(prompts)))), prompts, decide, results)
    return results


@torch.no_grad()
def _route(pair: Pair, rows: list[int], prompts: Texts, decide: Decide, results: list[Routed]) -> None:
    cache, large = KVCache(pair.small, pair.places[0]), Lagging(pair)
    hidden = cache.catch_up([prompts[row] for row in rows])
    while True:
        logits = pair.logits(cache, hidden)
        texts = [[*prompts[row], *results[row].ids] for row in rows]
        place = Place(rows, texts, [len(results[row].ids) for row in rows], hidden, logits, logits.argmax(-1))
        routed, tokens = decide(place, large), place.tokens.clone()
        if chosen := routed.nonzero()[:, 0].tolist():
            tokens[routed] = large.logits([rows[at] for at in chosen], [texts[at] for at in chosen]).argmax(-1)
        nlls = -logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        for row, token, is_routed, nll in zip(rows, tokens.tolist(), routed.tolist(), nlls.tolist(), strict=True):
            results[row].ids.append(token)
            results[row].routed.append(is_routed)
            results[row].nlls.append(nll)
        kept = [at for at, row in enumerate(rows) if not pair.has_ended(results[row].ids, pair.max_new_tokens)]
        for at in set(range(len(rows))) - set(kept):
            large.forget(rows[at])
        if not kept:
            return
        if len(kept) < len(rows):
            cache.gather(kept)
        rows, tokens = [rows[at] for at in kept], tokens[kept]
        hidden = cache.extend(tokens[:, None])[:, 0]


@dataclass
class Continuation:
    """What a model writes by itself.

    Attributes:
        ids: New tokens, an end of text included.
        gaps: By how much the logit of each is above the next best.
    """

    ids: list[int]
    gaps: list[float]


@torch.no_grad()
def continue_greedily(pair: Pair, cache: KVCache, logits: Tensor, limits: Sequence[int]) -> list[Continuation]:
    """Greedy continuations of rows, side by side.

    Args:
        pair: Says what ends a text.
        cache: The rows; of no use afterwards.
        logits: [rows, vocabulary] behind them.
        limits: Most new tokens of each, at least 1.
    """
    results, rows = [Continuation([], []) for _ in limits], list(range(len(limits)))
    while rows:
        best = logits.topk(2)
        gaps = (best.values[:, 0] - best.values[:, 1]).tolist()
        for row, token, gap in zip(rows, best.indices[:, 0].tolist(), gaps, strict=True):
            results[row].ids.append(token)
            results[row].gaps.append(gap)
        kept = [at for at, row in enumerate(rows) if not pair.has_ended(results[row].ids, limits[row])]
        if len(kept) < len(rows):
            cache.gather(kept)
        rows = [rows[at] for at in kept]
        if rows:
            ids = torch.tensor([[results[row].ids[-1]] for row in rows], device=logits.device)
            logits = pair.logits(cache, cache.extend(ids)[:, 0])
    return results


def answer(pair: Pair, model: Any, where: str, prompts: Texts) -> list[Continuation]:
    """Greedy continuations of prompts by one model.

    Args:
        pair: Says what ends a text.
        model: One of its two.
        where: Key and value that named it.
        prompts: Their tokens.
    """
    results = list[Continuation]()
    for start in range(0, len(prompts), pair.batch_size):
        part, cache = prompts[start : start + pair.batch_size], KVCache(model, where)
        logits = pair.logits(cache, cache.catch_up(part))
        results += continue_greedily(pair, cache, logits, [pair.max_new_tokens] * len(part))
    return results


def branch(pair: Pair, cache: KVCache, tokens: Sequence[int], limits: Sequence[int]) -> list[list[int]]:
    """What the large model writes behind one token more of each row, that token first.

    Args:
        pair: Both models.
        cache: Rows that the large model has read; of no use afterwards.
        tokens: What stands behind each.
        limits: Most new tokens of each, at least 1.
    """
    results = [[token] for token in tokens]
    open_ = [at for at, ids in enumerate(results) if not pair.has_ended(ids, limits[at])]
    if open_:
        cache.gather(open_)
        ids = torch.tensor([results[at] for at in open_], device=pair.large.device)
        logits = pair.logits(cache, cache.extend(ids)[:, 0])
        rest = continue_greedily(pair, cache, logits, [limits[at] - 1 for at in open_])
        for at, more in zip(open_, rest, strict=True):
            results[at] += more.ids
    return results
