"""Noise, Levenshtein's distance, coverage of scripts, and the picture of a text cut by several tokenizers."""

import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.core.data.text.windows import Window, random_of
from recipes.core.evaluation.cuts import Cuts, read_cuts, write_cuts
from recipes.core.report.cuts import PART, legible_cuts
from recipes.tokenization.config import NOISES, NoiseConfig, TokenizerConfig
from recipes.tokenization.edits import aligned_places, edit_distance, edit_share
from recipes.tokenization.measures import agreement
from recipes.tokenization.noise import LIKE, edited, substituted
from recipes.tokenization.pictures import cut_texts, in_turn, tokens_of
from recipes.tokenization.scripts import BLOCKS, characters_of, coverage
from recipes.tokenization.tokenizers import train_tokenizer
from tests.core import tokenizer_kinds

# What has gone wrong somewhere: a letter with two small forms, right to left, marks on letters, no spaces, pictures.
HARD = [
    "İstanbul ılık IĞDIR",
    "שלום עולם",
    "e\u0301 a\u0308\u0323",
    "猫が座った。",
    "مرحبا",
    "👩‍👩‍👧 ok",
    " \u00a0\t\n x  ",
    "ﬁ ①",
]


@cache
def by_recursion(one: str, other: str) -> int:
    if not one or not other:
        return len(one) + len(other)
    return min(
        by_recursion(one[1:], other) + 1,
        by_recursion(one, other[1:]) + 1,
        by_recursion(one[1:], other[1:]) + (one[0] != other[0]),
    )


def test_the_distance_is_that_of_its_definition() -> None:
    draw = np.random.default_rng(0)
    for _ in range(60):
        one, other = ("".join(draw.choice(list("abc"), size=draw.integers(7))) for _ in range(2))
        assert edit_distance(one, other) == by_recursion(one, other)
    assert edit_distance("kitten", "sitting") == 3 and edit_distance([5, 6], [6]) == 1 and edit_distance("", "") == 0
    assert edit_share("ab", "abcd") == 0.5 and edit_share("", "") == 0 and edit_share([1, 2], []) == 1


def test_places_are_the_same_behind_what_is_put_in_or_left_out() -> None:
    left, right = aligned_places("the cat", "the big cat")
    assert left[4] == right[8] and left[-1] == right[-1] and left[0] == right[0] == 0
    left, right = aligned_places("xthe", "the")  # a start at what is left out is one at what comes behind
    assert left.tolist() == [0, 0, 1, 2, 3] and right.tolist() == [0, 1, 2, 3]
    assert [part.tolist() for part in aligned_places("ab", "cb")] == [[0, 1, 2], [0, 1, 2]]
    assert [part.tolist() for part in aligned_places("", "ab")] == [[0], [0, 0, 0]]


def test_boundaries_of_the_specification() -> None:
    assert agreement({0, 2, 5}, {0, 2, 3, 5}) == 0.75  # ab|cde|f against ab|c|de|f


@pytest.mark.parametrize("text", ["The 5 boxes, sold by us.", *HARD])
def test_substitutions_keep_the_length_and_what_is_no_letter(text: str) -> None:
    noisy = substituted(text, 1.0, random_of(0, "x"))
    assert len(noisy) == len(text) and noisy == substituted(text, 1.0, random_of(0, "x"))
    kept = [one == other for one, other in zip(text, noisy, strict=True)]
    assert all(same for same, each in zip(kept, text, strict=True) if each.isspace())
    assert not any(same for same, each in zip(kept, text, strict=True) if each in LIKE)
    assert substituted(text, 0.0, random_of(0, "x")) == text == edited(text, 0.0, NOISES, random_of(0, "x"))


def test_each_kind_of_edit_does_what_it_says() -> None:
    text = "some words in a row " * 40
    for kind, longer in (("delete", False), ("insert", True)):
        noisy = edited(text, 0.1, (kind,), random_of(1, kind))
        assert (len(noisy) > len(text)) == longer and edit_distance(text, noisy) == abs(len(noisy) - len(text))
        assert abs(len(noisy) - len(text)) == pytest.approx(80, abs=30)
    spaced = edited(text, 0.1, ("space",), random_of(1, "space"))
    assert spaced.replace(" ", "") == text.replace(" ", "") and spaced != text
    assert NoiseConfig(kinds=()).check() and not NoiseConfig().check()


