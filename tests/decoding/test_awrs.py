"""Adaptive weighted rejection sampling: worked numbers, all orders enumerated, dead ends, and weights that are tiny."""

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from scipy.stats import chisquare

from recipes.decoding.awrs.method import (
    Draw,
    Rejection,
    decreasing,
    geometric,
    masked,
    recursive,
    two_loop,
    unweighted,
    with_replacement,
)
from recipes.decoding.awrs.movers import Row, RowRejection

FIRST = (np.array([0.5, 0.3, 0.15, 0.05]), np.array([0, 1, 1, 0]))
SECOND = (np.array([0.9, 0.06, 0.03, 0.01]), np.array([0, 0, 1, 1]))
NOISE = Iterator[np.ndarray]


def logs(p: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(p)


def rejection(p: np.ndarray, c: np.ndarray) -> Rejection:
    return Rejection(logs(p), lambda token: bool(c[token]))


def visits(p: np.ndarray, *orders: tuple[int, ...]) -> Callable[[], np.ndarray]:
    """Noise that brings about these orders, one a call."""
    keys = []
    for order in orders:
        noise = np.zeros(len(p))
        noise[list(order)] = -100.0 * np.arange(len(order)) - np.where(p > 0, logs(p), 0)[list(order)]
        keys.append(noise)
    return iter(keys).__next__


def chances(p: np.ndarray) -> dict[tuple[int, ...], float]:
    """Each order of sampling without replacement with its probability."""
    orders = {}
    for order in itertools.permutations(np.flatnonzero(p).tolist()):
        chance, rest = 1.0, 1.0
        for token in order:
            chance, rest = chance * p[token] / rest, rest - p[token]
        orders[order] = chance
    return orders


class Counting(Rejection):
    """Counts tests as if none were remembered."""

    asked = 0

    def accepts(self, token: int) -> bool:
        self.asked += 1
        return super().accepts(token)


def expectation(
    sampler: Callable[..., Draw], p: np.ndarray, c: np.ndarray, loops: int, scale: float = 1.0
) -> tuple[np.ndarray, float, float, float]:
    """Over all orders, E[w 1[x = a]] of each a, the variance of w, the expected tests, and as many without a memory."""
    weights, sums, orders = np.zeros(len(p)), np.zeros(3), chances(p)
    for combination in itertools.product(orders, repeat=loops):
        one = Counting(logs(scale * p), lambda token: bool(c[token]))
        draw = sampler(one, visits(p, *combination))
        chance = math.prod(orders[order] for order in combination)
        weights[draw.token] += chance * math.exp(draw.log_weight)
        sums += chance * np.array([math.exp(2 * draw.log_weight), draw.tests, one.asked])
    return weights, sums[0] - weights.sum() ** 2, sums[1], sums[2]


@pytest.mark.parametrize(
    ("sampler", "loops", "case", "variance", "tests"),
    [
        (two_loop, 2, FIRST, 0.0892, 2.97),
        (recursive, 1, FIRST, 0.0564, 2.63),
        (two_loop, 2, SECOND, 0.00725, 3.84),
        (recursive, 1, SECOND, 0.00093, 3.56),
    ],
)
def test_weights_are_unbiased_with_the_variance_and_tests_of_the_sheet(
    sampler: Callable[..., Draw], loops: int, case: tuple[np.ndarray, np.ndarray], variance: float, tests: float
) -> None:
    mean, spread, count, asked = expectation(sampler, *case, loops)
    assert mean == pytest.approx(case[0] * case[1], abs=1e-12)
    assert spread == pytest.approx(variance, rel=6e-3)
    assert asked == pytest.approx(tests, abs=6e-3)
    assert count < asked if sampler is two_loop else count == asked  # what the first loop accepted is known


@pytest.mark.parametrize("sampler", [two_loop, recursive])
def test_weights_are_unbiased_whatever_is_valid(sampler: Callable[..., Draw]) -> None:
    p = np.array([0.4, 0.0, 0.35, 0.25])
    for valid in itertools.product([0, 1], repeat=4):
        loops = 2 if sampler is two_loop else 1
        mean, spread, count, _ = expectation(sampler, p, np.array(valid), loops)
        assert mean == pytest.approx(p * valid, abs=1e-12) and count <= 4
        if valid == (1, 1, 1, 1):
            assert spread == pytest.approx(0, abs=1e-12) and mean.sum() == pytest.approx(1)
        # Probabilities that do not sum to 1, as those of a vocabulary that was cut.
        assert expectation(sampler, p, np.array(valid), loops, 0.3)[0] == pytest.approx(0.3 * p * valid, abs=1e-12)


def test_the_traces_of_the_sheet() -> None:
    p, c = FIRST
    draw = two_loop(rejection(p, c), visits(p, (0, 1, 2, 3), (2, 1, 3, 0)))
    assert (draw.token, draw.tests, draw.rejected) == (1, 3, 1) and math.exp(draw.log_weight) == pytest.approx(0.25)
    draw = recursive(rejection(p, c), visits(p, (0, 1, 3, 2)))
    assert (draw.token, draw.tests) == (1, 3) and math.exp(draw.log_weight) == pytest.approx(0.3)
    draw = unweighted(rejection(p, c), visits(p, (0, 3, 2, 1)))
    assert draw == Draw(2, 0.0, 3, 2)


def moments(draws: list[Draw], size: int) -> tuple[np.ndarray, float]:
    weights = np.exp([draw.log_weight for draw in draws])
    means = np.bincount([draw.token for draw in draws], weights, size) / len(draws)
    return means, float(weights.var())


@pytest.mark.parametrize(("accepts", "variance"), [(2, 0.092), (4, 0.037)])
def test_weights_of_several_acceptances(accepts: int, variance: float) -> None:
    random = np.random.default_rng(0)
    draws = [
        geometric(rejection(*FIRST), lambda: random.gumbel(size=4), lambda q: int(random.geometric(q)), accepts)
        for _ in range(6000)
    ]
    means, spread = moments(draws, 4)
    assert means == pytest.approx(FIRST[0] * FIRST[1], abs=0.012) and spread == pytest.approx(variance, rel=0.1)
    assert max(draw.tests for draw in draws) <= 4


def test_a_cap_on_rejections_changes_the_weight_and_not_its_mean() -> None:
    p, c = SECOND

    def draw(random: np.random.Generator, cap: float) -> Draw:
        return geometric(rejection(p, c), lambda: random.gumbel(size=4), lambda q: int(random.geometric(q)), 2, cap)

    free, capped = ([draw(np.random.default_rng(seed), cap) for seed in range(4000)] for cap in (math.inf, len(p)))
    assert moments(free, 4)[0] == pytest.approx(p * c, abs=0.005)
    assert moments(capped, 4)[0] == pytest.approx(p * c, abs=0.01)
    assert [one.log_weight for one in free] != [one.log_weight for one in capped]
    assert sum(one.log_weight == -math.inf for one in capped) > 3000  # none accepted before the cap


def test_sampling_with_replacement_is_unbiased_and_tests_far_more() -> None:
    random = np.random.default_rng(0)

    def tokens(p: np.ndarray) -> Iterator[int]:
        while True:
            yield int(random.choice(4, p=p))

    for (p, c), tests in ((FIRST, 4.44), (SECOND, 50)):
        draws = [with_replacement(rejection(p, c), tokens(p)) for _ in range(1500)]
        assert moments(draws, 4)[0] == pytest.approx(p * c, abs=0.05)
        assert np.mean([draw.tests for draw in draws]) == pytest.approx(tests, rel=0.08)
    draw = with_replacement(rejection(p, np.zeros(4)), tokens(p), max_rejects=100)
    assert draw.log_weight == -math.inf and draw.tests == 100


SAMPLERS: dict[str, Callable[[Rejection, np.random.Generator], Draw]] = {
    "two_loop": lambda one, random: two_loop(one, lambda: random.gumbel(size=len(one.logp))),
    "recursive": lambda one, random: recursive(one, lambda: random.gumbel(size=len(one.logp))),
    "unweighted": lambda one, random: unweighted(one, lambda: random.gumbel(size=len(one.logp))),
    "geometric": lambda one, random: geometric(
        one, lambda: random.gumbel(size=len(one.logp)), lambda q: int(random.geometric(max(q, 1e-18))), 3
    ),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_dead_ends_single_tokens_and_no_test_twice(name: str) -> None:
    random, p = np.random.default_rng(0), np.array([0.3, 0.0, 0.5, 0.2])
    for valid in range(4):
        asked: list[int] = []

        def test(token: int, valid: int = valid, asked: list[int] = asked) -> bool:
            asked.append(token)
            return token == valid

        draw = SAMPLERS[name](Rejection(logs(p), test), random)
        assert len(asked) == len(set(asked)) == draw.tests and 1 not in asked
        # A token without probability is never drawn; where no other is valid, a rejected one comes back with weight 0.
        assert (draw.token == valid) == (draw.log_weight > -math.inf) == (valid != 1)
    draw = SAMPLERS[name](Rejection(np.full(3, -math.inf), lambda token: True), random)
    assert draw.log_weight == -math.inf and draw.tests == 0


@pytest.mark.parametrize("name", ["two_loop", "recursive", "geometric"])
def test_weights_do_not_round_to_nothing(name: str) -> None:
    random, tiny = np.random.default_rng(0), 1e-300
    one = Rejection(np.array([math.log1p(-1e-15), math.log(tiny)]), lambda token: token == 1)
    draw = SAMPLERS[name](one, random)
    assert draw.token == 1 and draw.log_weight < -30 and math.isfinite(draw.log_weight)
    if name != "geometric":
        assert draw.log_weight == pytest.approx(math.log(tiny) - (math.log(2) if name == "two_loop" else 0))


@pytest.mark.parametrize("name", SAMPLERS)
def test_tokens_are_those_of_a_mask(name: str) -> None:
    random, p = np.random.default_rng(1), np.array([0.35, 0.25, 0.2, 0.1, 0.06, 0.04])
    c = np.array([0, 1, 0, 1, 1, 0])
    counts = np.bincount([SAMPLERS[name](rejection(p, c), random).token for _ in range(6000)], minlength=6)
    masks = [masked(logs(p), c == 1, lambda: random.gumbel(size=6), 6) for _ in range(6000)]
    assert all(math.exp(one.log_weight) == pytest.approx(0.41) for one in masks)
    for each in (counts, np.bincount([one.token for one in masks], minlength=6)):
        assert each[c == 0].sum() == 0
        assert chisquare(each[c == 1], 6000 * p[c == 1] / 0.41).pvalue > 1e-3
    assert masked(logs(p), np.zeros(6, bool), lambda: random.gumbel(size=6), 6).log_weight == -math.inf


def test_tokens_that_are_drawn_by_cumulative_probabilities_come_in_the_same_order() -> None:
    p, random = np.array([0.0, 0.7, 0.2, 0.08, 0.02]), np.random.default_rng(0)
    row = Row(logs(p))
    counts = dict.fromkeys(chances(p), 0)
    for _ in range(4000):
        one = RowRejection(row.logp, lambda token: False, row.total, row=row, random=random)
        counts[tuple(one.order(lambda: random.gumbel(size=5)))] += 1
    expected = np.array(list(chances(p).values()))
    kept = expected * 4000 > 5
    seen = np.array(list(counts.values()))
    assert (
        chisquare([*seen[kept], seen[~kept].sum()], [*4000 * expected[kept], 4000 * expected[~kept].sum()]).pvalue
        > 1e-3
    )
    one = RowRejection(row.logp, lambda token: False, row.total, row=row, random=random, rejected=[1, 2])
    assert {tuple(one.order(lambda: random.gumbel(size=5))) for _ in range(100)} == {(3, 4), (4, 3)}


def test_the_order_is_that_of_all_keys_however_few_come_first() -> None:
    keys = np.random.default_rng(0).normal(size=300)
    keys[::7] = -math.inf
    whole = [token for token in np.argsort(-keys).tolist() if keys[token] > -math.inf]
    assert list(decreasing(keys, 10)) == list(decreasing(keys)) == list(decreasing(keys, 1000)) == whole
    assert list(itertools.islice(decreasing(keys, 10), 5)) == whole[:5]
