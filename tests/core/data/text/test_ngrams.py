"""Hashed n-grams: the published buckets, brute force, and what is remembered changes nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.core.data.text.ngrams import NgramHasher, batches, bucket_of, words_of

texts = st.lists(st.text(alphabet=st.sampled_from("abçİß²½_. ,\n1"), max_size=40), max_size=8)


def counts_of(text: str, buckets: int = 10_000, ngrams: int = 2) -> np.ndarray:
    """Brute force: one n-gram after another."""
    words, counts = words_of(text), np.zeros(buckets, np.int64)
    for order in range(1, ngrams + 1):
        for start in range(len(words) - order + 1):
            counts[bucket_of(" ".join(words[start : start + order]), buckets)] += 1
    return counts


def test_buckets_of_the_published_test() -> None:
    assert (bucket_of("alice", 10_000), bucket_of("alice went", 10_000)) == (6720, 114)
    occurrences = NgramHasher(10_000).occurrences([words_of("Alice went to the store")])
    assert len(occurrences.buckets) == 9 and occurrences.lengths.tolist() == [5]
    assert occurrences.counts(10_000).sum() == 9


def test_words_are_lower_cased_and_punctuation_stays_together() -> None:
    assert words_of("It's $3.88, na\u00efve\u2026 \u4f60\u597d!?") == [
        *("it", "'", "s", "$", "3", ".", "88", ",", "na\u00efve", "\u2026", "\u4f60\u597d", "!?")
    ]


def test_a_lone_surrogate_has_a_bucket() -> None:
    assert 0 <= bucket_of("\ud800", 10) < 10


@given(texts, st.integers(1, 2), st.sampled_from([2, 4, 1024]), st.sampled_from([0, 3, 1000]))
def test_remembered_buckets_are_the_hashed_ones(documents: list[str], ngrams: int, slots: int, vocabulary: int) -> None:
    hasher = NgramHasher(50, ngrams, slots, vocabulary)
    for batch in batches(map(words_of, documents * 2), words=7):
        occurrences = hasher.occurrences(batch)
        rows = np.zeros((len(batch), 50), np.int64)
        np.add.at(rows, (occurrences.rows, occurrences.buckets), 1)
        assert rows.tolist() == [counts_of(" ".join(words), 50, ngrams).tolist() for words in batch]
        assert occurrences.counts(50).tolist() == rows.sum(0).tolist()
        assert occurrences.lengths.tolist() == [len(words) for words in batch]


@given(texts, st.integers(1, 30))
def test_a_document_weighs_the_same_in_every_batch(documents: list[str], size: int) -> None:
    values = np.random.default_rng(0).normal(size=100)
    weigh = NgramHasher(100).occurrences
    alone = [weigh([words_of(text)]).dot(values)[0] for text in documents]
    together = [w for batch in batches(map(words_of, documents), size) for w in weigh(batch).dot(values)]
    assert together == alone
    assert together == pytest.approx([counts_of(text, 100) @ values for text in documents])


def test_bigrams_met_before_are_not_hashed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    hasher, text = NgramHasher(100, vocabulary=3), ["a", "b", "a", "c"]
    first = hasher.occurrences([text]).buckets.tolist()
    monkeypatch.setattr("recipes.core.data.text.ngrams.bucket_of", lambda *_: pytest.fail("hashed again"))
    assert hasher.occurrences([text]).buckets.tolist() == first


def test_a_vocabulary_that_no_longer_fits_is_replaced() -> None:
    hasher = NgramHasher(100, vocabulary=2)
    for words in (["a", "b"], ["c", "d"], ["c", "d"]):
        assert hasher.occurrences([words]).counts(100).tolist() == counts_of(" ".join(words), 100).tolist()
    assert set(hasher._words) == {"c", "d"}


def test_more_than_two_words_are_refused() -> None:
    with pytest.raises(ValueError, match="1 or 2, not 3"):
        NgramHasher(10, ngrams=3)


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1), st.lists(st.sampled_from(["a", "b", "d"]), min_size=1))
def test_joined_documents_differ_by_the_bridging_bigram(first: list[str], second: list[str]) -> None:
    values = np.random.default_rng(1).normal(size=1000)
    hasher = NgramHasher(1000)
    joined, one, two = hasher.occurrences([first + second, first, second]).dot(values)
    assert joined - one - two == pytest.approx(values[bucket_of(f"{first[-1]} {second[0]}", 1000)])
