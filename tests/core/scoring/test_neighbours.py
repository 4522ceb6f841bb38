"""Chunks of documents, and the texts nearest to others: a sort of all cosines without the query's document."""

from pathlib import Path

import numpy as np
import pytest

from recipes.core.errors import UserError
from recipes.core.scoring import neighbours as module
from recipes.core.scoring.neighbours import (
    MISSING,
    WORD,
    cut_into_chunks,
    document_numbers,
    hashed_tfidf,
    join_chunks,
    nearest_texts,
)
from recipes.core.scoring.neighbours_config import KeysConfig

END = 9
IDS = np.array([1, 2, 3, 4, 5, END, END, 6, 7, 8, END, 1, 1])  # documents of 5, 0, 3 and 2 tokens, the last without end


def test_documents_are_cut_at_their_starts_and_continue_inside_themselves() -> None:
    assert document_numbers(IDS, END).tolist() == [0] * 6 + [1] + [2] * 4 + [3] * 2
    chunks = cut_into_chunks(IDS, END, 2, first=10)
    assert chunks.tokens.tolist() == [[1, 2], [3, 4], [5, 0], [6, 7], [8, 0], [1, 1]]
    assert chunks.lengths.tolist() == [2, 2, 1, 2, 1, 2] and chunks.documents.tolist() == [10, 10, 10, 12, 12, 13]
    assert chunks.continued.tolist() == [True, True, False, True, False, False]
    tokens, visible = chunks.with_continuation(np.array([[0, 2], [4, MISSING]]))
    assert tokens.tolist() == [[[1, 2, 3, 4], [5, 0, 0, 0]], [[8, 0, 0, 0], [0] * 4]]
    assert visible.sum(-1).tolist() == [[4, 1], [1, 0]]
    joined = join_chunks([chunks, cut_into_chunks(IDS, END, 2, first=14)])
    assert len(joined) == 12 and not joined.continued[5]
    assert len(cut_into_chunks(np.array([END]), END, 4)) == 0


def test_search_is_a_sort_of_all_cosines_without_the_own_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path))
    random = np.random.default_rng(0)
    words = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen"]
    texts = [" ".join(random.choice(words, 6)) for _ in range(60)]
    texts[7] = texts[3]  # of equal ones the first comes first
    documents = np.arange(60) // 5
    keys, _ = (part.numpy().astype(np.float64) for part in hashed_tfidf(texts, texts, 64))
    units = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    cosines = units @ units.T
    owners = np.stack([documents, np.minimum(documents + 1, 11)], 1)
    cosines[(owners[:, :, None] == documents).any(1)] = -np.inf
    best = nearest_texts(KeysConfig(buckets=64), texts, texts, 4, (owners, documents))
    sorted_cosines = np.sort(cosines, 1)[:, ::-1][:, :4]
    np.testing.assert_allclose(np.take_along_axis(cosines, best, 1), sorted_cosines, atol=1e-6)
    assert not (documents[best][:, :, None] == owners[:, None]).any()
    assert nearest_texts(KeysConfig(buckets=64), texts, [texts[3]], 2).tolist() == [[3, 7]]
    few = nearest_texts(KeysConfig(), texts[:3], texts[:3], 3, (np.arange(3), np.arange(3)))
    assert (few[:, 2] == MISSING).all() and (few[:, :2] != MISSING).all()
    monkeypatch.setattr(module, "nearest", lambda *_, **__: pytest.fail("searched a second time"))
    again = nearest_texts(KeysConfig(buckets=64), texts, texts, 4, (owners, documents))
    assert np.array_equal(again, best)


def test_a_text_without_words_has_no_neighbours_and_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path))
    texts = ["-----", "the lamp", "", "the lens", "x . y"]
    best = nearest_texts(KeysConfig(), texts, ["-----", "the lens", "a b"], 3)
    assert best.tolist() == [[MISSING] * 3, [3, 1, MISSING], [MISSING] * 3]
    own = (np.array([0, 3]), np.arange(5))
    assert nearest_texts(KeysConfig(), texts, ["?", "the lens"], 1, own).tolist() == [[MISSING], [1]]
    with pytest.raises(UserError, match="no text has a word") as error:
        nearest_texts(KeysConfig(), ["--", ". ."], ["a lamp"], 1, where="retrieval.keys")
    assert error.value.where == "retrieval.keys.kind=tfidf" and "retrieval.keys.kind=minilm" in str(error.value.hint)


def test_in_scripts_without_spaces_characters_are_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path))
    assert WORD.findall("a GPT-2 of 東京都へ, ที่ x") == ["GPT", "of", *"東京都へ", *"ที่"]
    assert WORD.findall("İzmir'de naïve co_op 1 22") == ["İzmir", "de", "naïve", "co_op", "22"]
    texts = ["猫が庭にいます。", "株価は今日も下がった。", "雨が降っている。"]
    assert nearest_texts(KeysConfig(), texts, ["今日の株価", "庭に猫"], 1).tolist() == [[1], [0]]


def test_rare_words_count_more_and_collisions_nothing_in_the_mean() -> None:
    texts = ["the lamp", "the lens", "the lock", "a lamp of the house"]
    keys, asked = hashed_tfidf(texts, ["lamp"], 2**12)
    products = (keys @ asked.T).squeeze(1)
    assert float(products[0]) > 0 and float(products[3]) > 0 and not products[1:3].any()
    size = keys.abs().amax(1)
    assert float(keys[1].abs().max()) == float(size[1]) and float(size[1]) > float(keys[1].abs()[keys[1] != 0].min())
