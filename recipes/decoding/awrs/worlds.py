"""Small random languages with random sets of valid texts: the posterior is enumerated, and answers compared with it."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, cached_property

import numpy as np

from recipes.core.data.text.vocabulary_bytes import VocabularyBytes
from recipes.decoding.awrs.config import SMCConfig, WorldsConfig
from recipes.decoding.awrs.constraints import Constraint
from recipes.decoding.awrs.method import log_sum
from recipes.decoding.awrs.movers import ConstrainedMover, Row
from recipes.decoding.awrs.smc import Cloud, Particle, run

FIRST_LETTER = 48


class World:
    """A language of letters in which each text up to a length has its own distribution of the next letter.

    Args:
        config: Its size.
        number: Which one; it does not depend on the seed of a run.

    Attributes:
        logp: float64 [texts, letters + 1] behind each text, the end last. Text 0 is the empty one; text n goes on with
            letter a to text n letters + a + 1.
        valid: bool [texts] which texts satisfy the constraint; at least one.
    """

    def __init__(self, config: WorldsConfig, number: int) -> None:
        random = np.random.default_rng([number, config.vocabulary, config.length])
        self.letters, self.length = config.vocabulary, config.length
        texts = sum(self.letters**size for size in range(self.length + 1))
        logits = config.spread * random.normal(size=(texts, self.letters + 1))
        self.logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        self.valid = random.random(texts) < config.valid
        self.valid[0] = False
        if not self.valid.any():
            self.valid[-1] = True
        self.vocabulary = VocabularyBytes(
            [chr(FIRST_LETTER + at).encode() for at in range(self.letters)] + [b""], [self.letters]
        )
        self._nodes = np.zeros(0, np.int64)

    def start(self, prompts: Sequence[Sequence[int]]) -> list[Row]:
        """Rows behind empty texts."""
        self._nodes = np.zeros(len(prompts), np.int64)
        return [self._row(0) for _ in prompts]

    def extend(self, parents: Sequence[int], tokens: Sequence[int]) -> list[Row]:
        """Rows behind one letter more."""
        self._nodes = self._nodes[list(parents)] * self.letters + np.array(tokens) + 1
        return [self._row(node) for node in self._nodes.tolist()]

    @cache  # noqa: B019 (as many as there are texts, and a world is small)
    def _row(self, node: int) -> Row:
        return Row(self.logp[node])

    @cached_property
    def log_probabilities(self) -> np.ndarray:
        """[texts] of each text with its end."""
        paths = np.zeros(len(self.logp))
        for node in range(1, len(paths)):
            parent, letter = divmod(node - 1, self.letters)
            paths[node] = paths[parent] + self.logp[parent, letter]
        return paths + self.logp[:, self.letters]

    @cached_property
    def texts(self) -> list[bytes]:
        """Each text."""
        texts = [b""]
        for node in range(1, len(self.logp)):
            parent, letter = divmod(node - 1, self.letters)
            texts.append(texts[parent] + self.vocabulary.table[letter])
        return texts

    @property
    def log_probability(self) -> float:
        """Logarithm of the probability that a text is valid."""
        return log_sum(self.log_probabilities[self.valid])

    @cached_property
    def posterior(self) -> dict[bytes, float]:
        """Valid texts with their probabilities."""
        nodes = np.flatnonzero(self.valid).tolist()
        return {self.texts[node]: math.exp(self.log_probabilities[node] - self.log_probability) for node in nodes}

    @cached_property
    def constraint(self) -> Constraint:
        """That a text is valid."""
        return Constraint(_OneOf([text.decode() for text in self.posterior]), "a world")

    def answers(
        self, options: SMCConfig, repetitions: int, random: np.random.Generator
    ) -> tuple[dict[bytes, float], float]:
        """The distribution of answers, and how the constraint's probability is estimated.

        Args:
            options: Method and particles.
            repetitions: How many times all particles are run.
            random: All draws.

        Returns:
            Text -> probability, on average over repetitions (their sum is below 1 where all particles died), and the
            mean of the estimates over the true probability.
        """
        mover = ConstrainedMover(options, self.constraint, self.vocabulary, self.letters, self.length)
        clouds = [
            Cloud([Particle()] * options.particles, mover, options.tau, options.resampling, each)
            for each in random.spawn(repetitions)
        ]
        run(self, [[]] * repetitions, clouds)
        sums: dict[bytes, float] = {}
        for cloud in clouds:
            for text, probability in cloud.posterior().items():
                sums[text] = sums.get(text, 0.0) + probability / repetitions
        estimate = np.mean([math.exp(cloud.log_mean_weight - self.log_probability) for cloud in clouds])
        return sums, float(estimate)

    def floor(self, draws: int) -> float:
        """Total variation that so many draws of the posterior itself have on average."""
        p = np.array(list(self.posterior.values()))
        return float(np.sqrt(2 / math.pi * p * (1 - p) / draws).sum() / 2)


class _OneOf:
    """Texts of a list."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = frozenset(texts)
        self._begun = frozenset(text[:size] for text in texts for size in range(len(text) + 1))

    def viable(self, text: str) -> bool:
        """Whether one of them begins so."""
        return text in self._begun

    def begins_character(self, text: str, begun: bytes) -> bool:
        """Never: letters are ASCII."""
        return False

    def complete(self, text: str) -> bool:
        """Whether it is one of them."""
        return text in self._texts


def total_variation(one: dict[bytes, float], other: dict[bytes, float]) -> float:
    """Half the sum of differences; what one of them lacks to 1 is no text of the other."""
    shared = sum(abs(one.get(text, 0.0) - other.get(text, 0.0)) for text in one.keys() | other.keys())
    return (shared + abs(sum(one.values()) - sum(other.values()))) / 2


def with_particles(options: SMCConfig, particles: int) -> SMCConfig:
    """The same method with another number of particles."""
    return replace(options, particles=particles)
