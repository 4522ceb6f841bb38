"""Faithfulness: whether the tokens that an attribution calls important are those that the model's prediction hangs on.

    S(k) = 1 - d(q, p_k)      q: next-token distribution of the text, p_k: of the text masked with keep probabilities k
    soft sufficiency          max(0, S(s) - S0) / (1 - S0)       S0: S of a text whose embeddings are all zero
    soft comprehensiveness    d(q, p_{1 - s}) / (1 - S0)

A mask keeps each element of the embedding of token i with probability k_i. Both depend on how peaked s is; at a matched
sharpness every attribution is softmax(-rank / tau), so that only its order counts.

Source:
    Zhao and Aletras, Incorporating Attribution Importance for Improving Faithfulness Metrics, arXiv 2305.10496; with
    whole next-token distributions as in arXiv 2402.00794.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

HELLINGER, OFFICIAL = "hellinger", "official"
DISTANCES = (HELLINGER, OFFICIAL)
SMALLEST = 1e-6  # of 1 - S0: below it a text without any token predicts the same, and nothing can be said


def distance(q: Tensor, p: Tensor, kind: str = HELLINGER) -> Tensor:
    """Distance of distributions over their last dimension, in fp64.

    Args:
        q: [..., V]
        p: [..., V]
        kind: "hellinger", in [0, 1]; "official", the released code's: half the root missing, in [0, sqrt 2].
    """
    squares = (q.double().sqrt() - p.double().sqrt()).square().sum(-1)
    return (squares if kind == OFFICIAL else squares.sqrt()) / math.sqrt(2)


def sufficiency(distances: Tensor, floor: float) -> Tensor:
    """Of distances d(q, p) to what is kept: how much of the prediction it alone brings back; `floor` is S0."""
    return (1 - distances - floor).clamp_min(0) / (1 - floor)


def comprehensiveness(distances: Tensor, floor: float) -> Tensor:
    """Of distances d(q, p) to what is left without it: how much of the prediction it takes away; `floor` is S0."""
    return distances / (1 - floor)


def matched(scores: Tensor, free: Tensor, tau: float = 1.0) -> Tensor:
    """[t] importance of the same order and of a sharpness that is the same for all: softmax(-rank / tau).

    Args:
        scores: [t] larger is more important; of equal ones the first is.
        free: bool [t] tokens that have importance; the others get 0.
        tau: 1: the first token has .63 of it.
    """
    ranks = torch.empty_like(scores, dtype=torch.float64)
    order = ranking(scores, free)
    ranks[order] = torch.arange(len(order), dtype=torch.float64, device=scores.device)
    return (-ranks / tau).masked_fill(~free, -torch.inf).softmax(-1)


def ranking(scores: Tensor, free: Tensor) -> Tensor:
    """[n] positions of the free tokens, the most important first; of equal ones the first in the text."""
    order = scores.masked_fill(~free, -torch.inf).argsort(descending=True, stable=True)
    return order[: int(free.sum())]


def evenness(importance: Tensor, free: Tensor) -> float:
    """Entropy of importance over that of equal shares: 1 is flat, 0 a single token."""
    shares, count = importance[free].double(), int(free.sum())
    return float(torch.special.entr(shares).sum() / math.log(count)) if count > 1 else 0.0


@dataclass(frozen=True)
class Faithful:
    """One measurement: what is kept or taken away, as shares of what the whole text predicts."""

    sufficiency: float
    comprehensiveness: float


class Masking:
    """One prediction, measured with embeddings masked.

    Args:
        embeddings: [t, H] of the text.
        free: bool [t] tokens that may be masked; the others (begin of text, a chat template) stay as they are.
        predict: [n, t, H] to next-token distributions [n, V].
        kind: Of the distance.
        draws: Masks that a soft metric averages.
        seed: Of the masks, which are the same for every attribution of the text.
    """

    def __init__(
        self, embeddings: Tensor, free: Tensor, predict: Callable[[Tensor], Tensor], kind: str, draws: int, seed: int
    ) -> None:
        self._embeddings, self._free, self._predict, self._kind = embeddings, free, predict, kind
        generator = torch.Generator().manual_seed(seed)
        self._chances = torch.rand(draws, *embeddings.shape, generator=generator).to(embeddings.device)
        whole = torch.ones(1, len(free), device=embeddings.device)
        both = predict(torch.cat([self._masked(whole[..., None]), self._masked(torch.zeros_like(whole)[..., None])]))
        self._whole = both[:1]
        self.floor = 1 - float(distance(both[0], both[1], kind))

    @property
    def device(self) -> torch.device:
        """Where importance has to lie."""
        return self._embeddings.device

    @property
    def is_defined(self) -> bool:
        """Whether a text without embeddings predicts anything else."""
        return 1 - self.floor >= SMALLEST

    def soft(self, importance: Tensor) -> Faithful:
        """Soft sufficiency and comprehensiveness of importance [t] in [0, 1]."""
        keep = importance.to(self._chances)[None, :, None]
        return self._measure(self._chances < keep, self._chances < 1 - keep)

    def hard(self, scores: Tensor, count: int) -> Faithful:
        """The same with the whole embeddings of the `count` most important tokens kept, or taken away."""
        top = torch.zeros_like(self._free)
        top[ranking(scores, self._free)[:count]] = True
        return self._measure(top[None, :, None], ~top[None, :, None])

    def _masked(self, keep: Tensor) -> Tensor:
        """[n, t, H] the text with elements where `keep` is 0 set to zero, tokens that are not free as they are."""
        return self._embeddings * torch.where(self._free[:, None], keep.to(self._embeddings), 1.0)

    def _measure(self, kept: Tensor, left: Tensor) -> Faithful:
        read = self._predict(torch.cat([self._masked(kept), self._masked(left)]))
        distances = distance(self._whole, read, self._kind)
        with_it, without = distances[: len(kept)], distances[len(kept) :]
        return Faithful(
            float(sufficiency(with_it, self.floor).mean()), float(comprehensiveness(without, self.floor).mean())
        )


@dataclass(frozen=True)
class Curves:
    """Areas under curves over the share of tokens, in probability of the predicted token.

    Attributes:
        deletion: Mean of p0 - p with the 1, 2, .. most important tokens replaced.
        insertion: Mean of p with the 1, 2, .. most important tokens alone left as they are.
    """

    deletion: float
    insertion: float


def replacement_curves(scores: Tensor, free: Tensor, whole: float, read: Callable[[Tensor], Tensor]) -> Curves:
    """Replace tokens in the order of their importance.

    Args:
        scores: [t] larger is more important.
        free: bool [t] tokens that may be replaced.
        whole: p0, probability of the predicted token behind the text as it is.
        read: bool [n, t], which tokens are replaced, to [n] its probability then.
    """
    order = ranking(scores, free)
    steps = torch.ones(len(order), len(order), dtype=torch.bool, device=scores.device).tril()
    deleted = torch.zeros(len(order), len(free), dtype=torch.bool, device=scores.device)
    deleted[:, order] = steps
    read_both = read(torch.cat([deleted, free & ~deleted])).double()
    return Curves(float(whole - read_both[: len(order)].mean()), float(read_both[len(order) :].mean()))
