"""Near-duplicates, beside brute force over all pairs."""

import uuid

import numpy as np
import pytest

from recipes.core.data.text.near_duplicates import (
    MISSED,
    PERMUTATIONS,
    RUN,
    NearDuplicates,
    band_rows,
    jaccard,
    near_duplicate_ids,
    near_duplicates,
    word_runs,
)
from recipes.core.data.text.shards import Document

KEYS = [str(uuid.uuid4()) for _ in range(3)]


def planted(originals: int = 25, copies: int = 4) -> list[Document]:
    """Texts of 60 words, and copies of each in which up to 8 words are others, shuffled."""
    random = np.random.default_rng(0)
    texts = []
    for _ in range(originals):
        words = [f"w{number}" for number in random.integers(0, 500, 60)]
        texts.append(words)
        for changes in random.integers(0, 9, copies):
            copy = list(words)
            for place in random.integers(0, 60, changes):
                copy[place] = "other"
            texts.append(copy)
    order = random.permutation(len(texts))
    return [Document(f"d{number}", " ".join(texts[index]), "") for number, index in enumerate(order)]


def brute_force(documents: list[Document], threshold: float) -> dict[str, str]:
    kept: list[Document] = []
    originals = {}
    for document in documents:
        first = next((each for each in kept if similarity(document.text, each.text) >= threshold), None)
        if first is None:
            kept.append(document)
        else:
            originals[document.id] = first.id
    return originals


def similarity(first: str, second: str) -> float:
    sets = [
        {tuple(words[start : start + RUN]) for start in range(len(words) - RUN + 1)}
        for words in (first.split(), second.split())
    ]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8, 0.9, 1.0])
def test_the_same_documents_as_over_all_pairs(threshold: float) -> None:
    documents = planted()
    originals = near_duplicates(documents, threshold)
    assert originals == brute_force(documents, threshold) and 2 < len(originals) < len(documents)
    assert originals == near_duplicates(documents, threshold)


def test_the_first_is_kept_and_stands_for_all_that_are_similar_to_it() -> None:
    text = "the grant of this licence ends where its terms are broken by you"  # 13 words, 9 runs
    texts = (text, "something else that is as long", text.upper() + "!", text + " alone", text[::-1])
    documents = [Document(f"d{number}", one, "") for number, one in enumerate(texts)]
    assert near_duplicates(documents, 0.9) == {"d2": "d0", "d3": "d0"}  # 9 runs of 10
    assert near_duplicates(documents, 0.91) == {"d2": "d0"}
    assert near_duplicates(reversed(documents), 0.9) == {"d2": "d3", "d0": "d3"}


def test_short_texts_are_one_run_and_texts_without_words_are_themselves() -> None:
    assert len(word_runs("two words")) == len(word_runs("!?")) == 1
    assert jaccard(word_runs("Two words."), word_runs("two  WORDS")) == 1
    assert jaccard(word_runs("!?"), word_runs("?!")) == 0
    assert jaccard(word_runs("a b c d e f"), word_runs("b c d e f g")) == pytest.approx(1 / 3)


@pytest.mark.parametrize(("threshold", "rows"), [(0.2, 1), (0.5, 2), (0.8, 4), (0.9, 6), (1.0, 64)])
def test_bands_miss_next_to_nothing_at_the_threshold(threshold: float, rows: int) -> None:
    assert band_rows(threshold) == rows
    assert (1 - threshold**rows) ** (PERMUTATIONS // rows) <= MISSED


def test_documents_that_the_search_is_not_asked_about_do_not_count() -> None:
    search = NearDuplicates(0.8)
    assert [search.repeats(document) for document in planted(2, 0) * 2] == [False, False, True, True]
    assert search.originals == {"d0": "d0", "d1": "d1"}


def test_each_key_is_searched_once_and_what_is_left_out_is_said_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    searches = []

    def search() -> dict[str, str]:
        searches.append(1)
        return near_duplicates((Document(f"d{number}", "same text", "") for number in range(3)), 0.8)

    for key in (KEYS[0], KEYS[0], KEYS[1]):
        assert near_duplicate_ids(search, key, "data.path=x") == {"d1", "d2"}
        said = "warning: data.path=x: 2 documents were left out: d1 nearly repeats d0; d2 nearly repeats d0"
        assert said in capsys.readouterr().err
    assert len(searches) == 2
    near_duplicate_ids(lambda: {f"d{number}": "d" for number in range(5)}, KEYS[2], "x")
    assert capsys.readouterr().err.endswith("; d2 nearly repeats d; and 2 more\n")
