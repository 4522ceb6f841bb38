"""Critical tokens by rollouts, the definition that contrastive estimation stands in for: analysis only.

Source: arXiv 2411.19943, Sec. 2 and 3, and its code.
"""

from collections.abc import Sequence
from math import comb


def critical_index(scores: Sequence[float], threshold: float = 0.05) -> int | None:
    """The token after which an answer is lost.

    Args:
        scores: For each prefix of a wrong answer, the share of its sampled continuations that end right. The published
            number of continuations is 64.
        threshold: A later score from here on says that the answer was not lost yet (of 64, 4 right ones).

    Returns:
        The first place with score 0 behind which every score stays below the threshold; the last place with score 0 if
        there is no such place; None if no score is 0.
    """
    zeros = [place for place, score in enumerate(scores) if score == 0]
    high = [place for place, score in enumerate(scores) if score >= threshold]
    lost = [place for place in zeros if not high or place > high[-1]]
    found = lost or zeros[-1:]
    return found[0] if found else None


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Unbiased share of k continuations of which at least one is right: 1 - C(n - c, k) / C(n, k).

    Args:
        samples: Continuations that were sampled, n.
        right: How many of them end right, c.
        k: At most n.

    Raises:
        ValueError: the numbers do not fit each other.
    """
    if not 0 <= right <= samples or not 1 <= k <= samples:
        raise ValueError(f"{right} right ones and k={k} do not fit {samples} samples")
    return 1 - comb(samples - right, k) / comb(samples, k)
