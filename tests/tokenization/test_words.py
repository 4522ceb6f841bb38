"""Words, their units, the model over them and how it is read: what both recipes of this kind stand on."""

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from recipes.tokenization.words import method
from recipes.tokenization.words.config import (
    PERTURBATIONS,
    WordModelConfig,
    WordsConfig,
    model_parameters,
)
from recipes.tokenization.words.corpus import flat_batch, hierarchy_batch
from recipes.tokenization.words.experiment import cost_per_byte
from recipes.tokenization.words.files import greedy_word
from recipes.tokenization.words.model import Spelled, WordModel, buckets, flat_model
from recipes.tokenization.words.perturbing import perturb
from recipes.tokenization.words.splitting import normalise, split
from recipes.tokenization.words.units import END, STOP, Units, _characters, assign, byte_units

TINY = WordModelConfig(layers=1, width=16, heads=2, encoder_layers=1, decoder_layers=1, unit_width=8, unit_heads=2)
BYTE_UNITS = byte_units()
TEXT = "the cat sat on a mat.  The ünïcode dog, 3.14\tsaw 猫が!\n"
RULES = [WordsConfig(longest=8), WordsConfig(rule="unicode"), WordsConfig(rule="fixed", group=3)]


def spelled(model: WordModel, windows: list[list[bytes]], units: Units = BYTE_UNITS) -> Spelled:
    batch = hierarchy_batch([units.spell(words) for words in windows], units)
    with torch.no_grad():
        return model(batch["words"], batch["lengths"], batch["sequence"])


def tiny(seed: int = 0, **shape: Any) -> WordModel:
    model = WordModel(replace(TINY, **shape), BYTE_UNITS, 4, seed).eval()
    with torch.no_grad():  # so that nothing is near uniform
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.mul_(8)
    return model


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello, world!", ["Hello,", " world!"]),
        ("howAreYou", ["how", "Are", "You"]),
        ("how_are_you", ["how_", "are_", "you"]),
        ("hello   world", ["hello", "   ", "world"]),
        ("isn't too", ["isn'", "t", " too"]),
        ("3.14 x", ["3.", "14", " x"]),
        ("a\n\tb", ["a", "\n", "\t", "b"]),
        ("猫が座", ["猫", "が", "座"]),
    ],
)
def test_words_of_unicode(text: str, words: list[str]) -> None:
    assert split(text, WordsConfig(rule="unicode")) == [word.encode() for word in words]


@pytest.mark.parametrize("config", RULES, ids=lambda config: config.rule)
def test_words_join_to_the_text_and_those_of_a_beginning_are_its_first(config: WordsConfig) -> None:
    words = split(TEXT, config)
    assert b"".join(words) == TEXT.encode() and all(words)
    for end in range(1, len(TEXT)):
        first = split(TEXT[:end], config)
        assert first[:-1] == words[: len(first) - 1]
        assert words[len(first) - 1].startswith(first[-1])


def test_long_words_are_cut_between_characters() -> None:
    words = split("ab 猫猫猫猫猫 c", WordsConfig(longest=8))
    assert words == [b"ab ", "猫猫".encode(), "猫猫".encode(), "猫 ".encode(), b"c"]
    text = normalise('He said:\n "aaaaaaaaaaaa"', 9)
    assert text == 'He said : " aaaaaaaa aaaa " ' and max(map(len, split(text, WordsConfig(longest=9)))) == 9


def test_perturbed_text() -> None:
    text = "one three\nfive " * 40
    assert perturb("Straße a\n", "upper", 0.1, 0) == "STRASSE A\n"
    changed = {kind: perturb(text, kind, 0.1, 3) for kind in PERTURBATIONS}
    for kind, other in changed.items():
        assert [len(word) > 0 for word in other.split()] == [True] * 120 and other == perturb(text, kind, 0.1, 3)
        assert other != text and other != perturb(text, kind, 0.1, 4) or kind == "upper"
    assert all(
        sorted(one) == sorted(other) for one, other in zip(text.split(), changed["permute"].split(), strict=True)
    )
    assert 0.05 < sum(one != other for one, other in zip(text, changed["replace"], strict=True)) / 480 < 0.15
    assert perturb("a bc", "delete", 1.0, 0) == "a b"


