"""Next bytes from tokens: the sheet's worked numbers, enumeration on tiny vocabularies, and what must sum to 1."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any
from unicodedata import category

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from recipes.core.data.text.vocabulary_bytes import END, SYMBOLS, vocabulary_bytes
from recipes.core.errors import UserError
from recipes.core.models.vision_language import TextModel
from recipes.decoding.byte_level.canonical import Canonical, completions
from recipes.decoding.byte_level.config import CutsConfig
from recipes.decoding.byte_level.method import Tail, accepted, bits, combine, reweighted
from recipes.decoding.byte_level.reading import TailReader
from recipes.decoding.byte_level.states import EXACT, HEALING, MODES, TOKEN, Covers, Language, Segmentations
from recipes.decoding.byte_level.texts import draw_cuts
from tests.core import tokenizer_kinds
from tests.decoding.conftest import tiny

EOS = "<eos>"


def tokenizer(pieces: Sequence[str], merges: Sequence[tuple[str, str]], regex: bool = True) -> Any:
    """A byte-level BPE of these pieces and an end of text, the last id."""
    vocabulary = {piece: number for number, piece in enumerate([*pieces, EOS])}
    made = Tokenizer(models.BPE(vocabulary, list(merges)))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=EOS)


def language(made: Any, predict: Any) -> Language:
    vocabulary = vocabulary_bytes(made, len(made), [made.eos_token_id], "")
    return Language(vocabulary, Canonical(made, vocabulary), predict, made.eos_token_id)


def chain(before: Sequence[int], tails: Sequence[Tail]) -> dict[Tail, np.ndarray]:
    """Tokens A, B, AA of the chain P(B|A)=.3, P(A|B)=.6, which the tokenizer writes with the merge AA."""
    follow = {"A": {"A": 0.7, "B": 0.3}, "B": {"A": 0.6, "B": 0.4}, "": {"A": 0.5, "B": 0.5}}
    rows = {}
    for tail in tails:
        tokens = [("A", "B", "AA")[token] for token in (*before, *tail) if token < 3]
        last, row = tokens[-1][-1] if tokens else "", np.zeros(4)
        if tokens[-1:] == ["A"]:  # had an A followed, it would have been AA
            row[1] = 1.0
        else:
            a, b = follow[last]["A"], follow[last]["B"]
            row[:3] = a * 0.3, b, a * 0.7
        with np.errstate(divide="ignore"):
            rows[tail] = np.log(row)
    return rows


@pytest.mark.parametrize(
    ("text", "covers", "total", "token", "exact"),
    [
        (b"BA", {(1, 0): 0.09, (1, 2): 0.21}, 0.30, 0.0, 0.70),
        (b"BAA", {(1, 2): 0.21}, 0.21, 0.70, 0.70),
        (b"BAAA", {(1, 2, 0): 0.0441, (1, 2, 2): 0.1029}, 0.147, 0.0, 0.70),
    ],
)
def test_the_worked_example_of_the_sheet(
    text: bytes, covers: dict[Tail, float], total: float, token: float, exact: float
) -> None:
    model = language(tokenizer(["A", "B", "AA"], [("A", "A")], regex=False), chain)
    state = model.read(EXACT, [], text)
    assert isinstance(state, Covers)
    weights = {cover.tail: float(np.exp(cover.weight)) for cover in state.covers}
    assert weights == pytest.approx(covers) and sum(weights.values()) == pytest.approx(total)
    assert state.symbols()[ord("A")] == pytest.approx(exact)
    assert model.read(TOKEN, [], text).symbols()[ord("A")] == pytest.approx(token)


def test_the_chain_is_had_back_byte_by_byte() -> None:
    # No mass on invalid tokens: the product of the steps is the probability of the text.
    state, probability = (
        language(tokenizer(["A", "B", "AA"], [("A", "A")], regex=False), chain).read(EXACT, [], b"B"),
        1.0,
    )
    for byte in b"AAABAAB":
        row = state.symbols()
        assert row.sum() == pytest.approx(1) and state.leaked == pytest.approx(0)
        probability *= row[byte]
        state.push(byte)
    assert probability == pytest.approx(0.6 * 0.7 * 0.7 * 0.3 * 0.6 * 0.7 * 0.3)


# Pieces of a byte-level BPE; "Ġ" is a space, "Ã©" the two bytes of é, "Ã£" those of ã, "Ċ" a line feed.
PIECES = ["a", "b", "Ġ", "Ċ", "Ã", "©", "£", "Ã©", "ab", "Ġa", "ĊĠ"]
MERGES = [("Ã", "©"), ("a", "b"), ("Ġ", "a"), ("Ċ", "Ġ")]
ALPHABET = "ab \néã"


@pytest.fixture(scope="module")
def random_model() -> Language:
    made = tokenizer(PIECES, MERGES)
    return language(made, TailReader(TextModel(tiny("llama", vocabulary=len(made)))))


def brute_force(model: Language, text: bytes) -> np.ndarray:
    """[257] from all valid token lists, which are those that texts of the alphabet begin with."""
    longest = 3
    probes = ["".join(each) for size in range(longest + 1) for each in product(ALPHABET, repeat=size)]
    known, rest = text, b""
    while True:
        try:
            known.decode()
            break
        except UnicodeDecodeError:
            known, rest = known[:-1], known[-1:] + rest
    made = model.canonical._plain
    written = {
        tuple(made.encode(known.decode() + probe).ids)
        for probe in probes
        if (known.decode() + probe).encode().startswith(text)
    }
    beginnings = {tokens[:size] for tokens in written for size in range(len(tokens) + 1)}
    table, sums = model.vocabulary.table, np.zeros(SYMBOLS)
    weights: dict[Tail, float] = {(): 0.0}
    rows = {}
    for tokens in sorted(beginnings, key=len):
        if len(b"".join(table[token] for token in tokens)) <= len(text) + 1:
            rows |= model.predict([model.start], [tokens])
        for token in range(len(table)):
            if tokens in rows and (*tokens, token) in beginnings:
                weights[(*tokens, token)] = weights[tokens] + float(rows[tokens][token])
    size = len(text)
    for tokens in beginnings:
        before, whole = model.vocabulary.join(tokens[:-1]), model.vocabulary.join(tokens)
        if tokens and len(before) <= size < len(whole) and whole.startswith(text):
            sums[whole[size]] += np.exp(weights[tokens])
        if whole == text:
            sums[END] += np.exp(weights[tokens] + rows[tokens][model.start])
    return sums / sums.sum()


@pytest.mark.parametrize(
    "text",
    [b"", b"a", b"ab", b"ba a", b"b \n", b"a\n ", b"a\n a", "bé".encode(), b"b\xc3", b"aab", b" ", b"a  ", b"  b"],
)
def test_next_bytes_are_those_of_enumeration(random_model: Language, text: bytes) -> None:
    row = Covers(random_model, [], text).symbols()
    assert row.sum() == pytest.approx(1)
    np.testing.assert_allclose(row, brute_force(random_model, text), atol=1e-6)


def alike(model: Language, text: bytes) -> None:
    """Going on by a byte gives what the longer text gives from the start."""
    state, probability = Covers(model, [], text[:1]), 1.0
    for size in range(2, len(text) + 1):
        state.push(text[size - 1])
        whole = Covers(model, [], text[:size])
        np.testing.assert_allclose(state.symbols(), whole.symbols(), atol=1e-6)
        if text[size - 1] not in b" \n":  # else what follows decides between two lists
            covers = [model.vocabulary.join(cover.tail) for cover in whole.covers]
            assert len(set(covers)) == len(covers) and sum(not cover.rest for cover in whole.covers) <= 1
        bytes_left = sum(float(np.exp(cover.weight)) for cover in state.covers)
        assert bytes_left <= probability + 1e-9
        probability = bytes_left


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_bytes_one_by_one_are_the_text_at_once(kind: str) -> None:
    made = tokenizer(PIECES, MERGES)
    model = language(made, TailReader(TextModel(tiny(kind, vocabulary=len(made)))))
    alike(model, "ab a b\n aé  bab".encode())


def test_a_tokenizer_with_word_marks_can_be_asked_as_well() -> None:
    made = tokenizer_kinds.word_mark()
    model = language(made, TailReader(TextModel(tiny("llama", vocabulary=len(made)))))
    text = model.canonical.bytes_of("the big cat ra")
    assert text == b" the big cat ra"
    alike(model, text)
    assert len(model.canonical.stable(text)) == len(made("the big cat", add_special_tokens=False)["input_ids"])


def test_the_stable_part_ends_before_a_run_of_spaces_that_is_shared_out_otherwise(random_model: Language) -> None:
    # "b\n" and " a" once a letter stands behind the space, "b" and "\n " while none does.
    canonical, table = random_model.canonical, random_model.vocabulary
    assert table.join(canonical.stable(b"a b")) == b"a"
    assert table.join(canonical.stable(b"b\n a")) == b"b"
    assert canonical.valid((1, 3, 2)) is not True or canonical.valid((1, 9))


@pytest.mark.parametrize("text", [b"ab", b"b a", b"ba"])
def test_token_mode_and_healing_are_what_they_say(random_model: Language, text: bytes) -> None:
    table, start = random_model.vocabulary, [random_model.start]
    tokens = random_model.canonical.encode(text)
    plain, healed = np.zeros(SYMBOLS), np.zeros(SYMBOLS)
    after = np.exp(random_model.predict(start, [tuple(tokens)])[tuple(tokens)])
    for token, share in enumerate(after):
        plain[END if token == random_model.start else table.table[token][0]] += share
    before = np.exp(random_model.predict(start, [tuple(tokens[:-1])])[tuple(tokens[:-1])])
    taken = table.table[tokens[-1]]
    for token, share in enumerate(before):
        if table.table[token] == taken:
            healed += share * plain
        elif table.table[token].startswith(taken):
            healed[table.table[token][len(taken)]] += share
    np.testing.assert_allclose(random_model.read(TOKEN, start, text).symbols(), plain, atol=1e-6)
    np.testing.assert_allclose(random_model.read(HEALING, start, text).symbols(), healed / healed.sum(), atol=1e-6)


@pytest.mark.parametrize("text", [b"abab", b" aab", b"\n a"])
def test_a_wide_beam_holds_all_segmentations(random_model: Language, text: bytes) -> None:
    table, sums = random_model.vocabulary, np.zeros(SYMBOLS)
    wide = replace(random_model, beam=1000, threshold=0.0)

    def go_on(tokens: Tail, weight: float) -> None:
        row = random_model.predict([random_model.start], [tokens])[tokens]
        read = table.join(tokens)
        for token, logprob in enumerate(row.tolist()):
            whole = read + table.table[token]
            if read == text and token == random_model.start:
                sums[END] += np.exp(weight + logprob)
            elif len(whole) > len(text) and whole.startswith(text):
                sums[whole[len(text)]] += np.exp(weight + logprob)
            elif table.table[token] and text.startswith(whole):
                go_on((*tokens, token), weight + logprob)

    go_on((), 0.0)
    np.testing.assert_allclose(Segmentations(wide, [], text).symbols(), sums / sums.sum(), atol=1e-6)
    narrow = replace(random_model, beam=1, threshold=0.9)  # goes on with any byte, whatever is kept
    assert Segmentations(narrow, [], text).symbols().sum() == pytest.approx(1)


@pytest.mark.parametrize("mode", MODES)
def test_probabilities_sum_to_one(random_model: Language, mode: str) -> None:
    for text in (b"b", b"a ba", b"b\n ", "bé".encode()):
        assert random_model.read(mode, [], text).symbols().sum() == pytest.approx(1)


def test_a_text_that_no_tokens_spell_is_refused(random_model: Language) -> None:
    with pytest.raises(UserError, match="no tokens of the model spell a text that ends in b'ax'"):
        Covers(random_model, [], b"ax")


def test_candidates_of_no_account_are_not_asked() -> None:
    asked: list[int] = []

    def accept(number: int) -> bool:
        asked.append(number)
        return number != 2

    weights = np.array([0.01, 0.6, 0.3, 0.09])
    assert accepted(weights, accept, 0.11).tolist() == [True, True, False, True] and asked == [1, 2]
    asked.clear()
    assert accepted(weights, accept, 0.0).tolist() == [True, True, False, True] and len(asked) == 4


def test_models_are_averaged_byte_by_byte() -> None:
    one, other = np.array([0.5, 0.5, 0.0]), np.array([0.9, 0.1, 0.0])
    np.testing.assert_allclose(combine([one, other], "mean"), [0.7, 0.3, 0.0])
    product = np.sqrt(one * other)
    np.testing.assert_allclose(combine([one, other], "product"), product / product.sum(), atol=1e-12)
    for how in ("mean", "product"):
        np.testing.assert_allclose(combine([one, one], how), one, atol=1e-12)
    # Jensen
    random = np.random.default_rng(0)
    for _ in range(50):
        rows = random.dirichlet(np.ones(5), 2)
        for symbol in range(5):
            assert bits(combine(rows, "mean"), symbol) <= np.mean([bits(row, symbol) for row in rows]) + 1e-12
    assert bits(np.array([0.0, 1.0]), 0) == pytest.approx(39.86, abs=0.01)


def test_drawing_from_the_likeliest() -> None:
    row = np.array([0.5, 0.3, 0.2])
    np.testing.assert_allclose(reweighted(row, 1.0, 1.0), row)
    np.testing.assert_allclose(reweighted(row, 0.5, 1.0), row**2 / (row**2).sum())
    np.testing.assert_allclose(reweighted(row, 1.0, 0.6), [0.625, 0.375, 0.0])
    np.testing.assert_allclose(reweighted(row, 1.0, 0.5), [1.0, 0.0, 0.0])


def test_cuts_lie_inside_of_words_and_behind_them() -> None:
    text = "An éclair, 3 cats; and the end."
    for seed in range(5):
        cuts = draw_cuts(text, "a", CutsConfig(inside=3, word_ends=2, after=3), seed)
        assert [cut.inside for cut in cuts].count(True) == 3 and len(cuts) == 5
        for cut in cuts:
            before, behind = text.encode()[: cut.at].decode(), text.encode()[cut.at :].decode()
            assert before[-1].isalnum() and behind[0].isalnum() == cut.inside and len(before) >= 3
    assert draw_cuts("", "a", CutsConfig(), 0) == []


def test_characters_of_each_kind_complete_the_bytes_of_one() -> None:
    assert all(character.encode().startswith(b"\xe2\x82") for character in completions(b"\xe2\x82"))
    assert {"S", "N"} <= {category(character)[0] for character in completions(b"\xe2\x82")}
    assert completions(b"\xc3")[0].isalpha() and completions(b"\xf0")
