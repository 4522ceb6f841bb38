"""Scores of a classifier, one row an example, so that arms pair over examples."""

from collections.abc import Sequence

import numpy as np

from recipes.core.data.tasks.labelled import LabelledSet
from recipes.core.evaluation.scores import Scores


def add_classification(
    scores: Scores,
    prefix: str,
    title: str,
    examples: Sequence[str],
    documents: Sequence[str],
    labels: np.ndarray,
    predictions: np.ndarray,
) -> None:
    """Accuracy and macro-F1, as `<prefix>accuracy` and `<prefix>macro_f1`.

    Args:
        scores: Where they go.
        prefix: What their names begin with ("probe_").
        title: Who predicts, for people ("probe on frozen features").
        examples: Id of each example.
        documents: What each comes from; intervals resample these.
        labels: int [examples] the right class.
        predictions: int [examples] the predicted one.
    """
    rows = list(zip(examples, documents, strict=True))
    named = {
        "accuracy": ("share of texts in their class", (labels == predictions).astype(float)),
        "macro_f1": ("macro-F1", macro_f1_values(labels, predictions)),
    }
    for name, (what, values) in named.items():
        scores.define(f"{prefix}{name}", f"{what}, {title}", True)
        for (example, document), value in zip(rows, values, strict=True):
            scores.add(f"{prefix}{name}", example, document, value)


def add_test_scores(
    scores: Scores,
    data: LabelledSet,
    predictions: np.ndarray,
    prefix: str = "probe_",
    title: str = "probe on frozen features",
) -> None:
    """`add_classification` of the test part of a labelled set, one row a text.

    Args:
        scores: Where they go.
        data: The set.
        predictions: int [test texts] the predicted classes.
        prefix: What the names begin with.
        title: Who predicts, for people.
    """
    examples, documents = [each.id for each in data.test], [each.document for each in data.test]
    add_classification(scores, prefix, title, examples, documents, data.numbers(data.test), predictions)


def macro_f1_values(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Numbers whose mean is the macro-F1, and whose spread over examples is that of the macro-F1.

    Macro-F1 is no mean over examples. Its value plus each example's influence on it is: the influences sum to 0, and
    their variance over n is the variance of the macro-F1 to first order.

    Args:
        labels: int [n] the right class; the classes are those that occur here.
        predictions: int [n] the predicted one.

    Returns:
        float64 [n]

    Source:
        F_c = 2 TP_c / (n_c + p_c), with n_c labels and p_c predictions of class c; the influence of example i is
        n (2 [y_i = c = p_i] - F_c ([y_i = c] + [p_i = c])) / (n_c + p_c): infinitesimal jackknife of a ratio.
    """
    values, classes = np.zeros(len(labels)), np.unique(labels)
    for number in classes:
        right, chosen = labels == number, predictions == number
        both, either = 2.0 * (right & chosen), right.astype(float) + chosen
        f1 = both.sum() / either.sum()
        values += f1 + len(labels) * (both - f1 * either) / either.sum()
    return values / len(classes)


def auroc_values(positives: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Numbers whose mean is the AUROC, and whose spread over examples is that of the AUROC.

    Its value plus each example's influence on it, as in `macro_f1_values`.

    Args:
        positives: bool [n] which examples should have the larger scores.
        scores: float [n]; equal ones count half.

    Returns:
        float64 [n]

    Raises:
        ValueError: one of the two classes is empty, so that there is no AUROC, or a score is no number.

    Source:
        DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988): V_i is the share of the other class that example i
        stands on the right side of; the influence is n (V_i - AUROC) / (examples of its class).
    """
    if positives.all() or not positives.any():
        raise ValueError("the AUROC of one class is undefined")
    if np.isnan(scores).any():
        raise ValueError("a score is no number")
    values = np.empty(len(scores))
    for mine, sign in ((positives, 1.0), (~positives, -1.0)):
        others, wanted = np.sort(sign * scores[~mine]), sign * scores[mine]
        sides = [np.searchsorted(others, wanted, side) for side in ("left", "right")]
        values[mine] = (sides[0] + sides[1]) / (2 * len(others))
    area, sizes = values[positives].mean(), np.where(positives, positives.sum(), (~positives).sum())
    return np.asarray(area + (values - area) * len(scores) / sizes)
