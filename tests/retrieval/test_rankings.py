"""Rankings: runs of TREC, measures of queries, windows, the first stage."""

from pathlib import Path

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.core.errors import UserError
from recipes.core.evaluation.scores import Scores
from recipes.core.search.beir import read_collection
from recipes.core.search.bm25 import BM25
from recipes.core.search.collection import Collection
from recipes.core.search.config import CollectionConfig
from recipes.core.search.measure_names import wrong_measures
from recipes.core.search.measures import add_measures
from recipes.core.search.rankings import Ranking, by_scores, falling, read_run, write_run
from recipes.retrieval.config import FirstStageConfig
from recipes.retrieval.first_stage import candidates
from recipes.retrieval.windows import completed, slide, windows


@pytest.fixture
def collection(collection_folder: Path) -> Collection:
    return read_collection(CollectionConfig(path=str(collection_folder)))


@given(st.lists(st.floats(-1e6, 1e6), max_size=20))
def test_written_scores_fall_strictly_in_single_precision(values: list[float]) -> None:
    scores = np.sort(np.array(values))[::-1]
    written = falling(scores)
    assert written.dtype == np.float32 and bool((np.diff(written) < 0).all())


def test_equal_scores_keep_their_order_in_files_and_measures(collection: Collection, tmp_path: Path) -> None:
    passages, queries = collection.passages, collection.test
    rankings = [Ranking(np.array([0, 1, 4]), np.zeros(3)), *[by_scores([], [])] * 3]
    write_run(tmp_path / "run.trec", rankings, queries, passages, "tied")
    again = read_run(str(tmp_path / "run.trec"), "first_stage.path", queries, passages)
    assert [each.passages.tolist() for each in again] == [[0, 1, 4], [], [], []]
    scores = Scores()
    add_measures(scores, ["RR@10", "nDCG@10"], rankings, queries, passages)
    assert scores.values("RR@10") == {"q1": 0.5, "q2": 0.0, "q3": 0.0, "q4": 0.0}
    qrels = ir_measures.read_trec_qrels(str(tmp_path / "qrels"))
    (tmp_path / "qrels").write_text("q1 0 dog 1\n", encoding="utf-8")
    read = list(ir_measures.read_trec_run(str(tmp_path / "run.trec")))
    assert [value.value for value in ir_measures.iter_calc([ir_measures.RR @ 10], list(qrels), read)] == [0.5]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q1 Q0 cow 1 2.0 x", "ranks the passage 'cow', which the collection does not have"),
        ("q1 Q0 dog 1 high x", "line 1 is no line of a TREC run"),
        ("q1 Q0 dog 1 nan x", "line 1 is no line of a TREC run"),
        ("q1 dog 2.0", "line 1 is no line of a TREC run"),
        ("q9 Q0 dog 1 2.0 x", "ranks passages for no query of the collection"),
        ("q1 Q0 dog 1 2.0 x\nq1 Q0 dog 2 1.0 x", "ranks a passage twice for the query 'q1'"),
    ],
)
def test_what_is_no_run_of_the_collection_is_refused(
    collection: Collection, tmp_path: Path, line: str, message: str
) -> None:
    (tmp_path / "run.trec").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_run(str(tmp_path / "run.trec"), "first_stage.path", collection.test, collection.passages)


def test_a_run_may_have_a_mark_of_its_encoding_and_blank_lines(
    collection: Collection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.trec").write_text("\ufeffq1 Q0 dog 1 2.0 x\n\n", encoding="utf-8")
    rankings = read_run(str(tmp_path / "run.trec"), "first_stage.path", collection.test, collection.passages)
    assert rankings[0].passages.tolist() == [1]
    assert "3 of 4 queries are not in the run" in capsys.readouterr().err


def test_bm25_ranks_what_shares_words_and_breaks_ties_by_the_collection(collection: Collection) -> None:
    index = BM25(collection.passages)
    assert index.rank("animal that barks", 5).passages.tolist() == [1, 0]
    assert index.rank("tree", 1).passages.tolist() == [2] and not len(index.rank("zebra", 5))
    assert not len(index.rank("the of", 5))


def test_candidates_by_a_run_shuffled_and_required(collection: Collection, tmp_path: Path) -> None:
    config = FirstStageConfig(candidates=5)
    plain = candidates(config, collection, collection.test, None, 0)
    assert [each.passages[0] for each in plain.ranked] == [1, 3, 4, 0]
    mixed = candidates(FirstStageConfig(order="shuffled"), collection, collection.test, None, 1)
    assert [sorted(each.passages) for each in mixed.given] == [sorted(each.passages) for each in mixed.ranked]
    assert [each.passages.tolist() for each in mixed.ranked] == [each.passages.tolist() for each in plain.ranked]
    (tmp_path / "run.trec").write_text("q1 Q0 oak 1 2.0 x\nq2 Q0 pine 1 2.0 x\n", encoding="utf-8")
    run = FirstStageConfig(name="run", path=str(tmp_path / "run.trec"), gold="required")
    assert list(candidates(run, collection, collection.test, None, 0).queries.ids) == ["q2"]
    (tmp_path / "run.trec").write_text("q1 Q0 oak 1 2.0 x\n", encoding="utf-8")
    with pytest.raises(UserError, match="no query has candidates"):
        candidates(run, collection, collection.test, None, 0)


def test_measures_are_named_as_ir_measures_names_them() -> None:
    assert not wrong_measures(["RR@10", "nDCG@10", "R@100", "AP"])
    for name in ("hits", "RR@0", "RR@10.5", "AP(rel=0)", "RR@10 ", "MRR@10"):
        assert f"there is no measure {name!r}" in wrong_measures([name])[0]
    assert wrong_measures([]) and wrong_measures(["AP", "AP"]) == ["names a measure twice"]


def test_windows_of_the_sheet_and_those_that_were_left_out() -> None:
    assert windows(100, 20, 10) == [(start, start + 20) for start in range(80, -1, -10)]
    assert windows(25, 20, 10) == [(5, 25), (0, 15)]
    assert windows(10, 20, 10) == [(0, 10)] and windows(20, 20, 10) == [(0, 20)] and windows(0, 20, 10) == []


@given(st.integers(1, 60), st.integers(2, 20), st.data())
def test_an_oracle_brings_the_best_to_the_head(count: int, size: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, size))
    worth = data.draw(st.permutations(range(count)))

    def order(part: object) -> list[int]:
        numbers = list(part)  # type: ignore[call-overload]
        return sorted(range(len(numbers)), key=lambda place: -worth[numbers[place]])

    ranked = slide(count, size, stride, order)
    assert sorted(ranked) == list(range(count))
    best = sorted(range(count), key=lambda number: -worth[number])
    head = count if size >= count else size - stride
    assert ranked[:head] == best[:head]
    if size > stride:
        assert ranked[0] == best[0]


def test_an_order_is_completed_from_what_somebody_named() -> None:
    assert completed([2, 7, 2, 0], 4) == [2, 0, 1, 3]
    with pytest.raises(ValueError, match="no order of 2 places"):
        slide(2, 2, 1, lambda part: [0, 0])
