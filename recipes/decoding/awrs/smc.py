"""Sequential Monte Carlo: particles of a text under a constraint, their weights, and when they are drawn anew."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from recipes.decoding.awrs.method import log_sum

OPEN, ENDED, DEAD = "open", "ended", "dead"


@dataclass(frozen=True)
class Choice:
    """How a token of a particle came about.

    Attributes:
        token: It.
        nll: By the model, in nats.
        log_weight: What it did to the particle's weight, -inf of a dead end.
        rejected: Tokens that the constraint rejected before it.
        tests: Tests of the constraint.
        gave_up: Whether it is a dead end only because of the most rejections that are allowed.
    """

    token: int
    nll: float
    log_weight: float
    rejected: int = 0
    tests: int = 0
    gave_up: bool = False


@dataclass(frozen=True)
class Particle:
    """A text that is being written, and its weight.

    Attributes:
        choices: Its tokens, the end of the text included; the last one of a dead particle was rejected.
        text: Its bytes.
        log_weight: Logarithm of its weight.
        state: `OPEN`, `ENDED` or `DEAD`.
    """

    choices: tuple[Choice, ...] = ()
    text: bytes = b""
    log_weight: float = 0.0
    state: str = OPEN

    @property
    def tokens(self) -> tuple[int, ...]:
        """Its tokens."""
        return tuple(choice.token for choice in self.choices)

    @property
    def log_probability(self) -> float:
        """Of its tokens, by the model."""
        return -sum(choice.nll for choice in self.choices)

    def extend(self, choice: Choice, text: bytes, state: str) -> "Particle":
        """Going on by a token; a token that carries no weight leaves a dead particle."""
        state = DEAD if choice.log_weight == -math.inf else state
        text = self.text if state == DEAD else self.text + text
        return Particle((*self.choices, choice), text, self.log_weight + choice.log_weight, state)


class Mover(Protocol):
    """Who chooses the next token of a particle."""

    def move(self, particle: Particle, row: Any, random: np.random.Generator) -> Particle:
        """The particle one token further.

        Args:
            particle: An open one.
            row: What the model says behind it.
            random: All draws.
        """

    def reads(self, particle: Particle) -> bool:
        """Whether the model has to be asked before the particle moves."""


@dataclass
class Cloud:
    """The particles of a prompt.

    Args:
        particles: Open ones without tokens.
        mover: Chooses their tokens.
        tau: They are drawn anew where their effective number is below this share of them.
        resampling: How: "stratified", "systematic" or "multinomial".
        random: All draws.

    Attributes:
        sizes: Effective number of particles after each step, before they were drawn anew.
        resampled: Steps after which they were.
        tests: Of the constraint, by all particles, those that are gone included.
        moves: Tokens that all particles took.
    """

    particles: list[Particle]
    mover: Mover
    tau: float
    resampling: str
    random: np.random.Generator
    sizes: list[float] = field(default_factory=list)
    resampled: int = 0
    tests: int = 0
    moves: int = 0

    @property
    def open(self) -> list[Particle]:
        """Particles that go on; none if all are dead."""
        return [one for one in self.particles if one.state == OPEN]

    def step(self, rows: Callable[[Particle], Any]) -> None:
        """Move all open particles by a token, then draw all anew where their weights differ too much.

        Args:
            rows: (particle) -> what the model says behind it.
        """
        for number, particle in enumerate(self.particles):
            if particle.state == OPEN:
                moved = self.mover.move(particle, rows(particle), self.random)
                self.particles[number] = moved
                self.tests += moved.choices[-1].tests
                self.moves += 1
        weights = self.log_weights
        size = effective_size(weights)
        self.sizes.append(size)
        if 0 < size < self.tau * len(weights):
            chosen = ancestors(weights, self.random, self.resampling)
            weight = self.log_mean_weight
            self.particles = [replace(self.particles[each], log_weight=weight) for each in chosen]
            self.resampled += 1

    @property
    def log_weights(self) -> np.ndarray:
        """[particles]"""
        return np.array([one.log_weight for one in self.particles])

    @property
    def log_mean_weight(self) -> float:
        """Logarithm of the mean weight: estimates the probability that the model satisfies the constraint."""
        return log_sum(self.log_weights) - math.log(len(self.particles))

    def posterior(self) -> dict[bytes, float]:
        """Texts with their probabilities, the likeliest first; empty if all particles are dead.

        Equal texts count as one, whatever their tokens are.
        """
        weights = self.log_weights
        if (top := float(weights.max())) == -math.inf:
            return {}
        sums: dict[bytes, float] = {}
        for particle, weight in zip(self.particles, np.exp(weights - top).tolist(), strict=True):
            if weight:
                sums[particle.text] = sums.get(particle.text, 0.0) + weight
        total = sum(sums.values())
        return {text: each / total for text, each in sorted(sums.items(), key=lambda item: -item[1])}


def effective_size(log_weights: np.ndarray) -> float:
    """1 / sum of squared shares: how many particles of equal weight are worth as much; 0 if no weight is above 0."""
    top = float(log_weights.max())
    if top == -math.inf:
        return 0.0
    weights = np.exp(log_weights - top)
    return float(weights.sum() ** 2 / (weights**2).sum())


def ancestors(log_weights: np.ndarray, random: np.random.Generator, how: str = "stratified") -> np.ndarray:
    """Which particles are copied: each as often, on average, as its share of the weight times their number.

    Args:
        log_weights: [particles], at least one above -inf.
        random: Draws one number for each (stratified, multinomial) or one for all (systematic).
        how: "stratified", "systematic" or "multinomial".

    Returns:
        int64 [particles]
    """
    count = len(log_weights)
    weights = np.exp(log_weights - log_weights.max())
    if how == "multinomial":
        places = np.sort(random.random(count))
    else:
        places = (np.arange(count) + random.random(count if how == "stratified" else 1)) / count
    edges = weights.cumsum() / weights.sum()
    chosen = edges.searchsorted(places, side="right")
    last = int(np.flatnonzero(weights)[-1])  # rounding may leave the last edge below 1
    return np.minimum(chosen, last)


class Language(Protocol):
    """What says how texts go on. Rows are what it says behind one text each."""

    def start(self, prompts: Sequence[Sequence[int]]) -> Sequence[Any]:
        """A row for each prompt."""

    def extend(self, parents: Sequence[int], tokens: Sequence[int]) -> Sequence[Any]:
        """Rows behind one token more.

        Args:
            parents: Of each new row, the place of the text without that token among the last rows.
            tokens: The tokens.
        """


def run(language: Language, prompts: Sequence[Sequence[int]], clouds: Sequence[Cloud]) -> list[int]:
    """Move all particles of all prompts to their ends; equal texts of a prompt are read once.

    Args:
        language: Reads them, all in one forward a step.
        prompts: Token ids of each.
        clouds: The particles of each.

    Returns:
        Texts that were read behind each prompt, over all steps.
    """
    rows, read = language.start(prompts), [0] * len(prompts)
    places: dict[tuple[int, tuple[int, ...]], int] = {(number, ()): number for number in range(len(prompts))}
    while True:
        for number, cloud in enumerate(clouds):
            if cloud.open:
                cloud.step(partial(_row, rows, places, number))
        live = [(number, one) for number, cloud in enumerate(clouds) for one in cloud.open]
        if not live:
            return read
        wanted = list(dict.fromkeys((number, one.tokens) for number, one in live if clouds[number].mover.reads(one)))
        if wanted:
            parents = [places[number, tokens[:-1]] for number, tokens in wanted]
            rows = language.extend(parents, [tokens[-1] for _, tokens in wanted])
            places = {key: place for place, key in enumerate(wanted)}
            for number, _ in wanted:
                read[number] += 1


def _row(
    rows: Sequence[Any], places: dict[tuple[int, tuple[int, ...]], int], number: int, particle: Particle
) -> Any | None:
    """What was read behind a particle; None if it was not."""
    place = places.get((number, particle.tokens))
    return None if place is None else rows[place]
