"""Weights of sources: the worked example, and exact numbers against enumeration, differences and each other."""

from itertools import permutations

import numpy as np
import pytest

from recipes.retrieval.rag_importance.method import (
    Sources,
    ascend,
    differences,
    draws_needed,
    gradient,
    gradient_by_counts,
    gradient_by_enumeration,
    sampled_gradient,
    used,
    utility,
)
from recipes.retrieval.rag_importance.values import (
    draw_sources,
    leave_one_out,
    nearest_shapley,
    removals,
    sampled_shapley,
    vote,
)

RNG = np.random.default_rng(0)


def lists(questions: int, items: int) -> tuple[np.ndarray, np.ndarray]:
    """Utilities in hundredths, as form B rounds them, and probabilities, some of them 0 and 1."""
    exists = RNG.random((questions, items)).round(2)
    exists[RNG.random(exists.shape) < 0.2] = 1.0
    exists[RNG.random(exists.shape) < 0.1] = 0.0
    return RNG.random((questions, items)).round(1), exists


def one_source_each(items: int) -> Sources:
    return Sources(np.arange(items)[None], np.arange(items), items)


def test_the_worked_example() -> None:
    u, p = np.array([[1.0, 0.0, 1.0]]), np.full((1, 3), 0.5)
    assert utility(u, p, 2).tolist() == [0.4375]
    for way in (gradient, gradient_by_counts, gradient_by_enumeration):
        assert (way(u, p, 2) / 2).tolist() == [[0.375, -0.125, 0.375]]
    # A step of rate 1 in the paper's scale is one of rate 1 / (N K) in ours.
    assert ascend(u, one_source_each(3), 2, steps=1, rate=0.5).weights.tolist() == [0.875, 0.375, 0.875]
    assert utility(u, np.ones((1, 3)), 2).tolist() == [0.5] and utility(u, np.array([[1.0, 0, 1]]), 2).tolist() == [1.0]


@pytest.mark.parametrize("k", [1, 2, 4, 9])
def test_both_forms_are_what_all_sub_corpora_say(k: int) -> None:
    u, p = lists(6, 8)
    exact = gradient_by_enumeration(u, p, k)
    np.testing.assert_allclose(gradient(u, p, k), exact, atol=1e-12)
    np.testing.assert_allclose(gradient_by_counts(u, p, k), exact, atol=1e-12)
    for item in range(8):  # U~ is linear in each p: differences are exact at any width
        up, down = p.copy(), p.copy()
        up[:, item], down[:, item] = 1, 0
        np.testing.assert_allclose(k * (utility(u, up, k) - utility(u, down, k)), exact[:, item], atol=1e-12)
        half = (up + down) / 2
        np.testing.assert_allclose(utility(u, half, k), (utility(u, up, k) + utility(u, down, k)) / 2, atol=1e-12)


def test_g2_alone_is_wrong_where_fewer_than_k_exist() -> None:
    u, p = np.array([[1.0, 1.0]]), np.full((1, 2), 0.5)
    assert gradient(u, p, 3).tolist() == [[1.0, 1.0]]  # nothing is ever displaced: all of it is G1
    assert gradient_by_counts(u, p, 3).tolist() == [[1.0, 1.0]]


def test_what_is_known_of_the_utility() -> None:
    u, p = lists(5, 9)
    np.testing.assert_allclose(utility(u, np.ones_like(p), 4), u[:, :4].sum(1) / 4)
    assert not utility(u, np.zeros_like(p), 4).any()
    assert (gradient(np.ones_like(u), p, 4) >= -1e-12).all()
    later = np.ones_like(u)
    later[:, 2] = 0
    assert (gradient(later, p, 4)[:, 2] <= 1e-12).all()
    certain = p.copy()
    certain[:, :4] = 1
    assert not gradient(u, certain, 4)[:, 4:].any()  # four items exist before


