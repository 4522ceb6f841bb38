"""Sequences in which slots always tell a token's role, and the token itself mostly: task A of the paper."""

from dataclasses import dataclass, field

import numpy as np

from recipes.core.errors import UserError
from recipes.pretraining.dual_process.config import (
    AMBIGUOUS,
    BINS,
    HEAD,
    HEAD_SWITCH,
    SWITCH,
    TAIL,
    TAIL_SWITCH,
    UNSEEN,
    VALIDATION,
    PartsOfSpeechConfig,
)


@dataclass(frozen=True)
class Sequences:
    """Sequences of seven tokens, of which the last three are masked.

    Attributes:
        inputs: int [n, 7]: a prefix of three, a query, three masks.
        slots: int [n, 3] what the masks hold by the slots of noun and adjective.
        classes: int [n, 3] what they would hold by the classes of tokens in each other's slots; None elsewhere.
    """

    inputs: np.ndarray
    slots: np.ndarray
    classes: np.ndarray | None = None


def write_sequences(nouns: np.ndarray, adjectives: np.ndarray, kinds: np.ndarray, copula: int, mask: int) -> Sequences:
    """Put tokens into slots; an adjective is answered (a, a, a), a noun (a, n, n).

    Args:
        nouns: [n] token in the noun's slot.
        adjectives: [n] token in the adjective's slot.
        kinds: [n] uniform in [0, 1): below .5 the prefix is `cop adj noun`, else `noun cop adj`; the query is the
            adjective below .25 and from .75 on.
        copula: Its id.
        mask: Its id.

    Returns:
        With the classes that belong to tokens in each other's slots.
    """
    first, asks = kinds < 0.5, (kinds < 0.25) | (kinds >= 0.75)
    cop, masks = np.full_like(nouns, copula), np.full((len(nouns), 3), mask, nouns.dtype)
    before, behind = np.stack([cop, adjectives, nouns], 1), np.stack([nouns, cop, adjectives], 1)
    query = np.where(asks, adjectives, nouns)
    inputs = np.concatenate([np.where(first[:, None], before, behind), query[:, None], masks], 1)
    return Sequences(inputs, _answers(nouns, adjectives, asks), _answers(adjectives, nouns, ~asks))


def _answers(nouns: np.ndarray, adjectives: np.ndarray, asks: np.ndarray) -> np.ndarray:
    rest = np.where(asks, adjectives, nouns)
    return np.stack([adjectives, rest, rest], 1)


def zipf(count: int, alpha: float) -> np.ndarray:
    """Probability [count] of each rank, proportional to rank^-alpha; alike for alpha = 0."""
    weights = np.arange(1, count + 1, dtype=np.float64) ** -alpha
    return weights / weights.sum()


@dataclass(frozen=True)
class Vocabulary:
    """Who is what, and how often: nouns, adjectives, copula, mask, then tokens that are never trained on.

    Attributes:
        config: Sizes and laws.
        seed: Decides which tokens are ambiguous, and what is drawn.
        ambiguous: bool [2, nouns or adjectives].
    """

    config: PartsOfSpeechConfig
    seed: int
    ambiguous: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        random, ambiguous = self._random(0), np.zeros((2, self.half), bool)
        for row in ambiguous:
            for part in np.array_split(np.arange(self.half), BINS):
                row[random.choice(part, round(self.config.ambiguity * len(part)), replace=False)] = True
        object.__setattr__(self, "ambiguous", ambiguous)

    @property
    def half(self) -> int:
        """Nouns, and adjectives."""
        return self.config.vocabulary // 2

    @property
    def unseen(self) -> np.ndarray:
        """Ids that are never trained on."""
        return np.arange(2 * self.half + 2, self.config.rows)

    def train(self, count: int) -> Sequences:
        """Sequences to train on."""
        return self._drawn(count, self._random(1))

    def sets(self, count: int) -> dict[str, Sequences]:
        """Sequences to measure on. Raises UserError: all tokens of a part are ambiguous."""
        half, tail, bins = self.half, self.half // 10, np.array_split(np.arange(self.half), BINS)
        random, every = self._random(2), np.arange(self.half)
        sets = {VALIDATION: self._drawn(count, random)}
        pairs = np.stack([random.choice(self.unseen, 2, replace=False) for _ in range(count)], 1)
        sets[UNSEEN] = self._write(pairs[0], pairs[1], random)
        sets[TAIL] = self._write(*self._pick(count, every[-tail:], random), random)
        if self.ambiguous.any():
            nouns, adjectives = (random.choice(np.flatnonzero(row), count) for row in self.ambiguous)
            sets[AMBIGUOUS] = self._write(nouns, half + adjectives, random)
        parts = {HEAD_SWITCH: every[:HEAD], TAIL_SWITCH: every[-tail:], SWITCH: every}
        parts |= {f"{SWITCH}/bin_{number + 1}": part for number, part in enumerate(bins)}
        for name, part in parts.items():
            nouns, adjectives = self._pick(count, part, random, clear=True)
            sets[name] = self._write(adjectives, nouns, random, switched=True)
        return sets

    def _random(self, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, stream])

    def _pick(
        self, count: int, part: np.ndarray, random: np.random.Generator, clear: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids of nouns and adjectives [count] from the same ranks, all alike; `clear`: none that is ambiguous."""
        choices = [part[~row[part]] if clear else part for row in self.ambiguous]
        if not all(len(each) for each in choices):
            raise UserError(
                f"of the {len(part)} tokens of ranks {part[0] + 1} to {part[-1] + 1} of a class none is unambiguous",
                f"data.ambiguity={self.config.ambiguity:g}",
                "type a smaller one, or a larger data.vocabulary",
            )
        return random.choice(choices[0], count), self.half + random.choice(choices[1], count)

    def _drawn(self, count: int, random: np.random.Generator) -> Sequences:
        """Tokens drawn by frequency; every other ambiguous one gives way to an ambiguous one of the other class."""
        weights = zipf(self.half, self.config.alpha)
        drawn = random.choice(self.half, (2, count), p=weights)
        ids = (drawn + np.array([[0], [self.half]])).astype(np.int32)
        for role in (0, 1):
            other = np.flatnonzero(self.ambiguous[1 - role])
            swaps = self.ambiguous[role][drawn[role]] & (random.random(count) < 0.5)
            if swaps.any():
                shares = weights[other] / weights[other].sum()
                ids[role, swaps] = random.choice(other, int(swaps.sum()), p=shares) + self.half * (1 - role)
        return self._write(ids[0], ids[1], random)

    def _write(
        self, nouns: np.ndarray, adjectives: np.ndarray, random: np.random.Generator, switched: bool = False
    ) -> Sequences:
        written = write_sequences(nouns, adjectives, random.random(len(nouns)), 2 * self.half, 2 * self.half + 1)
        return written if switched else Sequences(written.inputs, written.slots)
