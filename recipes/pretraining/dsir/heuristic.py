"""Heuristic classification, the baseline of DSIR: a classifier that tells the target from the raw pool.

Logistic regression on L2-normalised hashed counts stands in for the fastText classifier of the paper.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack
from sklearn.linear_model import SGDClassifier
from sklearn.preprocessing import normalize

from recipes.core.data.text.ngrams import Occurrences
from recipes.core.storage.files import sha256_json

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TargetClassifier:
    """Scores documents by P(target).

    Attributes:
        coefficients: [buckets].
        intercept: Log-odds of a document without n-grams.
    """

    coefficients: Floats
    intercept: float

    def fingerprint(self) -> str:
        """Hash of what the scores depend on."""
        return sha256_json(["classifier", self.coefficients.tolist(), self.intercept])

    def scores(self, occurrences: Occurrences) -> Floats:
        """P(target) of each document, [documents]."""
        return self.probabilities(sparse_counts(occurrences, len(self.coefficients)))

    def probabilities(self, counts: csr_matrix) -> Floats:
        """P(target) from counts [documents, buckets]."""
        odds = normalize(counts.astype(np.float64)) @ self.coefficients + self.intercept
        return 1 / (1 + np.exp(-odds))


def sparse_counts(occurrences: Occurrences, buckets: int) -> csr_matrix:
    """Counts of each document, [documents, buckets], sparse."""
    keys, counts = np.unique(occurrences.rows * buckets + occurrences.buckets, return_counts=True)
    rows, columns = np.divmod(keys, buckets)
    return csr_matrix((counts.astype(np.int32), (rows, columns)), shape=(len(occurrences.lengths), buckets))


def train_classifier(target: csr_matrix, raw: csr_matrix, seed: int) -> TargetClassifier:
    """Logistic regression of target against raw, both classes weighing the same.

    Args:
        target: Counts of target documents, [documents, buckets].
        raw: Counts of documents drawn from the raw pool.
        seed: Of the order in which the documents are visited.
    """
    features = normalize(vstack([target, raw]).astype(np.float64))
    labels = np.repeat([1, 0], [target.shape[0], raw.shape[0]])
    model = SGDClassifier(loss="log_loss", alpha=1e-5, class_weight="balanced", random_state=seed)
    model.fit(features, labels)
    return TargetClassifier(model.coef_[0], float(model.intercept_[0]))
