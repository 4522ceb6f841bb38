"""Ranks of tokens, the clusters that they lie in, and which tokens are explored. No model here.

Logits are products of a query, the last hidden state, with the rows of the output embedding, the keys. What lies near
the best answer in the space of keys ranks high, whether it is right or wrong; only another query moves it away.

Source:
    arXiv 2410.02284.
"""

import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor

TOKENS, BEGINNINGS, CLUSTERS = "tokens", "beginnings", "clusters"
END = -1  # stands for the start and the end of an item among its n-grams


def ranking(logits: Tensor) -> np.ndarray:
    """int64 [V] tokens of logits [V], likeliest first; equal ones in the order of their ids."""
    order: np.ndarray = logits.argsort(descending=True, stable=True).cpu().numpy()
    return order


def in_main(order: np.ndarray, clusters: np.ndarray, top: int, ranks: int) -> np.ndarray:
    """bool [ranks - top]: whether tokens of ranks top + 1 to `ranks` lie in a cluster of the first `top`, "Main".

    Args:
        order: [tokens] from `ranking`.
        clusters: int [V] the cluster of each token.
        top: How many first tokens make up the main clusters (K).
        ranks: How many tokens are looked at (N); fewer where there are not so many.
    """
    looked_at = clusters[order[:ranks]]
    return np.isin(looked_at[top:], looked_at[:top])


def share_of_vocabulary(order: np.ndarray, clusters: np.ndarray, top: int) -> float:
    """What share of all tokens behind the first `top` lies in their clusters: `in_main`'s mean if ranks were chance."""
    main = int(np.isin(clusters[order], clusters[order[:top]]).sum())
    return (main - top) / max(len(order) - top, 1)


def precision(right: Sequence[bool]) -> float:
    """P@N: the share of N answers that is right; 0 of none."""
    return float(np.mean(right)) if len(right) else 0.0


def mean_precision(right: Sequence[bool]) -> float:
    """The mean over i <= N of P@i, which the official code calls mapk; 0 of none."""
    if not len(right):
        return 0.0
    return float((np.cumsum(right) / np.arange(1, len(right) + 1)).mean())


def normalise(text: str) -> str:
    """What two writings of one answer share: no marks or spaces around it, no "the" before it, small letters."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    start, end = 0, len(folded)
    while start < end and not folded[start].isalnum():
        start += 1
    while end > start and not folded[end - 1].isalnum():
        end -= 1
    return folded[start:end].removeprefix("the ")


class Explored:
    """What was explored, and which tokens must therefore not come first again.

    Args:
        texts: [V] what each token says; "" for one that writes nothing and never comes first.
        exclude: "tokens": those that say what a token said that came first. "beginnings": also those with which an
            explored item begins, in any writing. "clusters": all tokens of the clusters of those that came first.
        clusters: int [V] the cluster of each token; needed for "clusters".
    """

    def __init__(self, texts: Sequence[str], exclude: str = TOKENS, clusters: np.ndarray | None = None) -> None:
        if exclude not in (TOKENS, BEGINNINGS, CLUSTERS) or (exclude == CLUSTERS and clusters is None):
            raise ValueError(f"exclude={exclude} is not known, or has no clusters")
        self._texts, self._exclude, self._clusters = texts, exclude, clusters
        self._said = {""}
        self._beginnings: set[str] = set()
        self._crossed: set[int] = set()

    def choose(self, order: Iterable[int], number: int) -> list[int]:
        """The first `number` tokens of an order that may come first, which from now on are explored; fewer if there
        are no more.
        """
        chosen = list[int]()
        for token in map(int, order):
            if len(chosen) == number:
                break
            if self.allows(token):
                chosen.append(token)
                self._add(token)
        return chosen

    def allows(self, token: int) -> bool:
        """Whether a token may come first."""
        text = self._texts[token]
        if text in self._said:
            return False
        if self._exclude == BEGINNINGS:
            return normalise(text) not in self._beginnings
        return self._exclude != CLUSTERS or self._cluster(token) not in self._crossed

    def add_item(self, item: str) -> None:
        """An item was explored."""
        text = normalise(item)
        self._beginnings.update(text[:end].strip() for end in range(1, len(text) + 1))

    def _add(self, token: int) -> None:
        self._said.add(self._texts[token])
        if self._exclude == BEGINNINGS and (text := normalise(self._texts[token])):
            self._beginnings.add(text)
        if self._exclude == CLUSTERS:
            self._crossed.add(self._cluster(token))

    def _cluster(self, token: int) -> int:
        assert self._clusters is not None
        return int(self._clusters[token])


class SeenNgrams:
    """N-grams of earlier items, none of which may come again; the start and the end of an item count as tokens.

    Args:
        size: Tokens of an n-gram, at least 2.
    """

    def __init__(self, size: int) -> None:
        if size < 2:
            raise ValueError(f"n-grams of {size} tokens would exclude every token that ever came")
        self.size = size
        self._next: dict[tuple[int, ...], set[int]] = {}

    def add(self, item: Sequence[int]) -> None:
        """An item was written: its tokens without those that end it."""
        text = [END, *item, END]
        for start in range(len(text) - self.size + 1):
            *before, last = text[start : start + self.size]
            self._next.setdefault(tuple(before), set()).add(last)

    def excluded(self, item: Sequence[int]) -> set[int]:
        """The tokens that must not come next behind the first tokens of an item; `END`: it must not end."""
        text = [END, *item]
        nothing = {END} if not item else set()  # an item has a token
        return nothing | self._next.get(tuple(text[-(self.size - 1) :]), set())
