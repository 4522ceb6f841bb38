"""Scores of passages from the attention that the tokens of a query pay to them, less what no query would pay."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
FEWEST = 2  # tokens without which there is no standard deviation
DEVIATIONS = 2.0


def above_outliers(scores: Array) -> NDArray[np.bool_]:
    """[m] True for the tokens of a passage that count: all but those two standard deviations or more below their mean.

    Args:
        scores: [m] calibrated scores c_j of its tokens.
    """
    if len(scores) < FEWEST or not np.ptp(scores):  # of equal scores none lies above its own mean
        return np.ones(len(scores), bool)
    return scores > scores.mean() - DEVIATIONS * scores.std(ddof=1)


def passage_scores(scores: Array, spans: Sequence[tuple[int, int]], mask: bool) -> Array:
    """S_i = sum of c_j over the tokens j of passage i that count, [n].

    Args:
        scores: [T] of the tokens of a prompt.
        spans: [start, end) of each passage.
        mask: Whether outliers are left out; without it, all tokens count.
    """
    sums = []
    for start, end in spans:
        part = np.asarray(scores[start:end], np.float64)
        sums.append(part[above_outliers(part)].sum() if mask else part.sum())
    return np.array(sums)


def calibrate(query: Array, content_free: Array, how: str) -> Array:
    """What a query's tokens pay beyond those of a query that says nothing.

    Args:
        query: [...] s(Q)
        content_free: [...] s("N/A")
        how: "difference"; "none": s(Q); "only": s("N/A"), a control that does not see the query.
    """
    return {"difference": query - content_free, "none": query, "only": content_free}[how]


def retrieval_heads(gold: Array, count: int) -> NDArray[np.int64]:
    """The heads that pay most to the right passages (QRHead), in rising order.

    Args:
        gold: [queries, heads] each head's calibrated score of the relevant passages of a query.
        count: How many.
    """
    return np.sort(np.argsort(-gold.mean(0), kind="stable")[:count])


def contrastive_heads(
    scores: Sequence[Array], gold: Sequence[int], temperature: float, count: int
) -> NDArray[np.int64]:
    """The heads that tell the right passage best from the others of its list (CoRe), in rising order.

    Args:
        scores: For each query [heads, n] what each head pays to each passage.
        gold: Place of the relevant passage in each list.
        temperature: Of the softmax over a list.
        count: How many.
    """
    shares = []
    for each, right in zip(scores, gold, strict=True):
        logits = each / temperature
        weights = np.exp(logits - logits.max(1, keepdims=True))
        shares.append(weights[:, right] / weights.sum(1))
    return np.sort(np.argsort(-np.mean(shares, 0), kind="stable")[:count])
