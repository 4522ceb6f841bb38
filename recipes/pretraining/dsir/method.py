"""DSIR as pure math: n-gram distributions, importance weights, and how weights become a selection.

    counts of target and raw pool -> fit -> log_ratio -> log_weights of each document
    selection = top_k(keys): every way to select is a key per document, and the k largest keys

Documents are rows in corpus order. Noise is drawn for every document in that order from one generator, so a selection
depends on the seed and the corpus, not on shards or workers.
"""

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

WEIGHT_EPSILON = 1e-8
KL_EPSILON = 1e-10
PARETO_SHAPE = 9


def fit(counts: Integers, smoothing: float = 0.0) -> Floats:
    """Distribution over buckets from n-gram counts.

    Args:
        counts: [buckets].
        smoothing: Added to every count (Laplace); the method smooths the target only.

    Returns:
        [buckets], sums to 1.

    Raises:
        ValueError: nothing was counted.
    """
    smoothed = counts + float(smoothing)
    if not smoothed.sum() > 0:
        raise ValueError("no n-gram was counted")
    return smoothed / smoothed.sum()


def log_ratio(target: Floats, raw: Floats) -> Floats:
    """What one occurrence of an n-gram adds to a document's log-weight, [buckets] in nats.

    Source:
        arXiv 2302.03169: log p - log q, with 1e-8 added to both as in the published code.
    """
    return np.log(target + WEIGHT_EPSILON) - np.log(raw + WEIGHT_EPSILON)


def ngrams_in(lengths: Integers, ngrams: int) -> Integers:
    """How many n-grams of orders 1 to `ngrams` documents of `lengths` words have."""
    return sum((np.maximum(lengths - order, 0) for order in range(ngrams)), np.zeros_like(lengths))


def length_normalize(weights: Floats, lengths: Integers, ngrams: int) -> Floats:
    """Log-weight per n-gram, so that long documents are not extreme because they are long. Ours."""
    return weights / np.maximum(ngrams_in(lengths, ngrams), 1)


def gumbel_keys(weights: Floats, rng: Generator, temperature: float = 1.0) -> Floats:
    """Keys whose k largest are a sample without replacement with probabilities proportional to exp(weights / t).

    Args:
        weights: Log-weights; noise has their shape.
        rng: Source of the noise.
        temperature: Near 0: the largest weights; infinite: uniform.

    Source:
        arXiv 2302.03169, Gumbel top-k; the temperature is ours.
    """
    return weights / temperature + rng.gumbel(size=weights.shape)


def pareto_keys(scores: Floats, rng: Generator) -> Floats:
    """Keys of noisy classifier selection: the k largest are the first k that repeated passes keep.

    A pass keeps a document when Pareto noise exceeds 1 - score, with probability (2 - score)^-9. The pass that keeps
    it is then geometric, and one draw replaces all passes; documents of one pass stand in random order.

    Args:
        scores: P(target) of each document, in [0, 1].
        rng: Source of the noise.

    Source:
        arXiv 2302.03169, heuristic classification (as GPT-3), with shape 9.
    """
    kept = (2.0 - scores) ** -PARETO_SHAPE
    return rng.random(scores.shape) - rng.geometric(kept)


def top_k(keys: Floats, count: int) -> Integers:
    """Indices of the `count` largest keys in ascending order; of equals, the earlier. In time linear in keys.

    Raises:
        ValueError: there are fewer keys.
    """
    if not 0 <= count <= len(keys):
        raise ValueError(f"cannot take {count} of {len(keys)}")
    if count == 0:
        return np.zeros(0, np.int64)
    threshold = np.partition(keys, len(keys) - count)[len(keys) - count]
    above = np.flatnonzero(keys > threshold)
    equal = np.flatnonzero(keys == threshold)[: count - len(above)]
    return np.sort(np.concatenate([above, equal]))


def kl_divergence(first: Floats, second: Floats) -> float:
    """KL(first || second) of two distributions over buckets, in nats.

    Source:
        The authors' formula for data metrics: 1e-10 is added inside both logarithms.
    """
    return float(first @ (np.log(first + KL_EPSILON) - np.log(second + KL_EPSILON)))


def kl_reduction(target: Floats, raw: Floats, selected: Floats) -> float:
    """How much nearer to the target the selection is than the pool: KL(target||raw) - KL(target||selected), in nats.

    Args:
        target: Distribution of the target, [buckets].
        raw: Distribution of a random sample of the pool.
        selected: Distribution of the selection.

    Returns:
        Negative where selecting made it worse.
    """
    return kl_divergence(target, raw) - kl_divergence(target, selected)


def passes_quality(words: Sequence[str], stop_words: Collection[str]) -> bool:
    """Whether a chunk looks like prose: length, repetition, share of content words, few single digits.

    Args:
        words: Lower-cased words and runs of punctuation.
        stop_words: Words that are no content.

    Source:
        arXiv 2302.03169, quality filter of the Pile pipeline; there on NLTK's `word_tokenize`.
    """
    total = len(words)
    if not 40 < total < 500:
        return False
    counts = Counter(words)
    content = sum(n for word, n in counts.items() if word not in stop_words and not _is_punctuation(word))
    digits = sum(n for word, n in counts.items() if len(word) == 1 and word.isdigit())
    return 0.02 < max(counts.values()) / total < 0.2 and 0.3 < content / total < 0.7 and (total - digits) / total > 0.8


def _is_punctuation(word: str) -> bool:
    return not (word[0].isalnum() or word[0] == "_")
