"""Areas under curves and scaling coefficients, by hand."""

import pytest

from recipes.core.evaluation.scores import Scores, add_class_mean
from recipes.pretraining.prior.curves import add_areas, scaling_metrics, watch_steps


def measured(digit: list[float], thick: list[float], nll: float = 1.0) -> Scores:
    scores = Scores()
    for name in ("grounded/digit", "grounded/thickness"):
        scores.define(name, name, higher_is_better=True)
    scores.define("nll/image", "NLL", higher_is_better=False)
    for i, value in enumerate(digit):
        scores.add("grounded/digit", f"d{i}", f"g{i}", value)
    for i, value in enumerate(thick):
        scores.add("grounded/thickness", f"t{i}", f"g{i}", value)
    scores.add("nll/image", "d0", "g0", nll)
    add_class_mean(scores, "grounded/accuracy", "grounded/", "mean")
    return scores


def test_the_mean_over_classes_does_not_depend_on_their_sizes() -> None:
    scores = measured([1, 0, 0, 0], [1])
    assert scores.overall()["grounded/accuracy"] == pytest.approx((0.25 + 1) / 2)


def test_areas_are_means_over_the_regular_measurements_per_example() -> None:
    curve = {100: measured([0, 1], [0]), 150: measured([1, 1], [1]), 200: measured([1, 1], [0])}
    scores = Scores()
    add_areas(scores, curve, every=100)
    assert scores.values("grounded/auc/digit") == {"d0": 0.5, "d1": 1.0}
    assert scores.overall() == pytest.approx(
        {"grounded/auc/digit": 0.75, "grounded/auc/thickness": 0.0, "grounded/auc": 0.375}
    )


def test_no_grounded_classes_no_areas() -> None:
    scores = Scores()
    add_areas(scores, {100: Scores()}, every=100)
    assert scores.overall() == {}


def test_scaling_over_doublings() -> None:
    curve = {step: measured([], [0.5 + 0.05 * k], nll=2.0**-k) for k, step in enumerate((1, 2, 4, 8, 16, 32))}
    metrics = scaling_metrics(Scores(), curve, batch_size=8, max_steps=32)
    assert metrics == pytest.approx({"scaling/grounded": 0.05, "scaling/nll_image": 1.0})


def test_watch_steps_are_the_regular_ones_and_the_doublings() -> None:
    assert watch_steps(600, 200) == {200, 400, 600, 19, 38, 75, 150, 300}
    assert watch_steps(5, 100) == {1, 2, 5}
