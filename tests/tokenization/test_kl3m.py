"""KL3M's vocabularies, the lists of added tokens, lines and their noise, and what is measured: worked numbers."""

import unicodedata
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from recipes.core.data.text.text_ids import TextIds
from recipes.core.data.text.vocabulary_bytes import unicode_bytes
from recipes.core.data.text.windows import Window
from recipes.core.errors import UserError
from recipes.core.evaluation.scores import Scores
from recipes.core.losses.objectives import IGNORE
from recipes.tokenization.config import NoiseConfig
from recipes.tokenization.kl3m.config import (
    BOUNDARIES,
    EDITS,
    ERRORS,
    GROUP_NAMES,
    NUMBERS,
    RIGHT,
    TOKENS,
    VocabularyConfig,
)
from recipes.tokenization.kl3m.corpora import Line, cut_lines
from recipes.tokenization.kl3m.correction import Format, NoisyLines, collate
from recipes.tokenization.kl3m.custom import GROUPS, SPECIAL, TAGS, TERMS, custom_tokens
from recipes.tokenization.kl3m.method import fillers, longest_token, padded_size, reduction
from recipes.tokenization.kl3m.results import score_corrections, score_noise, score_terms, score_texts
from recipes.tokenization.kl3m.vocabularies import train_vocabulary
from tests.core import tokenizer_kinds
from tests.tokenization.test_cuts import HARD

BARE = VocabularyConfig(size=512, custom=())
TEXTS = [*tokenizer_kinds.texts()[:60], "Licensee shall not (a) sublicense; (iv) 1995 copies.\n\n  Section 12.", *HARD]
BYTES = set(unicode_bytes())


def train(**changes: Any) -> Any:
    return train_vocabulary(replace(BARE, **changes), TEXTS)


def ids(tokenizer: Any, text: str) -> list[int]:
    return TextIds(tokenizer).ids(text)


def small(text: str) -> str:
    """In small letters one by one, as the library has it: a sigma at the end of a word is one as any other."""
    return "".join(letter.lower() for letter in text)


def test_reductions_of_the_specification() -> None:
    assert reduction(4.20, 7.70) == pytest.approx((0.4545, 1.8333), abs=5e-5)
    assert reduction(0.3181, 0.3716) == pytest.approx((0.1440, 1.1682), abs=5e-5)
    assert reduction(0.2417, 0.2636) == pytest.approx((0.0831, 1.0906), abs=5e-5)


def test_sizes_are_powers_of_two() -> None:
    assert [padded_size(size) for size in (1, 2, 3, 4, 5, 8191, 8192, 8193)] == [1, 2, 4, 4, 8, 8192, 8192, 16384]
    assert list(islice(fillers(), 4)) == ["  ", "\n\n", "   ", "\n\n\n"]
    assert longest_token(3) == 4 and longest_token(None) is None
    for changes in ({}, {"size": 300}, {"size": 4096}, {"size": 4096, "max_chars": 3}):
        size = len(train(**changes))
        assert size & (size - 1) == 0 and size <= 4096
    assert len(train(size=400, pad2=False)) == 400


def test_special_tokens_come_first_and_added_ones_are_one_token_each() -> None:
    tokenizer = train(size=4096, custom=GROUP_NAMES)
    assert [tokenizer.convert_tokens_to_ids(name) for name in SPECIAL] == list(range(13))
    assert tokenizer.bos_token == "<|start|>" and tokenizer.sep_token_id == 4 and tokenizer.padding_side == "left"
    tokens = custom_tokens(VocabularyConfig())
    several = [token for token, row in zip(tokens, TextIds(tokenizer).batch(tokens), strict=True) if len(row) != 1]
    assert len(tokens) > 1500 and not several
    assert [tokenizer.decode([token]) for token in ids(tokenizer, "1995")] == ["1995"]
    numbers = train(size=2048, custom=(NUMBERS,))
    whole = train(size=2048, custom=(NUMBERS,), whole_words=True)
    assert numbers.decode(ids(numbers, "19951")[:1]) == "199"  # added tokens cut words
    assert ids(whole, "199") == [whole.convert_tokens_to_ids("199")]
    assert whole.convert_tokens_to_ids("199") not in ids(whole, "19951")


