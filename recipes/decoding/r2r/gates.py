"""What decides which tokens the large model writes: scores with a threshold, and oracles that ask it every time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recipes.decoding.r2r.labels import Asked, Checker, Labels
from recipes.decoding.r2r.method import aleatoric, entropy
from recipes.decoding.r2r.router import Features, Router
from recipes.decoding.r2r.routing import Decide, Lagging, Pair, Place, branch

Score = Callable[[Place], Tensor]  # [rows], the higher the sooner a token is routed


@dataclass(frozen=True)
class Scorer:
    """Scores of places in texts that are written, and of those of the large model's answers.

    Attributes:
        live: Of a place.
        fixed: Labels -> [tokens].
        size: Parameters that it works with.
    """

    live: Score
    fixed: Callable[[Labels], np.ndarray]
    size: int = 0


def by_router(router: Router, top: int) -> Scorer:
    """What a router makes of the small model's state, logits and token.

    Args:
        router: The router, on the models' device.
        top: Logits that it sees.
    """

    def live(place: Place) -> Tensor:
        return router.probabilities(Features(place.hidden, place.logits.topk(top, -1).values, place.tokens))

    def fixed(labels: Labels) -> np.ndarray:
        scores: np.ndarray = router.probabilities(labels.features.to(router.leave.weight.device)).cpu().numpy()
        return scores

    return Scorer(live, fixed, router.size)


def by_entropy() -> Scorer:
    """The entropy of the small model, in nats."""
    return Scorer(lambda place: entropy(place.logits), lambda labels: labels.entropies)


def by_evidence() -> Scorer:
    """Aleatoric uncertainty of its ten largest logits."""
    return Scorer(lambda place: aleatoric(place.logits), lambda labels: aleatoric(labels.features.logits).numpy())


def by_chance(questions: int, tokens: int, seed: int) -> Scorer:
    """Numbers in [0, 1) that depend on question and place alone.

    Args:
        questions: Most questions.
        tokens: Longest answer.
        seed: Of the numbers.
    """
    random = np.random.default_rng(seed)
    table = torch.from_numpy(random.random((questions, tokens)))
    return Scorer(
        lambda place: table[list(place.rows), list(place.new)].to(place.logits.device),
        lambda labels: np.random.default_rng([seed, 1]).random(len(labels.classes)),
    )


def above(score: Score, threshold: float) -> Decide:
    """Route what has at least some score."""
    return lambda place, large: score(place) >= threshold


def never(place: Place, large: Lagging) -> Tensor:
    """Route nothing."""
    return torch.zeros_like(place.tokens, dtype=torch.bool)


def always(place: Place, large: Lagging) -> Tensor:
    """Route everything."""
    return torch.ones_like(place.tokens, dtype=torch.bool)


def different(place: Place, large: Lagging) -> Tensor:
    """Route what the large model would write otherwise."""
    return large.logits(place.rows, place.texts).argmax(-1) != place.tokens


def divergent(pair: Pair, asked: Asked, checker: Checker) -> Decide:
    """Route what would lead to another answer than the large model's: asked anew at every place of the text as it is.

    As long as no token leads elsewhere, the large model would still come to its own answer from there: one branch a
    token is enough.

    Args:
        pair: Both models.
        asked: The questions that are continued, in their order.
        checker: Says when an answer changes.
    """
    outcomes = [checker.outcome(one.ids, right) for one, right in zip(asked.answers, asked.right, strict=True)]

    def decide(place: Place, large: Lagging) -> Tensor:
        routed = different(place, large)
        for at in _parts(routed.nonzero()[:, 0].tolist(), pair.batch_size):
            rows = [place.rows[i] for i in at]
            starts = [len(asked.prompts[row]) for row in rows]
            limits = [pair.max_new_tokens - place.new[i] for i in at]
            texts = branch(pair, large.cache(rows), place.tokens[at].tolist(), limits)
            for i, row, start, rest in zip(at, rows, starts, texts, strict=True):
                answer = [*place.texts[i][start:], *rest]
                routed[i] = checker.outcome(answer, asked.right[row]) != outcomes[row]
        return routed

    return decide


def _parts(items: Sequence[int], size: int) -> list[list[int]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
