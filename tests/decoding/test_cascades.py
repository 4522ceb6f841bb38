"""Deferral rules and their curves, on numbers worked out by hand; the tasks that models answer."""

import numpy as np
import pytest

from recipes.decoding.cascades.method import (
    ALPHAS,
    areas,
    best_alpha,
    chow_average,
    chow_quantile,
    chow_sum,
    curve,
    quantile_features,
    random_area,
    ranks,
)
from recipes.decoding.cascades.tasks import EQUAL, EQUAL_DIGITS, TASKS, column_sums, draw_questions, number_words

A, B, C = np.array([-0.05, -0.02, -2.5, -0.03]), np.array([-0.4, -0.4]), np.full(20, -0.2)
ROWS = [A, B, C]


@pytest.mark.parametrize(
    ("scores", "expected", "first"),
    [
        (chow_sum(ROWS), [-2.6, -0.8, -4.0], 2),
        (chow_average(ROWS), [-0.65, -0.4, -0.2], 0),
        (chow_quantile(ROWS, 0.0), [-2.5, -0.4, -0.2], 0),
        (chow_quantile(ROWS, 0.25), [-0.6625, -0.4, -0.2], 0),
        (chow_quantile(ROWS, 0.5), [-0.04, -0.4, -0.2], 1),
    ],
)
def test_three_rules_defer_three_different_answers(scores: np.ndarray, expected: list[float], first: int) -> None:
    np.testing.assert_allclose(scores, expected, atol=1e-12)
    assert int(np.argmin(ranks(scores, 0))) == first


def test_of_one_token_all_rules_say_the_same() -> None:
    rows = [np.array([-0.3]), np.array([-1.5])]
    for scores in (chow_sum(rows), chow_average(rows), *(chow_quantile(rows, alpha) for alpha in ALPHAS)):
        np.testing.assert_allclose(scores, [-0.3, -1.5])


def test_a_certain_token_changes_the_mean_and_not_the_sum() -> None:
    longer = [np.append(A, 0.0)]
    assert chow_sum(longer) == chow_sum([A]) and chow_average(longer) > chow_average([A])
    shuffled = [A[[2, 0, 3, 1]]]
    assert all(chow_quantile(shuffled, alpha) == chow_quantile([A], alpha) for alpha in ALPHAS)


def test_the_worked_curve() -> None:
    small, large = np.array([1.0, 0, 0, 1, 0]), np.array([1.0, 1, 0, 1, 1])
    order = ranks(np.array([0.9, 0.2, 0.5, 0.8, 0.1]), 0)
    np.testing.assert_allclose(curve(small, large, order), [0.4, 0.6, 0.8, 0.8, 0.8, 0.8])
    assert areas(small, large, order).mean() == pytest.approx(0.72) and random_area(small, large) == pytest.approx(0.6)


def test_areas_are_those_of_the_trapezoidal_rule_and_of_both_directions() -> None:
    random = np.random.default_rng(0)
    small, large, scores = random.random(50), random.random(50), random.normal(size=50)
    order = ranks(scores, 0)
    points = curve(small, large, order)
    assert areas(small, large, order).mean() == pytest.approx(float(np.trapezoid(points, dx=1 / 50)))
    assert points[0] == pytest.approx(small.mean()) and points[-1] == pytest.approx(large.mean())
    both = areas(small, large, order).mean() + areas(small, large, ranks(-scores, 0)).mean()
    assert both == pytest.approx(small.mean() + large.mean())
    np.testing.assert_array_equal(ranks(np.exp(scores), 0), order)
    best = curve(small, large, ranks(small - large, 0))
    assert (best >= points - 1e-12).all()


def test_ties_are_broken_the_same_way_each_time() -> None:
    assert sorted(ranks(np.zeros(9), 3)) == list(range(9))
    np.testing.assert_array_equal(ranks(np.zeros(9), 3), ranks(np.zeros(9), 3))


def test_the_quantile_is_chosen_by_area() -> None:
    # The least likely token tells right answers from wrong ones, the median does not.
    rows = [np.array([-0.1, -0.1, -0.2]), np.array([-0.1, -0.1, -3.0]), np.array([-0.3, -0.3, -0.3])]
    assert best_alpha(rows, np.array([1.0, 0, 1]), np.ones(3), 0) == 0.0


def test_features_are_cut_quantiles() -> None:
    features = quantile_features([np.array([-50.0, -1.0]), A], extra=True)
    assert features.shape == (2, 18) and features[0, 0] == -20 and features[0, 14] == -1
    np.testing.assert_allclose(features[1, -3:], [-2.6, -0.65, np.log(4)])


def test_answers_of_the_tasks() -> None:
    assert number_words(342) == "three hundred forty-two" and number_words(600) == "six hundred"
    assert column_sums(47, 385) == "12;13;4;432" and column_sums(1, 2) == "3;3"
    questions = draw_questions(tuple(TASKS), 600, 100, 100, False, 0)
    prompts = [each.prompt for part in (questions.train, questions.validation, questions.test) for each in part]
    assert len(set(prompts)) == len(prompts) and len(questions.test) == len(questions.validation) == 100
    for each in questions.test:
        task, _, asked = each.prompt.rstrip("=").partition(" ")
        if task == "date":
            day, month, year = each.answer.split()
            assert asked.startswith(year) and asked.endswith(f"{int(day):02d}") and month.isalpha()
        if task in EQUAL:
            assert sorted(asked) == sorted(each.answer)
    lengths = {len(each.answer) for each in draw_questions(EQUAL, 60, 20, 20, True, 0).test}
    assert lengths == {EQUAL_DIGITS}