def test_groups_are_those_of_the_paper() -> None:
    sizes = {name: len(set(GROUPS[name]())) for name in GROUPS}
    assert sizes["years"] == 2049 - 1776 + 1 and sizes["numbers"] == 990 and sizes["json"] == 10 and sizes["xml"] == 7
    assert len(TAGS) == len(set(TAGS)) == 37 and sizes["whitespace"] == 4 * 7 + 2
    assert sizes["enumerations"] == 52 + 99 + 7 + 7  # (v) is a letter, too
    assert [len(terms) for terms in TERMS.values()] == [10, 10]
    assert all(len(token) > 1 for token in custom_tokens(VocabularyConfig()))


@pytest.mark.parametrize("max_chars", [1, 2, 3, 4])
def test_no_token_is_longer_than_it_may_be(max_chars: int) -> None:
    tokenizer = train(max_chars=max_chars, size=600, pad2=False)
    learnt = [piece for piece in tokenizer.get_vocab() if piece not in SPECIAL]
    assert max(map(len, learnt)) == max_chars and len(learnt) >= 256 and set("".join(learnt)) <= BYTES
    if max_chars == 1:
        for text in HARD:
            assert len(ids(tokenizer, text)) == len(unicodedata.normalize("NFKC", text).encode())


@pytest.mark.parametrize(
    "changes", [{}, {"lowercase": True}, {"normaliser": "none"}, {"space_prefix": False}, {"max_chars": 3}]
)
def test_texts_come_back_in_their_normal_form(changes: dict[str, Any]) -> None:
    tokenizer = train(size=4096, custom=GROUP_NAMES, **changes)
    for text in [*HARD, "Section (a) of 1995: <DIV class='x'>  \n\n\n\t 199 ΣΑΣ", "<|sep|> is text"]:
        expected = text if changes.get("normaliser") == "none" else unicodedata.normalize("NFKC", text)
        assert tokenizer.decode(ids(tokenizer, text)) == (small(expected) if changes.get("lowercase") else expected)
    pieces = [piece for piece in tokenizer.get_vocab() if piece.startswith("Ġ") and piece.strip("ĠĊĉ").isalpha()]
    assert bool(pieces) == changes.get("space_prefix", True)


def test_more_merges_never_need_more_tokens_for_the_training_text() -> None:
    counts = [
        sum(len(ids(tokenizer, text)) for text in TEXTS) for tokenizer in (train(size=size) for size in (300, 400))
    ]
    assert counts[1] < counts[0]


def test_what_does_not_fit_is_refused(tmp_path: Any) -> None:
    with pytest.raises(UserError, match="leave no room for all 256 bytes"):
        train_vocabulary(VocabularyConfig(size=1024), TEXTS)
    with pytest.raises(UserError, match="tokens cannot be read"):
        train(custom_file=str(tmp_path / "none.txt"))
    (tmp_path / "mine.txt").write_text("habeas corpus\n\nF.3d\n", encoding="utf-8")
    tokenizer = train(custom_file=str(tmp_path / "mine.txt"))
    (tmp_path / "sign.txt").write_text("§ 12", encoding="utf-8")
    with pytest.raises(UserError, match="letters beyond ASCII"):
        train(custom_file=str(tmp_path / "sign.txt"))
    assert len(ids(tokenizer, "habeas corpus")) == 1 == len(ids(tokenizer, "F.3d"))


def window(id: str, text: str) -> Window:
    return Window(id, id, "legal", text)


