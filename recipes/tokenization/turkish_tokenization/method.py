"""Words, morphemes and correlations: pure functions of strings and numbers.

chain parse      word = root + affix + ... + affix, all of them on lists
valid (%TR)      share of tokens that are words: on the lists, or with a parse
pure (%Pure)     share of tokens that are one morpheme: on the lists, or with a parse of one part
                 each of both as `validity` says: by the lists, by parses, or by either
correlation      mean over tokenizers of n a_i b_i, where a and b are centred and of length 1
"""

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, islice, permutations
from math import factorial

import numpy as np
import regex
from numpy.typing import ArrayLike

from recipes.tokenization.turkish_tokenization.config import ANALYSER, EITHER, LEXICON

PERMUTATIONS = 9_999
MOST_PARSES = 32  # of a word, those with the longest root and the longest affixes first
BROKEN = "\ufffd"  # what stands for a part of a character
# A word: letters with their marks, which are vowels in many scripts, and numbers that are no digits.
WORD = regex.compile(r"[\p{L}\p{M}\p{Nl}\p{No}]+")


def normalise(text: str, turkish: bool = True) -> str:
    """A token as it stands on the lists: without white space around it, composed, in lower case.

    Args:
        text: The token.
        turkish: Whether I is the capital of dotless i, and dotted I that of i.
    """
    text = unicodedata.normalize("NFC", text.strip())
    if turkish:
        text = text.replace("I", "ı").replace("İ", "i")
    return text.lower()


class Chains:
    """Parses of words as a root with affixes behind it.

    Args:
        roots: Words and roots.
        affixes: Affixes, in all their forms.
        most: Affixes of a parse at most.
        shortest: Letters of a root at least.
    """

    def __init__(self, roots: Iterable[str], affixes: Iterable[str], most: int, shortest: int) -> None:
        self.roots, self.affixes = frozenset(roots), frozenset(affixes)
        self.lexicon = self.roots | self.affixes
        self._most, self._shortest = most, shortest
        self._longest = max(map(len, self.affixes), default=0)
        self.parses = lru_cache(maxsize=None)(self._parses)

    def _parses(self, word: str) -> tuple[tuple[str, ...], ...]:
        """Parts of a word, of at most `MOST_PARSES` parses; none if it has no parse."""
        ends = range(len(word), self._shortest - 1, -1)
        chains = (
            (word[:end], *rest)
            for end in ends
            if word[:end] in self.roots
            for rest in self._affixes(word[end:], self._most)
        )
        return tuple(islice(chains, MOST_PARSES))

    def _affixes(self, rest: str, most: int) -> Iterable[tuple[str, ...]]:
        """Ways to read letters as affixes alone."""
        if not rest:
            yield ()
        elif most:
            for end in range(min(len(rest), self._longest), 0, -1):
                if rest[:end] in self.affixes:
                    yield from ((rest[:end], *behind) for behind in self._affixes(rest[end:], most - 1))

    def is_pure(self, token: str, validity: str = EITHER) -> bool:
        """Whether a token is one morpheme: on the lists ("lexicon"), its root in a parse ("analyser"), or "either"."""
        listed = validity != ANALYSER and token in self.lexicon
        return listed or (validity != LEXICON and (token,) in self.parses(token))

    def is_valid(self, token: str, validity: str = EITHER) -> bool:
        """Whether a token is a word: on the lists ("lexicon"), with a parse ("analyser"), or "either"."""
        listed = validity != ANALYSER and token in self.lexicon
        return listed or (validity != LEXICON and bool(self.parses(token)))

    def parse_cut(self, word: str) -> tuple[str, ...]:
        """The first parse of a word; the word itself where it has none."""
        parses = self.parses(word)
        return parses[0] if parses else (word,)

    def greedy_cut(self, word: str) -> tuple[str, ...]:
        """The longest root that a word begins with, then the longest affix each time; what is left is one part."""
        ends = range(len(word), self._shortest - 1, -1)
        at = next((end for end in ends if word[:end] in self.roots), 0)
        parts = [word[:at]] if at else []
        while at < len(word):
            longest = range(min(len(word), at + self._longest), at, -1)
            end = next((end for end in longest if parts and word[at:end] in self.affixes), len(word))
            parts.append(word[at:end])
            at = end
        return tuple(parts)