def test_questions_in_blocks_and_lists_that_end_early(monkeypatch: pytest.MonkeyPatch) -> None:
    u, p = lists(7, 6)
    whole = gradient(u, p, 3)
    padded = gradient(np.pad(u, ((0, 0), (0, 2))), np.pad(p, ((0, 0), (0, 2))), 3)
    np.testing.assert_allclose(padded[:, :6], whole, atol=1e-12)
    monkeypatch.setattr("recipes.retrieval.rag_importance.method.BLOCK", 1)
    np.testing.assert_allclose(gradient(u, p, 3), whole, atol=1e-12)
    np.testing.assert_allclose(gradient_by_counts(u, p, 3), gradient_by_enumeration(u, p, 3), atol=1e-12)
    np.testing.assert_allclose(gradient(u, p, 3, epsilon=1e-9), whole, atol=1e-8)


def test_a_list_that_is_cut_is_off_by_no_more_than_epsilon() -> None:
    u, p = lists(40, 30)
    exact = gradient(u, p, 4)
    for epsilon in (0.3, 0.1, 0.01):
        cut = gradient(u, p, 4, epsilon=epsilon)
        assert np.abs(cut - exact).max() <= epsilon and not cut[:, -1].any()
    assert np.abs(cut - exact).max() > 0
    # To wait for K items only would not do: the first is certain, and without it nobody knows.
    u, p = np.array([[0.0, 1.0]]), np.array([[1.0, 1.0]])
    assert gradient(u, p, 1, epsilon=0.1).tolist() == [[-1.0, 0.0]]


def test_sub_corpora_estimate_the_gradient() -> None:
    u, p = lists(4, 7)
    estimate = sampled_gradient(u, p, 3, 4000, np.random.default_rng(1))
    np.testing.assert_allclose(estimate, gradient(u, p, 3), atol=0.06)
    assert draws_needed(0.1, 0.05) == 738
    exists = np.array([[True, False, True, True]])
    # Items 1 and 3 are used; 2 would displace 3; without 1 or 3 item 4 would be used.
    values = differences(np.array([[0.5, 1.0, 0.2, 0.9]]), exists, 2)
    np.testing.assert_allclose(values, [[0.5 - 0.9, 1.0 - 0.2, 0.2 - 0.9, 0.0]])


def shapley(u: np.ndarray, k: int) -> np.ndarray:
    """K times the Shapley values of one list, by all orders."""
    total, orders = np.zeros(len(u)), list(permutations(range(len(u))))
    for order in orders:
        here = np.zeros((1, len(u)), bool)
        worth = 0.0
        for item in order:
            here[0, item] = True
            total[item] += (used(here, k)[0] @ u) - worth
            worth = used(here, k)[0] @ u
    return total / len(orders)


@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_shapley_values(k: int) -> None:
    u, _ = lists(2, 6)
    exact = np.stack([shapley(row, k) for row in u])
    six = np.array([6, 6])
    np.testing.assert_allclose(nearest_shapley(u, six, k), exact, atol=1e-12)
    np.testing.assert_allclose(nearest_shapley(np.pad(u, ((0, 0), (0, 1))), six, k)[:, :6], exact, atol=1e-12)
    # They are the mean of the gradient over all p alike: of degree 5 in p, so three nodes integrate it exactly.
    nodes, masses = np.polynomial.legendre.leggauss(3)
    mean = sum(
        mass / 2 * gradient(u, np.full_like(u, (node + 1) / 2), k) for node, mass in zip(nodes, masses, strict=True)
    )
    np.testing.assert_allclose(mean, exact, atol=1e-12)
    np.testing.assert_allclose(sampled_shapley(u, six, k, 4000, np.random.default_rng(0)), exact, atol=0.06)


