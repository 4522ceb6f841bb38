"""Corpora as shards: chunks and sides of a split."""

import pytest

from recipes.core.data.text import corpora
from recipes.core.data.text.corpora import Chunked, Corpus, DomainShard, Part, distinct
from recipes.core.data.text.shards import Document
from tests.core.data.text.memory import Memory

SHARD = Memory("memory", ("one two three four five", "six"))


def test_chunks_keep_all_words_in_order() -> None:
    chunks = list(Chunked(SHARD, 2).read())
    assert [(document.id, document.text) for document in chunks] == [
        ("0#0", "one two"),
        ("0#1", "three four"),
        ("0#2", "five"),
        ("1#0", "six"),
    ]


def test_a_split_is_whole_and_its_sides_have_other_fingerprints() -> None:
    sides = [Part(SHARD, 0.5, side, "salt") for side in ("train", "test")]
    assert sorted(document.id for side in sides for document in side.read()) == ["0", "1"]
    assert Corpus((sides[0],)).fingerprint() != Corpus((sides[1],)).fingerprint()


def test_near_duplicates_are_left_out_over_all_shards_of_a_corpus(capsys: pytest.CaptureFixture[str]) -> None:
    shards = [Memory("first", ("one two", "three")), Memory("second", ("five", "One  two"), first=2)]
    assert distinct(shards, None, "x") == shards
    kept = distinct(shards, 0.9, "data.source=x")
    assert [shard.name for shard in kept] == ["first", "second"]
    assert [document.text for shard in kept for document in shard.read()] == ["one two", "three", "five"]
    assert "data.source=x: 1 document was left out: 3 nearly repeats 0" in capsys.readouterr().err
    assert Corpus(tuple(kept)).fingerprint() != Corpus(tuple(shards)).fingerprint()


def test_copies_beyond_the_characters_of_a_domain_leave_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"news": ("one two", "three"), "licences": ("three", "One two")}
    monkeypatch.setattr(
        corpora,
        "domain_documents",
        lambda name: [Document(f"{name}/{number}", text, name) for number, text in enumerate(texts[name])],
    )

    def kept(characters: int | None) -> list[str]:
        shards = distinct([DomainShard(name, characters) for name in texts], 0.9, "the pool")
        return [document.id for shard in shards for document in shard.read()]

    assert {name.partition("/")[0] for name in kept(None)} == {"news"} and len(kept(None)) == 2
    first = [next(DomainShard(name, 1).read()) for name in texts]
    assert first[0].text != first[1].text and kept(1) == [document.id for document in first]