def random_cut(word: str, lengths: Sequence[int], draw: np.random.Generator) -> tuple[str, ...]:
    """A word cut into parts whose lengths are drawn from a list; what is left is the last part."""
    parts, at = [], 0
    while at < len(word):
        end = at + int(lengths[int(draw.integers(len(lengths)))])
        parts.append(word[at:end])
        at = end
    return tuple(parts)


def share(counts: Mapping[str, int], holds: Callable[[str], bool], weighting: str = "unique") -> float:
    """Percent of tokens of which something holds, each counted once ("unique") or as often as it occurs; 0 of none."""
    weights = {token: 1 if weighting == "unique" else count for token, count in counts.items()}
    total = sum(weights.values())
    return 100 * sum(weight for token, weight in weights.items() if holds(token)) / total if total else 0.0


def cuts(parts: Sequence[str]) -> frozenset[int]:
    """Places at which parts cut a word."""
    return frozenset([*accumulate(map(len, parts))][:-1])


def boundary_hits(given: Iterable[int], parses: Iterable[Sequence[str]]) -> tuple[int, int, int]:
    """Cuts of a word beside those of the parse that they agree with best, by F1.

    Args:
        given: Places.
        parses: Parts of each parse, at least one parse.

    Returns:
        Cuts of both, of the given alone, of the parse alone.
    """
    mine = frozenset(given)
    counts = [(len(mine & gold), len(mine - gold), len(gold - mine)) for gold in map(cuts, parses)]
    return max(counts, key=lambda one: f1(*one))


def f1(both: int, mine: int, theirs: int) -> float:
    """F1 of cuts, 1 if there is none on either side."""
    return 2 * both / (2 * both + mine + theirs) if both + mine + theirs else 1.0


def correlation_parts(left: ArrayLike, right: ArrayLike) -> np.ndarray:
    """What each item adds to Pearson's correlation: their mean is the correlation; all 0 where one does not vary.

    Args:
        left: [n]
        right: [n]

    Returns:
        float64 [n]
    """
    sides = [np.asarray(side, np.float64) for side in (left, right)]
    sides = [side - side.mean() for side in sides]
    scale = np.prod([np.linalg.norm(side) for side in sides])
    varies = all(np.ptp(side) > 1e-12 for side in sides)
    return sides[0] * sides[1] * (len(sides[0]) / scale) if varies else np.zeros(len(sides[0]))


def rank_parts(left: ArrayLike, right: ArrayLike) -> np.ndarray:
    """The same of Spearman's correlation; equal values share their mean rank."""
    from scipy.stats import rankdata

    return correlation_parts(rankdata(left), rankdata(right))


def permutation_p(left: ArrayLike, right: ArrayLike, direction: int, seed: int = 0) -> float:
    """Share of the orders of the items in which Pearson's correlation is at least as large as the given.

    All orders if they are at most 9,999, else that many drawn ones and the given. 1 where one side does not vary.

    Args:
        left: [n]
        right: [n]
        direction: +1 if a positive correlation is promised, -1 if a negative one.
        seed: Of the draws.
    """
    mine, theirs, draw = np.asarray(left, np.float64), np.asarray(right, np.float64), np.random.default_rng(seed)
    if not correlation_parts(mine, theirs).any():
        return 1.0
    few = factorial(len(mine)) <= PERMUTATIONS
    orders = [*permutations(range(len(mine)))] if few else [draw.permutation(len(mine)) for _ in range(PERMUTATIONS)]
    products = direction * mine[np.array(orders)] @ (theirs - theirs.mean())
    given = direction * mine @ (theirs - theirs.mean())
    hits = int((products >= given - 1e-9 * abs(given)).sum())
    return hits / len(orders) if few else (hits + 1) / (len(orders) + 1)
