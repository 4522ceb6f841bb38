"""The importance weights of dense counts, for the tests of `dsir`."""

import numpy as np

from recipes.pretraining.dsir import method


def log_weights(counts: np.ndarray, target: np.ndarray, raw: np.ndarray) -> np.ndarray:
    """The formula: sum_j z_ij (log p_j - log q_j), from counts [documents, buckets], dense or sparse."""
    return counts @ method.log_ratio(target, raw)
