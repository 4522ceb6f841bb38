"""Collections: what is read of a user's folder, what is refused, and the one that ships."""

from pathlib import Path
from typing import Any

import pytest

from recipes.core.errors import UserError
from recipes.core.search.beir import read_collection
from recipes.core.search.config import CollectionConfig, WikiSearchConfig
from recipes.core.search.leads import hide, sentences, wiki_search
from tests.retrieval.conftest import JUDGED, PASSAGES, QUERIES, write_collection


def test_a_folder_in_the_layout_of_beir(collection_folder: Path) -> None:
    collection = read_collection(CollectionConfig(path=str(collection_folder)))
    assert list(collection.passages.ids) == list(PASSAGES) and list(collection.test.ids) == list(QUERIES)
    assert collection.passages.whole(0).startswith("Cat A small") and collection.passages.whole(2).startswith("A large")
    assert collection.test.grades[0] == {1: 1, 0: 0} and collection.test.relevant(0) == [1]
    assert not len(collection.train)


def test_judgements_of_trec_and_a_split_to_train_on(collection_folder: Path) -> None:
    (collection_folder / "qrels" / "test.tsv").write_text("q1 0 dog 1\nq2 0 pine 1\n", encoding="utf-8")
    (collection_folder / "qrels" / "train.tsv").write_text("q1\tcat\t1\nq3\tcar\t1\n", encoding="utf-8")
    collection = read_collection(CollectionConfig(path=str(collection_folder)))
    assert list(collection.test.ids) == ["q1", "q2"]
    assert list(collection.train.ids) == ["q3"]  # q1 is tested on


ROW = {"_id": "new", "title": "", "text": "Something else."}
CORPUS = [{"_id": id, "title": t, "text": x} for id, (t, x) in PASSAGES.items()]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": [*CORPUS, ROW | {"_id": 7}]}, "its _id is 7, no text; ids are strings in quotes"),
        ({"corpus": [*CORPUS, ROW | {"_id": "cat"}]}, "has the _id 'cat' of"),
        ({"corpus": [*CORPUS, ROW | {"text": "  "}]}, "is empty"),
        ({"corpus": [*CORPUS, {"title": "", "text": "x"}]}, "has no _id"),
        ({"corpus": [*CORPUS, ROW | {"_id": ""}]}, "its _id '' is empty or has a space"),
        ({"queries": [{"_id": "q 1", "text": "x"}]}, "its _id 'q 1' is empty or has a space"),
        ({"queries": [{"_id": "q1", "text": ""}]}, "asks nothing"),
        ({"qrels": [*JUDGED, ("q3", "cat", 10**20)]}, "no whole number up to 1,000"),
        ({"qrels": [*JUDGED, ("q9", "cat", 1)]}, "judges the query 'q9', which is not there"),
        ({"qrels": [*JUDGED, ("q1", "cow", 1)]}, "judges the passage 'cow' for 'q1', which is not there"),
        ({"qrels": [*JUDGED[:-1], ("q4", "cat", 0)]}, "no passage is relevant to 'q4'"),
        ({"qrels": [*JUDGED, ("q1", "dog", "much")]}, "its grade is"),
        ({"qrels": [*JUDGED, ("q1", "dog", 0)]}, "judges 'dog' for 'q1' a second time, and otherwise"),
    ],
)
def test_rows_that_cannot_be_used_are_named_or_counted(
    tmp_path: Path, capsys: Any, changes: dict[str, Any], message: str
) -> None:
    folder = write_collection(tmp_path, **changes)
    with pytest.raises(UserError) as refused:
        read_collection(CollectionConfig(path=str(folder)))
    assert message in refused.value.hint and "data.on_error=skip" in refused.value.hint
    if "queries" not in changes:
        assert len(read_collection(CollectionConfig(path=str(folder), on_error="skip")).test) >= 3
        assert "were left out" in capsys.readouterr().err


