"""Overall values are ratios of sums; the table on disk is the one in memory."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from recipes.core.evaluation.scores import Scores, read_rows


def scores() -> Scores:
    made = Scores()
    made.define("nll", "NLL", higher_is_better=False)
    made.define("unused", "nothing measured", higher_is_better=True)
    made.add("nll", "a", "g1", 2.0, 3)
    made.add("nll", "b", "g2", 1.0, 1)
    return made


def test_a_metric_is_a_mean_weighted_by_counts() -> None:
    assert scores().overall() == {"nll": pytest.approx(7 / 4)}


def test_a_metric_must_be_defined() -> None:
    with pytest.raises(KeyError, match="accuracy"):
        scores().add("accuracy", "a", "g", 1.0)


def test_the_table_is_written_with_its_titles(tmp_path: Path) -> None:
    scores().write(tmp_path)
    table = pq.read_table(tmp_path / "examples.parquet")
    assert table.to_pydict() == {
        "metric": ["nll", "nll"],
        "example": ["a", "b"],
        "group": ["g1", "g2"],
        "value": [2.0, 1.0],
        "count": [3.0, 1.0],
    }
    assert json.loads((tmp_path / "metrics_info.json").read_text())["nll"] == {
        "title": "NLL",
        "higher_is_better": False,
    }


def test_no_scores_make_no_table(tmp_path: Path) -> None:
    Scores().write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics_info.json"]
    Scores().write_rows(tmp_path / "rows.parquet")
    assert pq.read_table(tmp_path / "rows.parquet").num_rows == 0


def test_scores_come_back_from_disk_with_their_titles(tmp_path: Path) -> None:
    scores().write_rows(tmp_path / "rows.parquet")
    assert read_rows(tmp_path / "rows.parquet") == scores()


def test_rows_that_count_0_can_be_left_out() -> None:
    made = scores()
    made.define("probe", "kept for a picture", higher_is_better=True)
    made.add("probe", "a", "g1", 5.0, 0)
    assert made.without_empty_rows() == scores() and "probe" not in made.overall()