def test_masks_of_padded_words() -> None:
    # Two marks, four units, words of one and of three: 1 is padding.
    hidden = (~method.visible(torch.tensor([1, 3]), 4, 2)).int().tolist()
    assert hidden == [[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 1]]


def test_the_targets_of_a_word_are_its_units_and_the_end() -> None:
    batch = hierarchy_batch([[list(b"cat"), [STOP], list(b"cat"), list(b"a")]], BYTE_UNITS)
    assert batch["words"].tolist() == [[*b"cat"], [STOP, END, END], [*b"a", END, END]]
    assert batch["sequence"].tolist() == [[0, 1, 0, 2]] and batch["symbols"] == 4 + 1 + 4 + 2
    assert [(rows.tolist(), width) for rows, width in buckets(torch.tensor([1, 9, 4, 5]), 9)] == [
        ([0, 2], 4), ([3], 8), ([1], 9)
    ]  # fmt: skip
    flat = flat_batch([[list(b"ab"), list(b"c")], [list(b"d")]], BYTE_UNITS)
    assert flat["input_ids"].tolist() == [[STOP, *b"abc"], [STOP, *b"d", 0, 0]] and flat["normalizer"] == 4


def test_uniform_logits_cost_all_units_and_ends() -> None:
    model = WordModel(TINY, BYTE_UNITS, 8, 0)
    torch.nn.init.zeros_(model.head.weight)
    nll = spelled(model, [[b"ab ", b"cde "]]).nll.sum()
    assert float(nll) / math.log(2) / 7 == pytest.approx(8 * 9 / 7)  # 10.2857
    small = Units(
        [bytes([97 + unit % 26]) for unit in range(62)] + [b"", b""], 62, 63, lambda words: [[1, 2]] * len(words)
    )
    model = WordModel(TINY, small, 8, 0)
    torch.nn.init.zeros_(model.head.weight)
    result = spelled(model, [[b"", b""]], small)
    assert float(result.nll.sum() / result.units.sum()) / math.log(2) == pytest.approx(6)