@pytest.mark.parametrize("grouping", ["mean_after_step", "shared"])
def test_weights_stay_in_their_bounds_and_climb(grouping: str) -> None:
    passage = RNG.integers(40, size=(30, 9))
    passage[::3, -2:] = -1
    sources = Sources(passage, RNG.integers(5, size=40), 7)  # two sources are never retrieved
    u = (RNG.random(passage.shape) < (sources.of_item + 1) / 6) * (passage >= 0)
    learnt = ascend(u, sources, 3, steps=40, rate=0.02, grouping=grouping)
    assert ((learnt.weights >= 0) & (learnt.weights <= 1)).all() and (learnt.weights[5:] == 0.5).all()
    assert (np.diff(learnt.utilities) >= -1e-9).all() and learnt.utilities[-1] > learnt.utilities[0]
    assert learnt.weights[0] < learnt.weights[4]
    # A rate is worth the same for twice as many questions.
    twice = Sources(np.concatenate([passage, passage + 40 * (passage >= 0)]), np.tile(sources.of_passage, 2), 7)
    again = ascend(np.concatenate([u, u]), twice, 3, steps=40, rate=0.02, grouping=grouping)
    np.testing.assert_allclose(again.weights, learnt.weights, atol=1e-9)


def test_items_of_one_source_in_a_list_add_up() -> None:
    u, p = np.array([[1.0, 0.0, 1.0]]), np.full((1, 3), 0.5)
    sources = Sources(np.array([[0, 1, 0]]), np.arange(2), 2)
    step = ascend(u, sources, 2, steps=1, rate=0.1).weights - 0.5
    slopes = gradient(u, p, 2)[0]
    np.testing.assert_allclose(step, [0.1 * (slopes[0] + slopes[2]), 0.1 * slopes[1]])
    assert gradient(u[:, ::-1], p, 2)[0].tolist() == slopes[::-1].tolist()
    assert gradient(np.array([[0.0, 1.0, 1.0]]), p, 2)[0].tolist() != slopes.tolist()  # the order counts


def test_the_vote() -> None:
    answers = np.array([[2, 0, 0, 1, 1], [1, 0, 0, 1, 0], [3, 3, 3, 3, 3]])
    keep = np.ones((3, 5), bool)
    keep[2] = False
    assert vote(answers, keep, 5).tolist() == [0, 0, -1]
    assert vote(answers, keep, 4).tolist() == [0, 1, -1]  # of equally many the first seen
    keep[0, 1] = False
    assert vote(answers, keep, 3).tolist() == [2, 0, -1]  # 2, 0, 1: the next that is kept moves up


def test_leaving_one_out_is_a_vote_without_it() -> None:
    passage = RNG.integers(30, size=(25, 8))
    passage[::4, -3:] = -1
    sources = Sources(passage, RNG.integers(6, size=30), 6)
    answers, right = RNG.integers(3, size=passage.shape), RNG.integers(3, size=25)
    item, there = sources.of_item, passage >= 0
    base = (vote(answers, there, 3) == right).sum()
    slow = [base - (vote(answers, there & (item != source), 3) == right).sum() for source in range(6)]
    assert leave_one_out(answers, right, sources, 3).tolist() == slow


def test_the_lowest_sources_go_and_equal_ones_together() -> None:
    weights, counts = np.array([0.9, 0.1, 0.5, 0.5, 0.2]), np.array([4, 2, 2, 2, 0])
    kept = removals(weights, counts, (0.0, 0.2, 0.3, 0.9))
    assert [each.tolist() for each in kept] == [
        [True] * 5,
        [True, False, True, True, True],  # the last one was never retrieved
        [True, False, False, False, True],
        [True] * 5,  # all would go
    ]
    assert all(each.all() for each in removals(np.ones(5), counts, (0.0, 0.5, 0.9)))
    drawn = draw_sources(np.array([0.0, 1.0, 0.25]), 4000, np.random.default_rng(0)).mean(0)
    np.testing.assert_allclose(drawn, [0, 1, 0.25], atol=0.03)