def test_tokens_are_counted_without_special_ones_and_add_up() -> None:
    tokenizer, scores = tokenizer_kinds.byte_level(bos=True, adds_bos=True), Scores()
    windows = {"domain": [window("a", "the cat"), window("b", "a dog ran")], "general": [window("c", "houses")]}
    rows = score_texts(tokenizer, windows, scores)
    counts = [
        len(tokenizer(each.text, add_special_tokens=False)["input_ids"]) for some in windows.values() for each in some
    ]
    assert [row["tokens"] for row in rows] == counts
    overall = scores.overall()
    assert overall[f"domain/{TOKENS}"] == pytest.approx(sum(counts[:2]) / 16) and overall["exact"] == 1
    assert overall[f"mean/{TOKENS}"] == pytest.approx((sum(counts[:2]) / 16 + counts[2] / 6) / 2)
    score_terms(tokenizer, scores)
    bare = [len(tokenizer(term, add_special_tokens=False)["input_ids"]) for term in TERMS["legal"]]
    assert scores.overall()["terms/legal"] == pytest.approx(np.mean(bare))


def test_boundaries_stay_without_noise_and_short_tokens_keep_more_of_them() -> None:
    windows = [window(str(at), text) for at, text in enumerate(tokenizer_kinds.texts()[60:90])]
    kept = {}
    for max_chars in (1, 2, None):
        for rate in (0.0, 0.1):
            scores = Scores()
            score_noise(train(size=1024, max_chars=max_chars), windows, NoiseConfig(rate=rate), 0, scores)
            kept[max_chars, rate] = scores.overall()
    for max_chars in (1, 2, None):
        assert kept[max_chars, 0.0][BOUNDARIES] == kept[max_chars, 0.0][EDITS] == 1
        assert kept[max_chars, 0.0]["token_edits"] == 0
    assert kept[1, 0.1][BOUNDARIES] == 1 > kept[2, 0.1][BOUNDARIES] > kept[None, 0.1][BOUNDARIES]


def test_lines_are_whole_words() -> None:
    assert list(cut_lines("ab cde\n\nf ghijkl", 6)) == ["ab cde", "f", "ghijkl"]
    assert list(cut_lines("abcdefgh i", 5)) == ["abcde", "fgh i"] and list(cut_lines("  \n", 5)) == []


def test_rows_predict_the_clean_line_and_its_end_alone() -> None:
    tokenizer = train(max_chars=2)
    layout = Format(tokenizer)
    lines = NoisyLines(["one line", "a line that is longer"], layout, NoiseConfig(rate=0.3), 6, 3)
    items = [lines[index] for index in range(6)]
    assert items == [lines[index] for index in range(6)] and len({item["id"] for item in items[:2]}) == 2
    batch = collate(items)
    for row, item in enumerate(items):
        labels = batch["labels"][row]
        at = (labels != IGNORE).nonzero()[:, 0]
        assert labels[at].tolist() == item["target"] == [*layout.target(layout.text(item["target"]))]
        assert batch["input_ids"][row, at[0]] == tokenizer.sep_token_id
        assert torch.equal(batch["input_ids"][row, at[1:]], labels[at[:-1]])  # each is read before the next is asked
    assert batch["weights"].sum() == batch["normalizer"] == sum(len(item["target"]) for item in items)
    filled = Format(tokenizer, ["one line", "a line that is longer"])  # clean lines begin at the same place
    assert len({len(filled.prompt(text)) for text in ("", "one line", "a lline that is longer")}) == 1
    assert len(filled.prompt("a line that is much, much longer")) > len(filled.prompt(""))
    assert layout.target("") == [tokenizer.eos_token_id] and layout.text([*layout.target("one line")]) == "one line"


def test_character_errors_are_edits_over_characters() -> None:
    scores, lines = Scores(), [Line("0", "d", "clean"), Line("1", "d", "a longer line")]
    rows = score_corrections(lines, ["cIean", "a longer line"], ["clean", "a long line"], scores)
    overall = scores.overall()
    assert overall[ERRORS] == pytest.approx(2 / 18) and overall["correction/noisy"] == pytest.approx(1 / 18)
    assert overall[RIGHT] == 0.5 and [row["errors"] for row in rows] == [0, 2]