def test_what_is_no_collection_is_refused(tmp_path: Path) -> None:
    folder = write_collection(tmp_path / "a")
    for name, message in (("qrels/test.tsv", "has no qrels"), ("corpus.jsonl", "has no corpus.jsonl")):
        (folder / name).unlink()
        with pytest.raises(UserError, match=message):
            read_collection(CollectionConfig(path=str(folder)))
        write_collection(folder)
    with pytest.raises(UserError, match="has no judgements qrels/dev.tsv"):
        read_collection(CollectionConfig(path=str(folder), split="dev"))
    (folder / "qrels" / "test.tsv").write_bytes("q1\tcaf\u00e9\t1\n".encode("latin-1"))
    with pytest.raises(UserError, match="test.tsv: cannot be read: UnicodeDecodeError"):
        read_collection(CollectionConfig(path=str(folder)))


def test_the_first_judgement_is_no_header_and_what_is_not_asked_is_counted(tmp_path: Path, capsys: Any) -> None:
    folder = write_collection(tmp_path)
    (folder / "qrels" / "test.tsv").write_text("q1\tdog\t1.0\nq2\tpine\t1\n", encoding="utf-8")
    with pytest.raises(UserError) as refused:
        read_collection(CollectionConfig(path=str(folder)))
    assert "test.tsv line 1: its grade is" in refused.value.hint
    (folder / "qrels" / "test.tsv").write_text("q1\tdog\t1\n", encoding="utf-8")
    read_collection(CollectionConfig(path=str(folder)))
    assert "3 of 4 queries are not judged in qrels/test, and are not asked" in capsys.readouterr().err


def test_equal_passages_are_counted(tmp_path: Path, capsys: Any) -> None:
    corpus = [*CORPUS, {"_id": "again", "title": "", "text": PASSAGES["oak"][1]}]
    read_collection(CollectionConfig(path=str(write_collection(tmp_path, corpus=corpus))))
    assert "1 of 6 passages say what another one says" in capsys.readouterr().err


def test_a_title_is_hidden_wherever_it_is_a_word() -> None:
    assert hide("Cat (animal)", "Cat (animal) is a cat. Cats concatenate; the cat sleeps.") == (
        "it is a it. Cats concatenate; the it sleeps."
    )


def test_sentences_end_where_people_end_them() -> None:
    text = "He met Dr. Smith in Rome. It was late (about ten). J. R. Hartley came, too."
    assert sentences(text) == ["He met Dr. Smith in Rome.", "It was late (about ten).", "J. R. Hartley came, too."]


@pytest.mark.asset
def test_leads_are_searched_without_their_titles() -> None:
    collection = wiki_search(WikiSearchConfig())
    collection.check()
    assert not set(collection.test.ids) & set(collection.train.ids)
    assert len(collection.passages) == len(collection.test) + len(collection.train)
    for number in range(0, len(collection.test), 97):
        (passage,) = collection.test.relevant(number)
        title = collection.passages.ids[passage].replace("_", " ")
        assert hide(title, collection.passages.texts[passage]) == collection.passages.texts[passage]


def test_a_part_of_a_collection_keeps_what_answers_its_queries(collection_folder):
    whole = read_collection(CollectionConfig(path=str(collection_folder)))
    asked = whole.test.take([1, 3])  # pine, cat
    passages, queries = whole.part(asked, 3, seed=0)
    assert len(passages) == 3 and {"pine", "cat"} <= set(passages.ids)
    assert [passages.ids[queries.relevant(number)[0]] for number in range(2)] == ["pine", "cat"]
    assert passages.ids == [id for id in whole.passages.ids if id in passages.ids]
    assert whole.part(asked, 1, seed=0)[0].ids == ["cat", "pine"]  # never fewer than answer
    assert whole.part(asked, None, seed=0) == (whole.passages, asked)


@pytest.mark.asset
def test_leads_that_no_article_has_are_refused() -> None:
    with pytest.raises(UserError, match="no lead of 1000 sentences"):
        wiki_search(WikiSearchConfig(sentences=1000))