SHAPES: list[dict[str, Any]] = [
    {}, {"slots": 2}, {"slots": 2, "pooling": "joined"}, {"pooling": "mean"}, {"pooling": "last"},
    {"pooling": "concatenated"}, {"architecture": "gpt2", "width": 8, "slots": 2},
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_change_reaches_nothing_before_it(shape: dict[str, Any]) -> None:
    model = tiny(**shape)
    words = [b"the ", b"cat ", b"sat ", b"on"]
    nll = spelled(model, [words]).nll
    later = spelled(model, [[*words[:2], b"sit ", words[3]]]).nll
    torch.testing.assert_close(later[:2], nll[:2])
    assert not torch.isclose(later[3], nll[3])  # but what comes after it
    hint, batch = torch.randn(1, model.shape.slots, 8), torch.tensor([[*b"sat"], [*b"sit"]])
    with torch.no_grad():
        one, other = model.logits(batch, hint.expand(2, -1, -1))
    torch.testing.assert_close(one[:2], other[:2])
    assert one.shape == (4, 256) and not torch.isclose(one[2], other[2]).all()
    torch.testing.assert_close(one.softmax(-1).sum(-1), torch.ones(4))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batches_and_buckets_change_nothing(shape: dict[str, Any]) -> None:
    model = tiny(**shape)
    windows = [[b"a ", b"ca"], [b"the ", b"on", b"a ", b"mat"], [b"sat "]]
    long = [] if shape.get("pooling") == "concatenated" else [b"sixteen-letters ", b"eight by ", b"a "]
    together = spelled(model, [*windows, long or [b"a "]])
    alone = [spelled(model, [window]) for window in windows]
    for column, values in zip(together, zip(*alone, strict=True), strict=True):
        joined = torch.cat(values)
        torch.testing.assert_close(column[: len(joined)], joined, atol=1e-5, rtol=1e-5)
    assert (together.right_units <= together.units).all()


def test_eager_attention_sees_as_much() -> None:
    model, words, lengths = tiny(), torch.tensor([[*b"cat"], [*b"a", END, END]]), torch.tensor([3, 1])
    with torch.no_grad():
        vectors = model.encode(words, lengths)
        model.encoder.set_attn_implementation("eager")
        torch.testing.assert_close(model.encode(words, lengths), vectors)


def test_padding_is_not_seen_and_words_are_encoded_once() -> None:
    model, words = tiny(slots=2), torch.tensor([[*b"cat", END, END], [*b"a", END, END, END, END]])
    lengths = torch.tensor([3, 1])
    with torch.no_grad():
        vectors = model.encode(words, lengths)
        torch.testing.assert_close(vectors, model.encode(words.masked_fill(words == END, 7), lengths))
        swapped = model.encode(words.flip(0), lengths.flip(0))
    torch.testing.assert_close(vectors, swapped.flip(0))


def test_faults_of_the_release_are_seen_and_counted() -> None:
    right, faulty = tiny(slots=2), tiny(slots=2)
    faulty.faults, faulty.longest = ("padding_seen", "padding_counted"), 6
    words, lengths = torch.tensor([[*b"cat"], [*b"a", END, END]]), torch.tensor([3, 1])
    hints = torch.randn(2, 2, 8)
    with torch.no_grad():
        assert not torch.isclose(right.encode(words, lengths), faulty.encode(words, lengths)).any()
        counts = [faulty.train(mode).spell(words, lengths, hints).units.tolist() for mode in (False, True)]
        torch.testing.assert_close(faulty.eval().spell(words, lengths, hints), right.spell(words, lengths, hints))
    assert counts == [[4, 2], [7, 7]]


def test_probabilities_of_all_words_of_a_trie_sum_to_at_most_one() -> None:
    units = Units([b"a", b"b", b"", b""], 2, 3, lambda words: [[b"ab".index(byte) for byte in word] for word in words])
    model, total = WordModel(TINY, units, 8, 1), 0.0
    for length in range(5):
        for word in itertools.product((0, 1), repeat=length):
            hints, row = model.first[None], torch.tensor([word], dtype=torch.long)
            with torch.no_grad():
                total += float(model.spell(row, torch.tensor([length]), hints).nll.neg().exp())
    assert 0.4 < total < 1


def test_gradients_of_the_loss() -> None:
    # Norms of Llama compute in fp32; the others are exact.
    model = WordModel(replace(TINY, architecture="gpt2"), BYTE_UNITS, 8, 0).double()
    batch = hierarchy_batch([[list(b"ab "), list(b"c")], [list(b"c")]], BYTE_UNITS)

    def loss(first: torch.Tensor) -> torch.Tensor:
        vectors = model.encode(batch["words"], batch["lengths"])
        hints = model.hints(vectors, batch["sequence"])[:1] + first
        return model.spell(batch["words"], batch["lengths"], hints[0]).nll.sum()

    start = torch.randn(1, 1, 1, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (start,))


def test_four_texts_are_learnt_by_heart_word_for_word() -> None:
    windows = [[b"the ", b"cat ", b"sat"], [b"a ", b"dog "], [b"on ", b"mats "], [b"red ", b"house"]]
    model = WordModel(replace(TINY, width=32, unit_width=32), BYTE_UNITS, 8, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batch = hierarchy_batch([[list(word) for word in words] for words in windows], BYTE_UNITS)
    for _ in range(150):
        result = model(batch["words"], batch["lengths"], batch["sequence"])
        optimizer.zero_grad()
        (result.nll.sum() / batch["symbols"]).backward()
        optimizer.step()
    # All begin alike, so that the first word of a text is a guess, and the rest is known.
    right = spelled(model, windows).right.split([3, 2, 2, 2])
    assert all(row[1:].all() for row in right)
    with torch.no_grad():
        assert bytes(greedy_word(model, BYTE_UNITS, [list(b"the "), list(b"cat ")], 9)) == b"sat"
        assert bytes(greedy_word(model, BYTE_UNITS, [list(b"red ")], 9)) == b"house"


def test_pieces_belong_to_the_word_of_their_last_byte() -> None:
    # " the" "cat" before a text that has no space in front; then two that lie in one word each.
    assert assign([5, 6, 7], np.array([4, 4, 1]), [4, 4], 8) == [[5], [6, 7]]
    assert assign([5, 6], np.array([3, 4]), [4, 3], 7) == [[5], [6]]
    assert assign([5], np.array([5]), [2, 3], 5) == [[], [5]]


def test_characters_are_ids_and_rare_ones_bytes() -> None:
    known = {"ü": 256}
    assert _characters("aüñ".encode(), known) == [97, 256, *"ñ".encode()]
    assert _characters("ü".encode()[:1], known) == [0xC3]


def test_windows_overlap_by_half_and_count_every_item_once() -> None:
    assert method.windows([1] * 5, 8) == [(0, 5, 0)]
    assert method.windows([1] * 10, 4) == [(0, 4, 0), (2, 6, 4), (4, 8, 6), (6, 10, 8)]
    spans = method.windows([3, 50, 1, 1, 9, 2], 10)
    assert [number for start, stop, first in spans for number in range(first, stop)] == list(range(6))
    assert all(start <= first < stop for start, stop, first in spans)


def test_costs_and_sizes_of_the_paper() -> None:
    # 1B: backbone of 18 layers and width 2,304, encoder of 3 layers and width 768; parameters of both.
    large = WordModelConfig(layers=18, width=2304, heads=18, encoder_layers=3, unit_width=768, unit_heads=6)
    assert large.block_weights(2304, 18) == pytest.approx(1.15e9, rel=0.005)
    assert large.block_weights(768, 3) + 256 * 768 + 768 * 2304 == pytest.approx(23.2e6, rel=0.005)
    # 5.97 bytes a word, 4.12 a token: the compute of both models is within 5%.
    hierarchy = method.hierarchy_cost(2 * 21.2e6, 1.15e9, 5.97, 5.97)
    flat = method.flat_cost(1.07e9 - 65536 * 2048, 1, 4.12)
    assert hierarchy == pytest.approx(2 * 42.4e6 * (1 + 1 / 5.97) + 2 * 1.15e9 / 5.97)
    assert hierarchy / flat == pytest.approx(1.07, abs=0.05)


@pytest.mark.parametrize("shape", [*SHAPES, {"slots": 4}, {"unit_width": 16}], ids=str)
def test_what_a_byte_costs_is_what_torch_counts(shape: dict[str, Any]) -> None:
    config: Any = SimpleNamespace(model=replace(TINY, **({"unit_width": 64, "width": 128} | shape)))
    config.words = WordsConfig(group=4)
    model = WordModel(config.model, BYTE_UNITS, 4, 0)
    words = [bytes([97 + number, 98, 99]) for number in range(20)]  # the end fills up what words are padded to
    corpus: Any = SimpleNamespace(mean_units=3.0, mean_size=3.0, window_bytes=60.0)
    with FlopCounterMode(display=False) as counter:
        spelled(model, [words])
    # Products inside words, of all pairs and of padding, are left out.
    expected = 60 * cost_per_byte(config, corpus, BYTE_UNITS)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.12)


@pytest.mark.parametrize("shape", [*SHAPES, {"kind": "flat"}, {"kind": "flat", "architecture": "gpt2"}], ids=str)
def test_parameters_are_those_of_the_model(shape: dict[str, Any]) -> None:
    config = replace(TINY, **shape)
    model: Any = flat_model(config, BYTE_UNITS, 0) if config.kind == "flat" else WordModel(config, BYTE_UNITS, 4, 0)
    assert model_parameters(config, 256, 4) == sum(weights.numel() for weights in model.parameters())
