"""Macro-F1 as a mean over examples: exact in value, and as wide as a bootstrap finds it."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from recipes.core.evaluation.classification import add_classification, macro_f1_values
from recipes.core.evaluation.scores import Scores


def draws(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.minimum(random.integers(0, 5, n), 3)
    return labels, np.where(random.random(n) < 0.6, labels, random.integers(0, 4, n))


def test_worked_values() -> None:
    # Class 0: two texts, one found, one prediction: F1 = 2/3. Class 1: one text, found, two predictions: F1 = 2/3.
    values = macro_f1_values(np.array([0, 0, 1]), np.array([0, 1, 1]))
    assert values.mean() == pytest.approx(2 / 3)
    # Influences: 3 (2 - 2/3 x 2) / 3 = 2/3 of a right text in its class, 3 (0 - 2/3) / 3 = -2/3 of the wrong one.
    assert values == pytest.approx([2 / 3 + 1 / 3, 2 / 3 - 2 / 3, 2 / 3 + 1 / 3])


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_is_the_macro_f1_and_the_spread_that_of_resamples(seed: int) -> None:
    labels, predictions = draws(600, seed)
    values = macro_f1_values(labels, predictions)
    assert values.mean() == pytest.approx(f1_score(labels, predictions, average="macro"))
    random = np.random.default_rng(seed)
    rows = [random.integers(0, 600, 600) for _ in range(300)]
    resampled = [macro_f1_values(labels[each], predictions[each]).mean() for each in rows]
    assert values.std() / 600**0.5 == pytest.approx(np.std(resampled), rel=0.15)


def test_a_class_that_is_never_predicted_counts_zero_and_one_that_is_only_predicted_not_at_all() -> None:
    assert macro_f1_values(np.array([0, 0, 1]), np.array([0, 0, 0])).mean() == pytest.approx((4 / 5 + 0) / 2)
    assert macro_f1_values(np.array([0, 0]), np.array([0, 5])).mean() == pytest.approx(2 / 3)


def test_every_example_has_one_row_of_each_metric() -> None:
    scores, (labels, predictions) = Scores(), draws(20)
    names = [f"row-{i}" for i in range(20)]
    add_classification(scores, "probe_", "probe", names, names[::-1], labels, predictions)
    overall = scores.overall()
    assert overall["probe_accuracy"] == pytest.approx((labels == predictions).mean())
    assert overall["probe_macro_f1"] == pytest.approx(f1_score(labels, predictions, average="macro"))
    assert list(scores.values("probe_macro_f1")) == names and len(scores.rows) == 40
    assert scores.rows[0][:3] == ("probe_accuracy", "row-0", "row-19") and all(row[4] == 1 for row in scores.rows)
