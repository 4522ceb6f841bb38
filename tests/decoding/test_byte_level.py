"""Next bytes from tokens: the sheet's worked numbers, enumeration on tiny vocabularies, and what must sum to 1."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from recipes.core.models.vision_language import TextModel
from recipes.decoding.byte_level.canonical import Canonical
from recipes.decoding.byte_level.method import Tail
from recipes.decoding.byte_level.reading import TailReader
from recipes.decoding.byte_level.states import EXACT, TOKEN, Covers, Language
from recipes.decoding.vocabulary_bytes import END, SYMBOLS, vocabulary_bytes
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
    for tokens in beginnings - {()}:
        before, whole = model.vocabulary.join(tokens[:-1]), model.vocabulary.join(tokens)
        if len(before) <= size < len(whole) and whole.startswith(text):
            sums[whole[size]] += np.exp(weights[tokens])
        if whole == text:
            sums[END] += np.exp(weights[tokens] + rows[tokens][model.start])
    return sums / sums.sum()


@pytest.mark.parametrize(
    "text", [b"a", b"ab", b"ba a", b"b \n", b"a\n ", b"a\n a", "bé".encode(), b"b\xc3", b"aab", b" ", b"a  ", b"  b"]
)
def test_next_bytes_are_those_of_enumeration(random_model: Language, text: bytes) -> None:
    row = Covers(random_model, [], text).symbols()
    assert row.sum() == pytest.approx(1)
    np.testing.assert_allclose(row, brute_force(random_model, text), atol=1e-6)