@pytest.mark.parametrize(
    ("kind", "latin", "han"),
    [("plain", "pieces", "pieces"), ("word-mark", "lost", "lost"), ("word-pieces", "lost", "lost")],
)
def test_coverage_of_scripts(kind: str, latin: str, han: str) -> None:
    tokenizer = tokenizer_kinds.KINDS[kind]()
    letters = coverage(tokenizer, list("the"))
    assert letters.one == 1 and letters.pieces == letters.lost == 0
    for script, expected in (("Latin", latin), ("Han", han)):
        shares = coverage(tokenizer, characters_of(script)[:400])
        assert shares.one + shares.pieces + shares.lost == pytest.approx(1)
        assert max(vars(shares), key=vars(shares).__getitem__) == expected
    assert all(characters_of(script) for script in BLOCKS) and "ß" in characters_of("Latin")


def test_byte_level_tokenizers_give_every_text_back_and_others_count_what_they_lose() -> None:
    like = tokenizer_kinds.byte_level(bos=True)
    new = train_tokenizer(
        TokenizerConfig(vocabulary=400), [*tokenizer_kinds.texts()[:20], *HARD], "hard texts", like, 0
    )
    for text, one in zip(HARD, tokens_of(new, HARD), strict=True):
        assert new.decode(one.ids) == text and "".join(one.texts(text)) == text
        # The same letters, marked otherwise, are another text, and come back as such.
        other = unicodedata.normalize("NFD", text)
        assert new.decode(tokens_of(new, [other])[0].ids) == other
    for kind in ("word-mark", "unigram", "word-pieces"):
        tokenizer = tokenizer_kinds.KINDS[kind]()
        assert coverage(tokenizer, list("猫")).lost == 1
        assert ["".join(one.texts(text)) for text, one in zip(HARD, tokens_of(tokenizer, HARD), strict=True)] == HARD


@pytest.mark.parametrize("texts", [[""], ["word"], [" "]])
def test_a_text_of_one_word_or_none_leaves_the_bytes(texts: list[str]) -> None:
    like = tokenizer_kinds.byte_level(bos=True)
    new = train_tokenizer(TokenizerConfig(vocabulary=300), texts, f"little: {texts}", like, 0)
    assert all(new.decode(tokens_of(new, [text])[0].ids) == text for text in HARD)


def windows() -> list[Window]:
    texts = ["the cat sat on a red house. the dog ran.", "a big tree 猫 and a small tree"]
    return [Window(f"{name}/{at}", name, name, text) for name in ("one", "two") for at, text in enumerate(texts)]


def picture(**tokenizers: Any) -> Cuts:
    cuts = cut_texts(windows(), tokenizers, NoiseConfig(rate=0.1), 0, 3)
    assert cuts is not None
    return cuts


def test_a_picture_of_the_same_text_cut_by_several_tokenizers(tmp_path: Path) -> None:
    cuts = picture(bytes=tokenizer_kinds.byte_level(), marks=tokenizer_kinds.word_mark())
    assert [text.id for text in cuts.texts] == ["one/0", "two/0", "one/1"]  # domains in turn
    assert [each.id for each in in_turn(windows())] == ["one/0", "two/0", "one/1", "two/1"]
    for text in cuts.texts:
        assert [cut.label for cut in text.cuts] == ["bytes", "bytes, misread", "marks", "marks, misread"]
        clean, noisy = ({"".join(cut.tokens) for cut in text.cuts[at::2]} for at in (0, 1))
        assert len(clean) == len(noisy) == 1 and clean != noisy  # all tokenizers read the same
        assert all(cut.note.startswith(f"{len(cut.tokens)} tokens") for cut in text.cuts)
    assert any(any(cut.marked) for cut in cuts.texts[0].cuts) and not all(cuts.texts[0].cuts[0].marked)
    quiet = cut_texts(windows(), {"bytes": tokenizer_kinds.byte_level()}, NoiseConfig(rate=0.0), 0, 1)
    assert quiet is not None and not any(any(cut.marked) for cut in quiet.texts[0].cuts)
    assert cut_texts(windows(), {}, NoiseConfig(), 0, 0) is None
    write_cuts(tmp_path, cuts)
    assert read_cuts(tmp_path) == cuts and read_cuts(tmp_path / "none") is None
    shown = legible_cuts(tmp_path)
    assert shown is not None and PART in shown.texts[2].cuts[0].tokens  # the second and third byte of a character
