"""Corpora as shards: chunks and sides of a split."""

from recipes.core.data.text.corpora import Chunked, Corpus, Part
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
