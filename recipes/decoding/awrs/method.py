"""Adaptive weighted rejection sampling: a token that a constraint accepts, and an unbiased weight, from a few tests.

For log probabilities logp [V] and a test c, each sampler draws x from p c / Z, Z = sum_y p(y) c(y), and a weight w with

    E[w 1[x = a]] = p(a) c(a)    for every token a, so that E[w] = Z

Tokens are tried in the order of their keys logp - log(-log u), u uniform: sampling without replacement, in which no
token that was rejected is tried again. Probabilities are kept as logarithms throughout, so that a weight is right where
almost all probability was rejected. `logp` need not be normalised: weights are multiplied by its sum.

Source: arXiv 2504.05410, definition 2 (`two_loop`); `recursive` and `geometric` as in the library of its authors.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

Noise = Callable[[], np.ndarray]  # fresh standard Gumbel noise [V] at each call, finite
FIRST = 64  # tokens that are put in order before any is tried; the others only if all of these are rejected


@dataclass(frozen=True)
class Draw:
    """A token and its weight.

    Attributes:
        token: It; of a dead end a token that was rejected, or the first where none has a probability.
        log_weight: Logarithm of the weight, -inf of a dead end: no token is accepted.
        tests: Tokens that were tested.
        rejected: How many were rejected before the one that was drawn.
        gave_up: Whether it is a dead end only because of the most rejections that are allowed.
    """

    token: int
    log_weight: float
    tests: int
    rejected: int
    gave_up: bool = False


@dataclass
class Rejection:
    """Tokens of one distribution that a constraint has been asked about.

    Args:
        logp: float64 [V]; tokens of -inf are never tried.
        test: Whether the constraint accepts a token.
        total: Logarithm of the sum of the probabilities; None: it is computed.

    Attributes:
        rejected: Tokens that were rejected, in order.
        answers: What was said of each token that was tested: none is tested twice.
    """

    logp: np.ndarray
    test: Callable[[int], bool]
    total: float | None = None
    rejected: list[int] = field(default_factory=list)
    answers: dict[int, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.total is None:
            self.total = log_sum(self.logp)

    @property
    def log_total(self) -> float:
        """Logarithm of the sum of the probabilities."""
        assert self.total is not None
        return self.total

    def accepts(self, token: int) -> bool:
        """Whether the constraint accepts a token; one that it does not is out from now on."""
        if token not in self.answers:
            self.answers[token] = bool(self.test(token))
            if not self.answers[token]:
                self.rejected.append(token)
        return self.answers[token]

    def order(self, noise: Noise) -> Iterator[int]:
        """Tokens that have not been rejected, in an order drawn without replacement."""
        keys = self.logp + noise()
        if self.rejected:
            keys[self.rejected] = -math.inf
        return decreasing(keys)

    @property
    def log_rest(self) -> float:
        """Logarithm of the share of the probability that has not been rejected, at most 0."""
        if not self.rejected:
            return 0.0
        share = log_sum(self.logp[self.rejected]) - self.log_total
        if share < -math.log(2):
            return math.log1p(-math.exp(share))
        rest = self.logp.copy()  # 1 - share would lose its digits
        rest[self.rejected] = -math.inf
        return min(log_sum(rest) - self.log_total, 0.0)

    def draw(self, token: int, log_weight: float, rejected: int) -> Draw:
        """A token that was drawn."""
        return Draw(token, self.log_total + log_weight, len(self.answers), rejected)

    def dead_end(self, gave_up: bool = False) -> Draw:
        """No token is accepted. Never the end of the text unless it was rejected: it might be valid."""
        token = self.rejected[-1] if self.rejected else 0
        return Draw(token, -math.inf, len(self.answers), len(self.rejected), gave_up)


def log_sum(logs: np.ndarray) -> float:
    """log sum exp; -inf of nothing."""
    top = float(logs.max(initial=-math.inf))
    return top if math.isinf(top) else top + math.log(float(np.exp(logs - top).sum()))


def decreasing(keys: np.ndarray, first: int = FIRST) -> Iterator[int]:
    """Indices by decreasing key, those of -inf left out; only as many are put in order as are asked for.

    Args:
        keys: [V]
        first: How many are put in order at first; all others if these do not suffice.
    """
    if len(keys) > first:
        top = np.argpartition(keys, len(keys) - first)[len(keys) - first :]
        yield from decreasing_all(keys, top)
        rest = np.ones(len(keys), bool)
        rest[top] = False
        yield from decreasing_all(keys, np.flatnonzero(rest))
    else:
        yield from decreasing_all(keys, np.arange(len(keys)))


def decreasing_all(keys: np.ndarray, indices: np.ndarray) -> Iterator[int]:
    """Some indices by decreasing key, those of -inf left out."""
    indices = indices[keys[indices] > -math.inf]
    yield from indices[np.argsort(-keys[indices], kind="stable")].tolist()


def unweighted(rejection: Rejection, noise: Noise) -> Draw:
    """The first token that is accepted, weight 1: local constraining, without a mask (`none`)."""
    token = next(filter(rejection.accepts, rejection.order(noise)), None)
    if token is None:
        return rejection.dead_end()
    return Draw(token, 0.0, len(rejection.answers), len(rejection.rejected))


def two_loop(rejection: Rejection, noise: Noise) -> Draw:
    """The paper's estimator: draw until one is accepted, and again among those that are left.

    With n0 and n1 rejected in the two loops, those of the first having the probability psi0:
    w = (1 - psi0) / (n0 + n1 + 1).
    """
    first = next(filter(rejection.accepts, rejection.order(noise)), None)
    if first is None:
        return rejection.dead_end()
    rest, before = rejection.log_rest, len(rejection.rejected)
    next(filter(rejection.accepts, rejection.order(noise)))  # the first one is still among them
    return rejection.draw(first, rest - math.log(len(rejection.rejected) + 1), before)


def recursive(rejection: Rejection, noise: Noise) -> Draw:
    """The library's estimator: one order, and a test of the token behind the one that is accepted.

    The library multiplies (1 - q_i) over rejected tokens, q_i = p_i / (1 - r_i), r_i what was rejected before. That
    product is 1 - r, and with it w = 1 - r if the next token is accepted too, else (1 - r) q = p_x; if no token is
    left, both are equal.
    """
    order = rejection.order(noise)
    first = next(filter(rejection.accepts, order), None)
    if first is None:
        return rejection.dead_end()
    rest, before = rejection.log_rest, len(rejection.rejected)
    following = next(order, None)
    if following is None or rejection.accepts(following):
        return rejection.draw(first, rest, before)
    return rejection.draw(first, min(float(rejection.logp[first]) - rejection.log_total, rest), before)


def geometric(
    rejection: Rejection,
    noise: Noise,
    trials: Callable[[float], int],
    max_accepts: int = 2,
    max_rejects: float = math.inf,
) -> Draw:
    """Sampling with replacement until `max_accepts` acceptances, in which no token is tested twice.

    Before each draw come as many rejections of tokens that are known to be rejected as there would be.

    Args:
        rejection: The distribution.
        noise: Fresh noise for each of the rounds.
        trials: Draws from a geometric distribution, of a probability, at least 1.
        max_accepts: At least 2; more make the weight less random.
        max_rejects: Rejections after which it ends; the weight stays unbiased. As many as tokens is not infinity.
    """
    first, before, accepted, rejects = None, 0, 0, 0
    while accepted < max_accepts and rejects < max_rejects:
        for token in rejection.order(noise):
            rejects += trials(math.exp(rejection.log_rest)) - 1
            if rejects >= max_rejects:
                break
            if rejection.accepts(token):
                first, before = (token, len(rejection.rejected)) if first is None else (first, before)
                accepted += 1
                break
            rejects += 1
            if rejects >= max_rejects:
                break
        else:
            return rejection.dead_end()
    if first is None:
        return rejection.dead_end(gave_up=True)
    return rejection.draw(first, stopped_share(accepted, min(rejects, max_rejects), max_accepts), before)


def with_replacement(
    rejection: Rejection, tokens: Iterator[int], max_accepts: int = 2, max_rejects: float = 1000
) -> Draw:
    """Plain rejection sampling until `max_accepts` acceptances: every draw is a test. An ablation.

    Args:
        rejection: The distribution.
        tokens: Independent draws from it.
        max_accepts: At least 2.
        max_rejects: Rejections after which it ends; where no token is accepted, nothing else ends it.
    """
    first, before, accepted, rejects = None, 0, 0, 0
    while accepted < max_accepts and rejects < max_rejects:
        token = next(tokens)
        if rejection.accepts(token):
            first, before = (token, rejects) if first is None else (first, before)
            accepted += 1
        else:
            rejects += 1
    tests = accepted + rejects
    if first is None:
        return Draw(rejection.rejected[-1], -math.inf, tests, rejects, gave_up=True)
    return Draw(first, rejection.log_total + stopped_share(accepted, rejects, max_accepts), tests, before)


def stopped_share(accepted: int, rejects: float, max_accepts: int) -> float:
    """Logarithm of the unbiased estimate of a probability from draws that end at a number of successes, or of failures.

    min(A - 1, a) / (a + r - 1) of a successes and r failures. Source: Girshick, Mosteller and Savage, 1946.
    """
    return math.log(min(max_accepts - 1, accepted)) - math.log(accepted + rejects - 1)


def masked(logp: np.ndarray, accepted: np.ndarray, noise: Noise, tests: int) -> Draw:
    """A draw with all tokens tested: w is exactly Z.

    Args:
        logp: float64 [V].
        accepted: bool [V] what the constraint accepts.
        noise: Gumbel noise.
        tests: How many tests that took.
    """
    kept = np.where(accepted, logp, -math.inf)
    keys = kept + noise()
    token = int(keys.argmax())
    if keys[token] == -math.inf:
        return Draw(int(np.argmax(logp)), -math.inf, tests, 0)
    return Draw(token, min(log_sum(kept), log_sum(logp)), tests, 0)
