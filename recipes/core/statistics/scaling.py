"""Scaling coefficients: how fast a metric grows with the number of training samples."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class ScalingFit(NamedTuple):
    """A fitted line: intercept `c` and scaling coefficient `b`."""

    c: float
    b: float


def scaling_coefficient(samples: Sequence[float], metric: Sequence[float]) -> ScalingFit:
    """Least-squares fit of metric = c + b * log2(samples): b is the gain per doubling of the data.

    Args:
        samples: Training samples (or FLOPs) seen at each measurement, positive.
        metric: The metric at each, higher is better.

    Raises:
        ValueError: fewer than two distinct sample counts, or values that have no logarithm.
    """
    return _line(np.log2(_positive(samples, "samples")), np.asarray(metric, np.float64))


def loss_scaling_coefficient(samples: Sequence[float], loss: Sequence[float]) -> ScalingFit:
    """Least-squares fit of log(loss) = c - b * log(samples): b is the exponent of the power law.

    Args:
        samples: Training samples (or FLOPs) seen at each measurement, positive.
        loss: The loss at each, positive.

    Raises:
        ValueError: fewer than two distinct sample counts, or values that have no logarithm.
    """
    fit = _line(np.log(_positive(samples, "samples")), np.log(_positive(loss, "losses")))
    return ScalingFit(fit.c, -fit.b)


def _line(x: np.ndarray, y: np.ndarray) -> ScalingFit:
    if x.shape != y.shape or len(np.unique(x)) < 2:
        raise ValueError(f"a fit needs one value per sample count and two distinct counts, got {len(x)} and {len(y)}")
    slope, intercept = np.polyfit(x, y, 1)
    return ScalingFit(float(intercept), float(slope))


def _positive(values: Sequence[float], what: str) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if not (array > 0).all():
        raise ValueError(f"{what} must be positive, got {array.min()}")
    return array
