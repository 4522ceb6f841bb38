"""Macro-F1 and AUROC as means over examples: exact in value, and as wide as a bootstrap finds them."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from recipes.core.evaluation.classification import add_classification, auroc_values, macro_f1_values
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


def test_worked_values_of_the_auroc() -> None:
    # Of four pairs the positives win two and tie in one: 5/8. Each value is 5/8 + 4 (V - 5/8) / 2.
    values = auroc_values(np.array([True, True, False, False]), np.array([3.0, 1.0, 1.0, 2.0]))
    assert values == pytest.approx([5 / 8 + 2 * (v - 5 / 8) for v in (1, 1 / 4, 3 / 4, 1 / 2)])


@pytest.mark.parametrize("seed", range(2))
def test_the_mean_is_the_auroc_and_the_spread_that_of_resamples(seed: int) -> None:
    random = np.random.default_rng(seed)
    positives = random.random(500) < 0.3
    scores = np.round(random.normal(positives.astype(float)), 1)  # with ties
    values = auroc_values(positives, scores)
    assert values.mean() == pytest.approx(roc_auc_score(positives, scores))
    chosen = random.integers(0, 500, (400, 500))
    spread = np.std([roc_auc_score(positives[rows], scores[rows]) for rows in chosen])
    assert values.std() / np.sqrt(500) == pytest.approx(spread, rel=0.2)
    np.testing.assert_allclose(values, auroc_values(positives, np.exp(scores)))  # any map that keeps the order


def test_one_class_has_no_auroc() -> None:
    with pytest.raises(ValueError, match="undefined"):
        auroc_values(np.ones(3, bool), np.arange(3.0))
    with pytest.raises(ValueError, match="no number"):
        auroc_values(np.array([True, False]), np.array([np.nan, 1.0]))
