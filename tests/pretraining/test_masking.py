"""Masks: counts of the sheet, whole words, shares, rows that no padding and no neighbour changes."""

from typing import Any

import numpy as np
import pytest
import torch

from recipes.core.errors import UserError
from recipes.core.models.tokenizer import train_bpe, train_wordpiece
from recipes.pretraining.masked_rows import Masker, Pieces
from recipes.pretraining.masking import choose_tokens, choose_words, corrupt, mask_counts, uniform_rows
from recipes.pretraining.masking_config import MaskingConfig

WORDS = [f"word{n} of many words standing here" for n in range(50)]


def test_counts() -> None:
    lengths = torch.tensor([3, 6, 10, 64, 128, 512])
    assert mask_counts(lengths, 0.15, 128).tolist() == [1, 1, 2, 10, 19, 19]
    assert mask_counts(torch.tensor([512]), 0.25, 512).tolist() == [128]
    assert mask_counts(torch.tensor([600]), 0.25, 512).tolist() == [130]


def test_tokens_are_chosen_without_replacement() -> None:
    candidates = torch.ones(200, 20, dtype=torch.bool)
    candidates[:, [0, 19]] = False
    counts = torch.arange(200) % 25
    chosen = choose_tokens(candidates, counts, torch.rand(200, 20))
    assert chosen.sum(1).tolist() == counts.clamp_max(18).tolist() and not chosen[:, [0, 19]].any()
    shares = choose_tokens(torch.ones(4000, 5, dtype=torch.bool), torch.full((4000,), 2), torch.rand(4000, 5))
    assert shares.float().mean(0).numpy() == pytest.approx(np.full(5, 0.4), abs=0.03)


def test_whole_words_by_hand() -> None:
    inside = torch.tensor([[0, 0, 1, 1, 0, 0, 1, 0]]).bool()
    candidates = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 0]]).bool()
    draws = torch.tensor([[0.9, 0.2, 0.99, 0.99, 0.7, 0.5, 0.99, 0.9]])
    # Words by the draw of their first token: 4 (one token), then 5 6 (two), then 1 2 3 (three).
    for count, expected in [(1, [4]), (2, [4]), (3, [4, 5, 6]), (5, [4, 5, 6]), (6, [1, 2, 3, 4, 5, 6])]:
        chosen = choose_words(candidates, torch.tensor([count]), draws, inside)
        assert chosen[0].nonzero()[:, 0].tolist() == expected
    draws[0, 1] = 0.8  # the first word has more tokens than are asked for
    assert choose_words(candidates, torch.tensor([1]), draws, inside)[0].nonzero()[:, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize(("shares", "expected"), [((0.8, 0.1), (0.8, 0.1, 0.1)), ((0.85, 0.0), (0.85, 0.0, 0.15))])
def test_shares_of_what_stands_in_the_place(shares: tuple[float, float], expected: tuple[float, ...]) -> None:
    ids = torch.full((100, 200), 7)
    plain, chosen = torch.arange(8, 1008), torch.rand(100, 200) < 0.5
    result = corrupt(ids, chosen, torch.rand(100, 200), 4, plain, shares)
    assert torch.equal(result[~chosen], ids[~chosen])
    kinds = [(result[chosen] == 4), (result[chosen] > 7), (result[chosen] == 7)]
    assert [float(kind.float().mean()) for kind in kinds] == pytest.approx(expected, abs=0.02)
    drawn = result[chosen & (result > 7)]
    if len(drawn):
        assert drawn.min() < 30 and drawn.max() > 985 and float(drawn.float().mean()) == pytest.approx(507, abs=40)


def test_numbers_of_a_row_are_its_own() -> None:
    long = uniform_rows(3, [5, 9, 2], 40, 4)
    assert torch.equal(uniform_rows(3, [9], 17, 4)[:, 0], long[:, 1, :17])
    assert not torch.equal(uniform_rows(4, [9], 17, 4)[:, 0], long[:, 1, :17])


@pytest.mark.parametrize("unit", ["tokens", "words"])
def test_neither_padding_nor_neighbours_change_masks(unit: str) -> None:
    tokenizer = train_wordpiece(lambda: WORDS, "texts of test_masking", 200)
    rows: list[Any] = [tokenizer(text)["input_ids"] for text in ("one word", WORDS[0] * 3, WORDS[1])]
    masker = Masker(MaskingConfig(unit=unit, short=0.0), tokenizer, 64, 1)
    whole, alone = masker.batch(rows, [4, 5, 6]), masker.batch(rows[:1], [4])
    width = alone["input_ids"].shape[1]
    for name, part in alone.items():
        assert torch.equal(whole[name][:1, :width], part), name
    assert not whole["chosen"][:, width:][0].any()
    assert not (whole["chosen"] & masker.special[whole["input_ids"]]).any()
    only_special = masker.batch([[2, 3]], [1])
    assert not only_special["chosen"].any()


def test_whole_words_need_a_wordpiece() -> None:
    tokenizer = train_bpe(WORDS, "texts of test_masking", 300)
    Masker(MaskingConfig(), tokenizer, 64, 1)
    with pytest.raises(UserError, match="type masking.unit=tokens"):
        Masker(MaskingConfig(unit="words"), tokenizer, 64, 1)


def test_rows_are_cut_short_now_and_then() -> None:
    tokenizer = train_wordpiece(lambda: WORDS, "texts of test_masking", 200)
    masker = Masker(MaskingConfig(short=0.5), tokenizer, 20, 1)
    row = [2, *range(10, 28), 3]
    lengths = [len(masker._cut(row, torch.tensor(number))) for number in np.linspace(0, 0.999, 400)]
    assert min(lengths) == 5 and np.mean(np.array(lengths) == 20) == pytest.approx(0.53, abs=0.02)
    assert all(masker._cut(row, torch.tensor(number))[-1] == 3 for number in (0.0, 0.2, 0.4))


def test_pieces_cross_no_document(capsys: pytest.CaptureFixture[str]) -> None:
    documents = [[10, 11, 12, 13, 14, 15, 16], [20, 21], [30, 31, 32]]
    packed = np.array([token for ids in documents for token in (2, *ids, 3)], np.int32)
    pieces = Pieces(packed, 2, 3, 6)
    assert [piece.tolist() for piece in pieces] == [[2, 10, 11, 12, 13, 3], [2, 14, 15, 16, 3], [2, 30, 31, 32, 3]]
    assert pieces.document.tolist() == [0, 0, 2] and pieces.lengths.tolist() == [6, 5, 5]
    names = ["document 0, tokens 0 to 3", "document 0, tokens 4 to 6", "document 2, tokens 0 to 2"]
    assert [pieces.name(number) for number in range(3)] == names
    pieces.say_left_out("here")
    Pieces(packed[:9], 2, 3, 6).say_left_out("there")
    said = "".join(capsys.readouterr())
    assert "here: pieces of fewer than 3 tokens are left out, 1 of 4" in said and "there" not in said
    assert Pieces(np.array([2, 3, 2, 10, 11, 12, 13, 14, 3]), 2, 3, 6).left_out == 2  # a blank text, and an end
    assert len(Pieces(packed[:0], 2, 3, 6)) == 0
    without = packed[packed != 2]
    assert [piece.tolist() for piece in Pieces(without, 2, 3, 6)] == [piece.tolist() for piece in pieces]
