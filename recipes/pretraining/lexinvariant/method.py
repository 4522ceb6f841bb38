"""Random vectors of tokens, permuted vocabularies, look-ups: pure functions, each of what it is given and of its key.

    E ~ N(0, 1) [V, d], one table for each sequence
    h_0[t]    = gain E[x_t] + bias
    logits[t] = E h[t] / sqrt d

What is drawn for a sequence follows from a key, (seed, stream, number, ...), and from nothing else: not from what was
drawn before, nor from the batch, process or device.

Source:
    Lexinvariant Language Models (arXiv 2305.16349), Sections 2 and 3.5, Appendices B and G.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Streams of keys: vectors of a sequence, of a step, of a run; what is done to a training item; measurement.
SEQUENCE, STEP, RUN, ITEM, HELD_OUT, LOOKUP, CIPHER = range(7)
Key = Sequence[int]
TRIPLE = 3  # tokens of a pair in a look-up: its key, an arrow and its value


def gaussian_table(key: Key, count: int, width: int) -> np.ndarray:
    """float32 [count, width], independent N(0, 1)."""
    return np.random.default_rng(key).standard_normal((count, width), np.float32)


def permute(tokens: np.ndarray, count: int, share: float, by_type: bool, key: Key) -> np.ndarray:
    """A sequence whose tokens are exchanged in part, by one permutation of the vocabulary.

    Args:
        tokens: int [T]; those from `count` on stay.
        count: Tokens that are permuted.
        share: p, the probability that a token is exchanged.
        by_type: Whether a token is exchanged at all its positions or at none; otherwise each position is drawn.
        key: Decides permutation and draws.

    Returns:
        int [T]
    """
    if not share:
        return tokens
    random = np.random.default_rng(key)
    images = random.permutation(count)
    if by_type:
        exchanged = (random.random(count) < share)[np.minimum(tokens, count - 1)]
    else:
        exchanged = random.random(len(tokens)) < share
    return np.where((tokens < count) & exchanged, images[np.minimum(tokens, count - 1)], tokens)


@dataclass(frozen=True)
class Lookup:
    """Pairs of symbols, and keys that are asked for again: `A -> 2  C -> 4  C -> 4  A -> 2`.

    Attributes:
        tokens: int64 [T] key, arrow, value, key, ...
        pairs: How many differ.
    """

    tokens: np.ndarray
    pairs: int

    @property
    def answers(self) -> np.ndarray:
        """bool [T]: values of keys that stood before, which alone can be known."""
        places = np.arange(len(self.tokens))
        return (places % TRIPLE == TRIPLE - 1) & (places >= TRIPLE * self.pairs)


def draw_lookup(symbols: np.ndarray, arrow: int, pairs: tuple[int, int], length: int | None, key: Key) -> Lookup:
    """A look-up in symbols, all of whose keys and values differ.

    Args:
        symbols: int [n] at least twice the largest number of pairs.
        arrow: What stands between a key and its value.
        pairs: Smallest and largest number of pairs.
        length: Tokens; None: the pairs and one question.
        key: Decides it.
    """
    random = np.random.default_rng(key)
    count = int(random.integers(pairs[0], pairs[1] + 1))
    chosen = random.choice(symbols, 2 * count, replace=False)
    triples = count + 1 if length is None else max(-(-length // TRIPLE), count + 1)
    numbers = np.concatenate([np.arange(count), random.integers(count, size=triples - count)])
    rows = np.stack([chosen[numbers], np.full(triples, arrow), chosen[count + numbers]], 1)
    return Lookup(rows.reshape(-1)[:length].astype(np.int64), count)


def vote(symbols: np.ndarray, readings: np.ndarray, count: int) -> np.ndarray:
    """int [count]: what each symbol of a cipher is read as most often, of equals the first; -1 where it does not occur.

    Args:
        symbols: int [n] symbols from 0 to `count` - 1.
        readings: int [n] plain tokens that they are taken for.
        count: Of symbols and of plain tokens.
    """
    votes = np.zeros((count, count), np.int64)
    np.add.at(votes, (symbols, readings), 1)
    return np.where(votes.any(1), votes.argmax(1), -1)
