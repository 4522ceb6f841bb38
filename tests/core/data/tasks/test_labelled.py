"""Labelled texts: every class on both sides, no document on two, and what cannot be used is named."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recipes.core.data.tasks import labelled
from recipes.core.data.tasks.labelled import LabelledText, label_name, load_labelled, split_labelled
from recipes.core.data.tasks.labelled_config import (
    LabelledConfig,
    LabelledTextsConfig,
    ReviewSentimentConfig,
    WikiTopicsConfig,
)
from recipes.core.errors import UserError


def some(counts: dict[str, int], per_document: int = 1) -> list[LabelledText]:
    rows = [(label, i) for label, count in counts.items() for i in range(count)]
    return [LabelledText(f"{label}{i}", f"{label} {i}", label, f"{label}/{i // per_document}") for label, i in rows]


def written(path: Path, rows: Sequence[Any]) -> LabelledTextsConfig:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return LabelledTextsConfig(path=str(path))


ROWS = [{"text": f"text {i}", "label": i % 2} for i in range(12)]


def test_every_class_keeps_its_share_for_testing():
    data = split_labelled("some", some({"a": 40, "b": 8, "c": 2}), LabelledConfig(), "data")
    assert data.classes == ("a", "b", "c")
    assert data.counts(data.test) == {"a": 10, "b": 2, "c": 1} and data.counts(data.train) == {"a": 30, "b": 6, "c": 1}
    assert data.numbers(data.test).tolist() == [0] * 10 + [1] * 2 + [2]


def test_a_document_is_on_one_side_and_the_seed_chooses():
    texts = some({"a": 30, "b": 30}, per_document=3)
    first, again, other = (split_labelled("some", texts, LabelledConfig(seed=seed), "data") for seed in (0, 0, 1))
    for data in (first, other):
        assert not {each.document for each in data.train} & {each.document for each in data.test}
        assert len(data.train) + len(data.test) == 60
    assert first == again != other and first.fingerprint == again.fingerprint != other.fingerprint


def test_fewer_texts_are_drawn_from_each_class_by_its_share():
    data = split_labelled("some", some({"a": 300, "b": 97, "c": 3}), LabelledConfig(texts=40), "data")
    assert Counter(each.label for each in [*data.train, *data.test]) == {"a": 30, "b": 9, "c": 2}


@pytest.mark.parametrize(
    "texts, message",
    [
        (some({"a": 5, "b": 1}), "class 'b' has 1 text of 1 document, too few to train and to test(.|\n)*2 different"),
        (some({"a": 6, "b": 3}, per_document=3), "class 'b' has 3 texts of 1 document"),
        (some({"a": 4, "b": 1, "c": 1}), "class 'b' has 1 text of 1 document and 1 more classes"),
        (some({"a": 5}), "all texts are of the class 'a', and two classes are the least"),
    ],
)
def test_classes_that_cannot_be_split_are_refused(texts: list[LabelledText], message: str):
    with pytest.raises(UserError, match=message):
        split_labelled("some", texts, LabelledConfig(), "data.path=x")


def test_rows_of_a_file(tmp_path: Path):
    config = written(tmp_path / "rows.jsonl", [*ROWS, {"text": " text  0 ", "label": 0}])
    data = load_labelled(config)
    assert data.classes == ("0", "1") and len(data.train) + len(data.test) == 13
    sides = [each for each in (data.train, data.test) if any(one.id == "row-0" for one in each)]
    assert any(one.id == "row-12" for one in sides[0])  # the same text is the same document
    pq.write_table(
        pa.table({"text": [row["text"] for row in ROWS], "label": [row["label"] for row in ROWS]}),
        tmp_path / "rows.parquet",
    )
    columns = load_labelled(LabelledTextsConfig(path=str(tmp_path / "rows.parquet")))
    plain = load_labelled(written(tmp_path / "plain.jsonl", ROWS))
    assert (columns.train, columns.test) == (plain.train, plain.test)


def test_a_published_split_is_taken_and_leaks_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    written(tmp_path / "train.jsonl", ROWS)
    written(tmp_path / "test.jsonl", [{"text": "other", "label": 0}, {"text": "text 1", "label": 1}])
    data = load_labelled(LabelledTextsConfig(path=str(tmp_path)))
    assert [each.id for each in data.test] == ["test-row-0", "test-row-1"] and len(data.train) == 11
    assert "1 of 12 training texts are tested on, too" in capsys.readouterr().err


@pytest.mark.parametrize(
    "row, message",
    [
        ({"text": "x"}, "its label is null, no word and no whole number"),
        ({"text": "x", "label": 0.37}, "its label is 0.37, no word"),
        ({"text": "x", "label": ["a"]}, r"its label is \[\"a\"\], no word"),
        ({"text": " ", "label": 1}, "row 12: its text is missing or blank|its text is missing or blank"),
        ({"text": 5, "label": 1}, "no text: 5"),
    ],
)
def test_rows_that_cannot_be_used(
    tmp_path: Path, row: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
):
    config = written(tmp_path / "rows.jsonl", [*ROWS, row])
    with pytest.raises(
        UserError, match=f"1 of 13 rows cannot be used(.|\n)*{message}(.|\n)*data.on_error=skip"
    ) as caught:
        load_labelled(config)
    assert caught.value.exit_code == 2
    data = load_labelled(LabelledTextsConfig(path=config.path, on_error="skip"))
    assert len(data.train) + len(data.test) == 12 and "1 of 13 rows were left out" in capsys.readouterr().err


def test_missing_columns_are_named(tmp_path: Path):
    config = written(tmp_path / "rows.jsonl", [{"text": "x", "topic": "a"}])
    with pytest.raises(UserError, match="data.label_column"):
        load_labelled(config)
    config = LabelledTextsConfig(path=config.path, label_column="topics")
    with pytest.raises(UserError, match="data.label_column: the data has no column 'topics'"):
        load_labelled(config)


def test_names_of_classes():
    values = [" a ", 3, 3.0, True, None, "", 0.5, [1], float("nan"), float("inf")]
    assert [label_name(value) for value in values] == ["a", "3", "3", "true", None, None, None, None, None, None]


def test_topics_of_articles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    leads = {name: {"title": name.upper(), "extract": f"About {name}."} for name in "abcdefg"}
    leads["twice"] = leads["a"]
    topics = {"a": "Arts", "b": "Arts", "c": "History", "d": "History", "e": "Uncategorized", "twice": "History"}
    (tmp_path / "summaries_en-us.json").write_text(json.dumps(leads))
    (tmp_path / "titles_en-us.json").write_text(json.dumps(topics))
    monkeypatch.setattr(labelled, "asset_path", lambda name: tmp_path)
    data = load_labelled(WikiTopicsConfig())
    assert data.counts([*data.train, *data.test]) == {"Arts": 2, "History": 2}
    assert {each.id for each in [*data.train, *data.test]} == {f"wiki-en/{name}" for name in "ABCD"}


def test_sentiment_of_reviews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scores = [2.1, 3.0, -1.5, -2.0, 0.0, 0.4, -0.3, 1.0]
    lines = [f"{i}\t{score}\treview number {i}" for i, score in enumerate(scores)]
    (tmp_path / "movieReviewSnippets_GroundTruth.txt").write_text("\n".join(lines))
    monkeypatch.setattr(labelled, "asset_path", lambda name: tmp_path)
    data = load_labelled(ReviewSentimentConfig())
    assert data.counts([*data.train, *data.test]) == {"negative": 2, "positive": 3}
    assert data.counts([*(wide := load_labelled(ReviewSentimentConfig(neutral=0))).train, *wide.test]) == {
        "negative": 3,
        "positive": 4,
    }


def test_documents_of_several_classes_are_drawn_once_and_counted_whole():
    texts = [
        LabelledText(f"{d}-{i}", f"text {d} {i}", "abc"[(d + i) % 3], str(d)) for d in range(100) for i in range(6)
    ]
    for most in (36, 60, 150):
        drawn = labelled.draw_texts(texts, most, 0)
        assert most - 18 <= len(drawn) <= most and all(
            count == 6 for count in Counter(t.document for t in drawn).values()
        )


def test_a_large_document_is_passed_over_and_smaller_ones_drawn():
    texts = some({"a": 60, "b": 60}) + [LabelledText(f"x{i}", f"x {i}", "a", "large") for i in range(1000)]
    for seed in range(5):
        drawn = labelled.draw_texts(texts, 112, seed)
        assert len([each for each in drawn if each.label == "a"]) >= 60 or len(drawn) > 1000


def test_a_document_is_the_same_as_a_whole_number_and_as_a_float(tmp_path: Path):
    for name, documents in (("train", pa.array(range(10))), ("test", pa.array([0.0, 1.0] * 5))):
        columns = {"text": [f"{name} {i}" for i in range(10)], "label": ["a", "b"] * 5, "doc": documents}
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    data = load_labelled(LabelledTextsConfig(path=str(tmp_path), document_column="doc"))
    assert {each.document for each in data.train} == set("23456789")
    columns = {"text": ["one", "two"], "label": ["a", "b"], "doc": [float("nan"), 1.0]}
    pq.write_table(pa.table(columns), tmp_path / "nan.parquet")
    with pytest.raises(UserError) as caught:
        load_labelled(LabelledTextsConfig(path=str(tmp_path / "nan.parquet"), document_column="doc"))
    assert "its document is" in caught.value.hint
