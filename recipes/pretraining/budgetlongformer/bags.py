"""A classifier of bags of words: whether the label can be predicted from the text at all, and from how much of it."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from recipes.core.data.tasks.labelled import LabelledSet

STRENGTH = 10.0  # inverse strength of the penalty


def predict_from_bags(
    data: LabelledSet, ids: tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]], longest: int | None
) -> np.ndarray:
    """Classes that logistic regression on tf-idf of tokens predicts.

    Args:
        data: The set.
        ids: Token ids of its training and of its test texts.
        longest: Only the first tokens of a text are read; None: all.

    Returns:
        int64 [test texts]
    """
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression

    width = 1 + max(chain.from_iterable(chain(*ids)), default=0)
    counts = [_counts([row[:longest] for row in part], width) for part in ids]
    weighting = TfidfTransformer(sublinear_tf=True).fit(counts[0])
    model = LogisticRegression(C=STRENGTH, max_iter=2000)
    model.fit(weighting.transform(counts[0]), data.numbers(data.train))
    return np.asarray(model.predict(weighting.transform(counts[1])), np.int64)


def _counts(rows: Sequence[Sequence[int]], width: int) -> Any:
    """How often each token occurs, sparse [texts, width]."""
    from scipy.sparse import csr_matrix

    lengths = np.array([len(row) for row in rows])
    columns = np.fromiter(chain.from_iterable(rows), np.int64, int(lengths.sum()))
    texts = np.repeat(np.arange(len(rows)), lengths)
    counts = csr_matrix((np.ones(len(columns)), (texts, columns)), shape=(len(rows), width))
    counts.sum_duplicates()
    return counts
