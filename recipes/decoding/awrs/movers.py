"""How the next token of a particle is chosen: under the constraint with a weight, or freely and tested afterwards."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np

from recipes.core.data.text.vocabulary_bytes import VocabularyBytes
from recipes.decoding.awrs.config import SMCConfig
from recipes.decoding.awrs.constraints import Constraint
from recipes.decoding.awrs.method import (
    Draw,
    Noise,
    Rejection,
    decreasing,
    geometric,
    log_sum,
    masked,
    recursive,
    two_loop,
    unweighted,
    with_replacement,
)
from recipes.decoding.awrs.smc import ENDED, OPEN, Choice, Particle

REPLACED = 1000  # rejections with replacement after which a draw ends, where no other number is given
TINY = np.finfo(np.float32).tiny
MISSES = 24  # draws in a row of tokens that were tried before, after which the others get keys
LIKELY = 2 / 3  # probability of a token from which on `auto` counts on several acceptances


@dataclass
class Row:
    """What a model says behind a text.

    Args:
        logp: [V] log probabilities; the end of the text has one token, those that can be in no text have -inf.
    """

    logp: np.ndarray

    @cached_property
    def total(self) -> float:
        """Logarithm of the sum of the probabilities."""
        return math.log(self._edges[-1]) if self._edges[-1] else -math.inf

    @cached_property
    def _edges(self) -> np.ndarray:
        """float64 [V] cumulative probabilities."""
        return np.exp(self.logp).cumsum(dtype=np.float64)

    def proposal(self, temperature: float) -> "Row":
        """The row at another temperature, normalised."""
        if temperature == 1:
            return self
        logq = self.logp / temperature
        return Row(logq - log_sum(logq))

    def draw(self, random: np.random.Generator) -> int:
        """A token, drawn."""
        edges = self._edges
        place = edges.searchsorted(random.random() * edges[-1], side="right")
        return int(place if place < len(edges) else edges.searchsorted(edges[-1]))


@dataclass
class RowRejection(Rejection):
    """The same order drawn in another way, which touches few tokens as long as most probability is left.

    Tokens are drawn with replacement by their cumulative probabilities, and those that have been tried are passed over;
    when many draws in a row were, the rest is put in order by keys.

    Args:
        row: The distribution.
        random: All draws.
    """

    row: Row = field(kw_only=True)
    random: np.random.Generator = field(kw_only=True)

    def order(self, noise: Noise) -> Iterator[int]:
        """Tokens that have not been rejected, in an order drawn without replacement."""
        tried, misses = set(self.rejected), 0
        while misses < MISSES and self.log_total > -math.inf:
            token = self.row.draw(self.random)
            if token in tried:
                misses += 1
                continue
            misses = 0
            tried.add(token)
            yield token
        keys = self.logp + noise()
        keys[list(tried)] = -math.inf
        yield from decreasing(keys)


@dataclass
class ConstrainedMover:
    """Draws tokens as a method says, for one constraint.

    Args:
        options: The method.
        constraint: It.
        vocabulary: Bytes of tokens.
        end: The token that ends a text.
        longest: Tokens after which a text has to end.

    Attributes:
        walks: Tests that each mask took: where a token is rejected, those that begin like it are not tested.
    """

    options: SMCConfig
    constraint: Constraint
    vocabulary: VocabularyBytes
    end: int
    longest: int
    walks: list[int] = field(default_factory=list)
    _masks: dict[bytes, np.ndarray] = field(default_factory=dict)

    @property
    def weighted(self) -> bool:
        """Whether particles have weights, so that a text that is cut off has to be given the end that it lacks."""
        return self.options.method in ("twisted", "rerank") or (
            self.options.method != "base" and self.options.estimator != "none"
        )

    def reads(self, particle: Particle) -> bool:
        """Whether the model is asked; not of a text without weight that is cut off."""
        return self.weighted or len(particle.choices) < self.longest

    def move(self, particle: Particle, row: Row, random: np.random.Generator) -> Particle:
        """The particle one token further; at `longest` tokens it ends."""
        if len(particle.choices) == self.longest:
            return self._cut(particle, row)
        method = self.options.method
        if method == "mask":
            draw = self._masked(particle, row, random)
        elif method == "awrs":
            draw = self._rejection(particle, row, random)
        else:
            draw = self._free(particle, row, random)
        nll = -float(row.logp[draw.token])
        choice = Choice(draw.token, nll, draw.log_weight, draw.rejected, draw.tests, draw.gave_up)
        return particle.extend(choice, self.vocabulary.table[draw.token], ENDED if draw.token == self.end else OPEN)

    def accepts(self, text: bytes, token: int) -> bool:
        """Whether the constraint accepts a token behind a text."""
        if token == self.end:
            return self.constraint.complete(text)
        return self.constraint.viable(text + self.vocabulary.table[token])

    def _cut(self, particle: Particle, row: Row | None) -> Particle:
        """The end, whether it is drawn or not: with its probability as a weight, or, without weights, none."""
        if not self.weighted:
            return Particle(particle.choices, particle.text, particle.log_weight, ENDED)
        assert row is not None
        logp, valid = float(row.logp[self.end]), self.constraint.complete(particle.text)
        return particle.extend(Choice(self.end, -logp, logp if valid else -math.inf, 0, 1), b"", ENDED)

    def _rejection(self, particle: Particle, row: Row, random: np.random.Generator) -> Draw:
        options, proposal = self.options, row.proposal(self.options.proposal_temperature)
        rejection = RowRejection(
            proposal.logp, partial(self.accepts, particle.text), proposal.total, row=proposal, random=random
        )
        draw = estimate(options, rejection, proposal, random)
        if proposal is row or draw.log_weight == -math.inf:
            return draw
        ratio = float(row.logp[draw.token] - proposal.logp[draw.token])
        return Draw(draw.token, draw.log_weight + ratio, draw.tests, draw.rejected)

    def _masked(self, particle: Particle, row: Row, random: np.random.Generator) -> Draw:
        tests = int((row.logp > -math.inf).sum())
        draw = masked(row.logp, self.mask(particle.text), lambda: gumbel(random, len(row.logp)), tests)
        if self.options.estimator == "none" and draw.log_weight > -math.inf:
            return Draw(draw.token, 0.0, draw.tests, draw.rejected)
        return draw

    def mask(self, text: bytes) -> np.ndarray:
        """bool [V]: what the constraint accepts behind a text; the same for all particles with this text."""
        if text not in self._masks:
            accepted, tests = walk(self.vocabulary, lambda data: self.constraint.viable(text + data))
            accepted[self.end] = self.constraint.complete(text)
            self.walks.append(tests + 1)
            self._masks[text] = accepted
        return self._masks[text]

    def _free(self, particle: Particle, row: Row, random: np.random.Generator) -> Draw:
        """A token of the model's own distribution; the constraint is asked as the method says."""
        token, method = row.draw(random), self.options.method
        if method == "base" or (method == "rerank" and token != self.end):
            return Draw(token, 0.0, 0, 0)
        return Draw(token, 0.0 if self.accepts(particle.text, token) else -math.inf, 1, 0)


