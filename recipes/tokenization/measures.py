"""How a tokenizer cuts text: tokens per word and byte, boundaries, how evenly its tokens are used."""

from collections.abc import Iterable, Sequence

import numpy as np

ALPHA = 2.5  # of the Renyi entropy: what agrees best with translation quality (arXiv 2306.16842)


def fertility(tokens: int, text: str) -> float:
    """Tokens per word between white space; of a text without a word those of one."""
    return tokens / max(len(text.split()), 1)


def boundaries(lengths: Sequence[int]) -> set[int]:
    """Where tokens of these many bytes part a text, in bytes; its two ends are none."""
    return set(np.cumsum(lengths)[:-1].tolist())


def agreement(one: Iterable[int], other: Iterable[int]) -> float:
    """Jaccard of two sets of boundaries; 1 if both are empty."""
    one, other = set(one), set(other)
    return len(one & other) / len(one | other) if one or other else 1.0


def renyi_efficiency(counts: Sequence[int] | np.ndarray, vocabulary: int, alpha: float = ALPHA) -> float:
    """Renyi entropy of a unigram distribution over its largest possible value, log of the vocabulary.

    Args:
        counts: How often each token is used.
        vocabulary: Tokens that there are, at least 2.
        alpha: Order; 1 is Shannon's.

    Source:
        arXiv 2306.16842, equation 13: H_a(p) / log |V|, H_a(p) = log(sum p^a) / (1 - a).
    """
    shares = np.asarray([count for count in counts if count], np.float64)
    if not len(shares) or vocabulary < 2:
        raise ValueError("no token is used, or there is only one")
    shares /= shares.sum()
    entropy = -(shares * np.log(shares)).sum() if alpha == 1 else np.log((shares**alpha).sum()) / (1 - alpha)
    return float(entropy / np.log(vocabulary))
