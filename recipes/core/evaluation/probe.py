"""How well a linear classifier on frozen features tells classes apart: L2 logistic regression at its optimum."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from recipes.core.data.tasks.labelled import LabelledSet
from recipes.core.errors import RunFailed, UserError
from recipes.core.evaluation.probe_config import ProbeConfig

STEPS = 20_000  # of the solver; far more than it needs on standardised features
TOLERANCE = 1e-7  # largest entry of the gradient where it stops
SMALLEST = 1e-15  # probability of a class that a fold has not seen


@dataclass(frozen=True)
class Probe:
    """A linear classifier of standardised features.

    Attributes:
        mean, scale: [d] what features are shifted and divided by.
        weights: [k, d] and `bias` [k]: logits of the classes.
        strength: Inverse strength of the penalty that it was fitted with.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    strength: float

    def logprobs(self, features: np.ndarray) -> np.ndarray:
        """[n, k] log-probs of the classes, of features [n, d]."""
        logits = (features - self.mean) / self.scale @ self.weights.T + self.bias
        logits -= logits.max(1, keepdims=True)
        return np.asarray(logits - np.log(np.exp(logits).sum(1, keepdims=True)))

    def predict(self, features: np.ndarray) -> np.ndarray:
        """int64 [n] the most likely class; of equal ones the first."""
        return self.logprobs(features).argmax(1)


def fit_probe(features: np.ndarray, labels: np.ndarray, classes: int, strength: float) -> Probe:
    """Minimise C sum_i -log p(y_i | x_i) + |W|^2 / 2 over weights and bias, x standardised, in float64.

    Args:
        features: [n, d]
        labels: int [n] from 0 to `classes` - 1. A class that does not occur gets a probability of nearly 0.
        classes: k
        strength: C. Of two classes the weights of the second alone are penalised, the first one's are 0.

    Raises:
        RunFailed: the solver did not arrive.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    x = np.asarray(features, np.float64)
    mean, scale = x.mean(0), x.std(0)
    # A feature that is constant but for rounding would become noise of size 1.
    scale = np.where(scale > 1e-9 * np.maximum(np.abs(mean), 1e-300), scale, 1.0)
    seen = np.unique(labels)
    weights, bias = np.zeros((classes, x.shape[1])), np.full(classes, np.log(SMALLEST))
    if len(seen) == 1:
        bias[seen] = 0.0
        return Probe(mean, scale, weights, bias, strength)
    model = LogisticRegression(C=strength, tol=TOLERANCE, max_iter=STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            model.fit((x - mean) / scale, labels)
        except ConvergenceWarning as error:
            raise RunFailed(
                "the probe did not reach its optimum", f"strength {strength:g}", "type smaller strengths"
            ) from error
    rows, offsets = model.coef_, model.intercept_
    if len(seen) == 2:
        rows, offsets = np.concatenate([np.zeros_like(rows), rows]), np.concatenate([np.zeros(1), offsets])
    weights[seen], bias[seen] = rows, offsets
    return Probe(mean, scale, weights, bias, strength)


def choose_strength(
    features: np.ndarray, labels: np.ndarray, documents: Sequence[str], classes: int, config: ProbeConfig, seed: int
) -> float:
    """The strength with the smallest loss on texts that it was not fitted to; of equal ones the stronger penalty.

    Folds keep documents whole and the shares of the classes; no class has fewer documents than there are folds, but
    for one that has a single document.

    Args:
        features: [n, d] of the training part only.
        labels: int [n]
        documents: [n]
        classes: Number of classes.
        config: Strengths and folds.
        seed: Of the folds.

    Raises:
        UserError: there are too few texts or documents for two folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if len(config.strengths) == 1:
        return config.strengths[0]
    sources = np.asarray(documents)
    scarcest = min(len(np.unique(sources[labels == number])) for number in np.unique(labels))
    if min(len(np.unique(sources)), np.unique(labels, return_counts=True)[1].max()) < 2:
        raise UserError(
            f"{len(labels)} training texts of {len(np.unique(sources))} documents cannot be folded",
            "strengths",
            "give more texts, or a single strength, which needs no cross-validation",
        )
    folds = StratifiedGroupKFold(max(2, min(config.folds, scarcest)), shuffle=True, random_state=seed)
    losses = dict.fromkeys(sorted(config.strengths), 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class of one document is in one fold only
        parts = list(folds.split(features, labels, sources))
    for rest, held_out in parts:
        for strength in losses:
            logprobs = fit_probe(features[rest], labels[rest], classes, strength).logprobs(features[held_out])
            losses[strength] -= logprobs[np.arange(len(held_out)), labels[held_out]].sum()
    return min(losses, key=lambda strength: (losses[strength], strength))


def probe(data: LabelledSet, train: Tensor, test: Tensor, config: ProbeConfig, seed: int) -> tuple[Probe, np.ndarray]:
    """Fit a probe to frozen features of a labelled set.

    The order of the texts changes nothing: folds are drawn in the order of their ids.

    Args:
        data: The set.
        train: [texts, d] features of its training part, in order (`recipes.core.scoring.features`).
        test: [texts, d] those of its test part.
        config: Strengths and folds.
        seed: Of the folds.

    Returns:
        The probe, and int64 [test texts] the classes that it predicts.

    Raises:
        UserError: features are not finite, or there are too few texts to choose a strength.
    """
    order = sorted(range(len(data.train)), key=lambda i: data.train[i].id)
    if not all(bool(part.isfinite().all()) for part in (train, test)):
        raise UserError("the features hold NaN or infinities", data.name, "choose another checkpoint or layer")
    features, labels = train.detach().double().numpy()[order], data.numbers(data.train)[order]
    documents = [data.train[i].document for i in order]
    strength = choose_strength(features, labels, documents, len(data.classes), config, seed)
    fitted = fit_probe(features, labels, len(data.classes), strength)
    return fitted, fitted.predict(test.detach().double().numpy())
