"""Scaling fits: exact on exact laws, least squares on others, errors for what cannot be fitted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.core.statistics.scaling import loss_scaling_coefficient, scaling_coefficient

SAMPLES = [1200 / 2**i for i in range(5, -1, -1)]


@given(c=st.floats(-5, 5), b=st.floats(-2, 2))
def test_metric_on_a_line_in_log2_is_recovered(c: float, b: float) -> None:
    fit = scaling_coefficient(SAMPLES, [c + b * np.log2(s) for s in SAMPLES])
    assert fit == pytest.approx((c, b), abs=1e-9)


@given(scale=st.floats(0.1, 100), exponent=st.floats(-1, 1))
def test_power_law_of_a_loss_is_recovered(scale: float, exponent: float) -> None:
    fit = loss_scaling_coefficient(SAMPLES, [scale * s**-exponent for s in SAMPLES])
    assert fit == pytest.approx((np.log(scale), exponent), abs=1e-9)


def test_least_squares_by_hand() -> None:
    # log2 = 0, 1, 2; metric 0, 1, 1: slope 1/2, mean 2/3 at log2 = 1.
    assert scaling_coefficient([1, 2, 4], [0.0, 1.0, 1.0]) == pytest.approx((1 / 6, 1 / 2))


def test_a_better_loss_curve_has_a_positive_coefficient() -> None:
    assert loss_scaling_coefficient([10, 100], [2.0, 1.0]).b == pytest.approx(np.log10(2))


@pytest.mark.parametrize(
    ("samples", "metric", "message"),
    [([8, 8], [1, 2], "two distinct counts"), ([8, 16], [1], "one value per"), ([0, 8], [1, 2], "must be positive")],
)
def test_what_cannot_be_fitted_is_refused(samples: list[float], metric: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scaling_coefficient(samples, metric)
