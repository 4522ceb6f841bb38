"""Bits of words of held-out text: where a text breaks off, and to which word a space belongs."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from recipes.core.models.vision_language import TextModel
from recipes.tokenization.words.config import BYTE_IDS, ReadingConfig, WordModelConfig, WordsConfig
from recipes.tokenization.words.corpus import hierarchy_batch
from recipes.tokenization.words.model import WordModel, flat_model
from recipes.tokenization.words.reading import Reader
from recipes.tokenization.words.splitting import split
from recipes.tokenization.words.units import Units, _pieces, byte_units
from tests.core import tokenizer_kinds

SHAPE = WordModelConfig(layers=1, width=16, heads=2, encoder_layers=1, decoder_layers=1, unit_width=8, unit_heads=2)
FLAT = WordModelConfig(kind="flat", units="pieces", layers=1, width=16, heads=2)
TEXT = "the cat sat on a mat, and the dog ran."
PIECES = _pieces(tokenizer_kinds.byte_level(), "here", True, False)


def sharp(model: Any) -> Any:
    """The model, its weights so large that nothing is near uniform."""
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.mul_(12)
    return model.eval()


def reader(units: Units, model: Any, shape: WordModelConfig = SHAPE, **words: Any) -> Reader:
    options: Any = SimpleNamespace(words=WordsConfig(**words), model=shape, evaluation=ReadingConfig())
    return Reader(options, units, model, "cpu")


@pytest.mark.parametrize("rule", ["whitespace", "unicode", "fixed"])
def test_where_a_text_is_parted_changes_nothing_of_what_its_words_cost(rule: str) -> None:
    units = byte_units()
    read = reader(units, sharp(WordModel(SHAPE, units, 8, 0)), rule=rule).read
    whole, words = read([(TEXT, "")])[0], split(TEXT, WordsConfig(rule=rule))
    assert whole.words == words and whole.first == 0
    for place in range(1, len(TEXT)):
        parted = read([(TEXT[place:], TEXT[:place])])[0]
        np.testing.assert_allclose(parted.bits, whole.bits, rtol=1e-5)
        # What counts are the words that end behind that place.
        assert parted.first == sum(end <= place for end in np.cumsum([len(word) for word in words]))


def test_no_end_is_predicted_of_the_word_in_which_a_text_breaks_off() -> None:
    units = byte_units()
    model = sharp(WordModel(SHAPE, units, 8, 0))
    batch = hierarchy_batch([units.spell([b"cat ", b"sat"])], units)
    del batch["symbols"]
    with torch.no_grad():
        ended = model(**batch)
        cut = model(**batch, cut=torch.tensor([[False, True]]))
        hints = model.hints(model.encode(batch["words"], batch["lengths"]), batch["sequence"])[0]
        end = -model.logits(torch.tensor([[*b"sat"]]), hints[1:])[0, 3].log_softmax(-1)[units.end]
    assert cut.units.tolist() == [5, 3] and ended.units.tolist() == [5, 4]
    assert (ended.nll - cut.nll).tolist() == pytest.approx([0, float(end)], rel=1e-4)
    assert end > 0.1
    whole = reader(units, model).read([("cat sat", "")])[0]
    assert whole.bits.tolist() == pytest.approx((cut.nll / math.log(2)).tolist(), rel=1e-4)
    # Where the end of a word is the space that normalised text has there, it counts.
    normalised = reader(units, model, normalise=True).read([("sat", "")])[0]
    assert normalised.units.tolist() == [5]


@pytest.mark.parametrize("normalise", [False, True])
def test_the_bits_of_a_space_are_those_of_the_word_that_it_ends(normalise: bool) -> None:
    model: TextModel = sharp(flat_model(FLAT, PIECES, 3))
    read = reader(PIECES, model, FLAT, normalise=normalise).read([(TEXT, "")])[0]
    tokens = PIECES.spell(read.words)
    ids = torch.tensor([[PIECES.stop, *(token for row in tokens for token in row)]])
    with torch.no_grad():
        log_p = model.language_model(input_ids=ids).logits[0].double().log_softmax(-1)
    begins = [token for token, data in enumerate(PIECES.table) if data[:1].isspace() or token == PIECES.stop]
    others = sorted(set(range(PIECES.size)) - set(begins))
    space, at, bits, right, ended = log_p[:, begins].logsumexp(-1), 0, [], [], False
    for number, row in enumerate(tokens):
        # P(pieces | the word before has ended) P(it ends)
        log_word, good = -space[at] if ended else 0.0, True
        for place, token in enumerate(row):
            candidates = begins if ended and not place else range(PIECES.size)
            good &= max(candidates, key=lambda each: log_p[at, each]) == token
            log_word, at = log_word + log_p[at, token], at + 1
        # A space that is a token has its bits.
        ended = (number < len(tokens) - 1 or normalise) and PIECES.table[row[-1]] != b" "
        if ended:
            log_word, good = log_word + space[at], good and space[at] > log_p[at, others].max()
        bits.append(-float(log_word) / math.log(2))
        right.append(bool(good))
    assert len(tokens) >= 9 and all(len(row) for row in tokens)
    np.testing.assert_allclose(read.bits, bits, rtol=1e-4)
    assert read.right.tolist() == right


def test_a_word_inside_a_token_is_right_where_the_token_is() -> None:
    units = Units([b"a", b" b c", b"", b"a "], 2, 2, lambda words: [[0], [], [1]], tokenizer="a BPE")
    model = flat_model(FLAT, units, 0)
    for likeliest in (0, 1):
        model.language_model.lm_head.weight = torch.nn.Parameter(torch.zeros(4, 16))
        model.language_model.lm_head.bias = torch.nn.Parameter(torch.eye(4)[likeliest] * 9)
        read = reader(units, model, FLAT).read([("a b c", "")])[0]
        assert read.right.tolist() == [likeliest == 0, likeliest == 1, likeliest == 1]


def test_units_of_bytes_know_their_spaces() -> None:
    units, shape = byte_units(), FLAT
    model = sharp(flat_model(shape, units, 1))
    read = reader(units, model, shape).read([(TEXT, "")])[0]
    ids = torch.tensor([[units.stop, *TEXT.encode()]])
    with torch.no_grad():
        nll = torch.nn.functional.cross_entropy(model.language_model(input_ids=ids).logits[0, :-1], ids[0, 1:])
    assert read.bits.sum() / len(TEXT) == pytest.approx(float(nll) / math.log(2), rel=1e-5)
    assert units.size == BYTE_IDS and read.units.tolist() == [len(word) for word in read.words]
