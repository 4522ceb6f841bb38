"""Rows of different lengths on disk are what was written, also in another process; files of nothing hold no rows."""

import pickle
from pathlib import Path

import numpy as np

from recipes.core.storage.ragged import Ragged, RaggedFile

ROWS = [[1, 2, 3], [], [4], [5, 6]]


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    with RaggedFile(tmp_path / "a.b", np.int32) as file:
        file.extend(ROWS[:2])
        file.extend([])
        file.extend(np.array(row) for row in ROWS[2:])
    stored = Ragged(tmp_path / "a.b", np.int32)
    assert [row.tolist() for row in stored] == ROWS and stored[0].dtype == np.int32
    assert stored.lengths().tolist() == [3, 0, 1, 2] and stored[-1].tolist() == [5, 6]


def test_a_copy_in_another_process_holds_no_numbers(tmp_path: Path) -> None:
    with RaggedFile(tmp_path / "a", np.int32) as file:
        file.extend([list(range(100_000))])
    stored = Ragged(tmp_path / "a", np.int32)
    assert len(stored[0]) == 100_000
    copy = pickle.dumps(stored)
    assert len(copy) < 1000 and pickle.loads(copy)[0].tolist() == stored[0].tolist()


def test_a_file_of_nothing_holds_no_rows(tmp_path: Path) -> None:
    with RaggedFile(tmp_path / "a", np.int32):
        pass
    stored = Ragged(tmp_path / "a", np.int32)
    assert len(stored) == 0 and list(stored) == [] and len(stored.values) == 0