def estimate(options: SMCConfig, rejection: Rejection, row: Row, random: np.random.Generator) -> Draw:
    """A token and its weight by the estimator that the options name."""
    name, most = options.estimator, options.max_rejects

    def noise() -> np.ndarray:
        return gumbel(random, len(rejection.logp))

    def trials(probability: float) -> int:
        return int(random.geometric(max(probability, 1e-18)))

    if name == "auto":
        several = options.max_accepts > 2 or float(rejection.logp.max()) - rejection.log_total >= math.log(LIKELY)
        name = "geometric" if several else "recursive"
    if name == "geometric":
        return geometric(rejection, noise, trials, options.max_accepts, math.inf if most is None else most)
    if name == "with_replacement":
        return with_replacement(rejection, _draws(row, random), options.max_accepts, most or REPLACED)
    return {"two_loop": two_loop, "recursive": recursive, "none": unweighted}[name](rejection, noise)


def _draws(row: Row, random: np.random.Generator) -> Iterator[int]:
    while True:
        yield row.draw(random)


def gumbel(random: np.random.Generator, size: int) -> np.ndarray:
    """[size] standard Gumbel noise: -log of exponential draws, finite."""
    noise: np.ndarray = -np.log(np.maximum(random.standard_exponential(size, dtype=np.float32), TINY))
    return noise


def walk(vocabulary: VocabularyBytes, viable: Callable[[bytes], bool]) -> tuple[np.ndarray, int]:
    """Which tokens a constraint accepts, and how many tests that took.

    Tokens are tested in the order of their bytes. Behind one that is rejected, the shortest beginning of it that is
    rejected is looked for, and all tokens with this beginning are left out: no constraint accepts what begins so.

    Returns:
        bool [V] and the number of tests.
    """
    accepted = np.zeros(len(vocabulary), bool)
    tokens, tests, at = vocabulary.starting_with(b"").tolist(), 0, 0
    while at < len(tokens):
        data, tests = vocabulary.table[tokens[at]], tests + 1
        if viable(data):
            accepted[tokens[at]] = True
            at += 1
            continue
        low, high = 0, len(data)  # the first `low` bytes are viable, the first `high` are not
        while high - low > 1:
            middle, tests = (low + high) // 2, tests + 1
            low, high = (middle, high) if viable(data[:middle]) else (low, middle)
        at = max(vocabulary.behind(data[:high]), at + 1)
    return accepted, tests
