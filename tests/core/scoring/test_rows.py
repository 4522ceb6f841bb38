"""Rows and batches: what is read, what is predicted, every row once, no batch above its budget."""

import numpy as np
import pytest

from recipes.core.losses.objectives import IGNORE
from recipes.core.scoring.rows import completion_batch, row_batches, row_offsets, rows_fingerprint, text_rows
from tests.core.scoring.models import some_rows


def test_texts_are_predicted_behind_a_start_token_or_from_their_second_token_on() -> None:
    assert text_rows([[5, 6], [7]], 1) == [((1,), [5, 6]), ((1,), [7])]
    assert text_rows([[5, 6, 7], [8]]) == [([5], [6, 7]), ([8], [])]


def test_a_batch_leaves_the_last_token_out_and_labels_stand_where_they_are_predicted() -> None:
    batch = completion_batch([([1, 2], [5, 6]), ([1], [7])], pad_id=0)
    assert batch["input_ids"].tolist() == [[1, 2, 5], [1, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORE, 5, 6], [7, IGNORE, IGNORE]]


def test_rows_without_completion_are_in_no_batch() -> None:
    rows = some_rows()
    numbers = [i for group, _ in row_batches(rows, "cpu", "scoring", 16) for i in group]
    assert sorted(numbers) == [0, 1, 2, 3, 5, 6]
    assert row_offsets(rows).tolist() == [0, 5, 6, 17, 19, 19, 26, 27]


def test_a_completion_without_context_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1: its context is empty"):
        next(row_batches([([1], [2]), ([], [3])], "cpu", "scoring"))


def test_the_fingerprint_sees_every_id_and_every_cut() -> None:
    kinds = [[([1], [2, 3])], [([1, 2], [3])], [([1], [2, 4])], [([1], [2]), ([3], [])], []]
    assert len({rows_fingerprint(rows) for rows in kinds}) == len(kinds)
    assert rows_fingerprint([((1,), np.array([2, 3], np.int16))]) == rows_fingerprint(kinds[0])
