"""Tokenised captions: spans and words of tokens with two kinds of tokenizer, length rules, the cache."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from recipes.core.data.config import DigitCaptionsConfig
from recipes.core.data.images.captions import Caption, Span, fingerprint
from recipes.core.data.images.load import load_captions
from recipes.core.data.images.tokenized import COLUMNS, TokenizedCaptions, spans_of_tokens, tokenize, words_of_tokens
from recipes.core.errors import UserError
from recipes.core.storage.ragged import RaggedFile

EOS = 0


class Split:
    """Captions without images."""

    def __init__(self, *texts: str, mark: str = r"ABC|blue whale") -> None:
        self.captions = [
            Caption(f"c{i}", f"g{i}", text, tuple(Span(*m.span(), "mark", ()) for m in re.finditer(mark, text)))
            for i, text in enumerate(texts)
        ]

    def __len__(self) -> int:
        return len(self.captions)

    def caption(self, index: int) -> Caption:
        return self.captions[index]

    def image(self, index: int, size: int | None = None) -> np.ndarray:
        raise AssertionError("tokenising looks at no image")

    def label(self, index: int) -> int | None:
        return None

    def fingerprint(self) -> str:
        return fingerprint(self.captions, [])


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path))
    return tmp_path


def word_level(texts: list[str]) -> PreTrainedTokenizerFast:
    model = Tokenizer(models.WordLevel(unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=["<eos>", "<unk>"], show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<eos>", unk_token="<unk>")


def bpe(texts: list[str]) -> PreTrainedTokenizerFast:
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    model.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<eos>")


BOTH = pytest.mark.parametrize("make", [word_level, bpe])


def test_words_and_spans_worked_example() -> None:
    text = "a  blue whale."
    places = [(0, 1), (1, 2), (2, 5), (5, 7), (7, 13), (13, 14)]  # "a" " " " bl" "ue" " whale" "."
    assert words_of_tokens(text, places) == [0, 1, 1, 1, 2, 2]
    assert spans_of_tokens([Span(3, 13, "mark", ())], places) == [-1, -1, 0, 0, 0, -1]
    assert spans_of_tokens([Span(0, 1, "x", ()), Span(4, 5, "y", ())], places) == [0, -1, 1, -1, -1, -1]


def test_word_level_by_hand() -> None:
    split = Split("see the ABC now", "a blue whale ABC")
    tokens = tokenize(split, word_level([c.text for c in split.captions]), EOS, 10)
    assert tokens.lengths.tolist() == [5, 5] and tokens.offsets.tolist() == [0, 5, 10]
    assert tokens.span_index(0).tolist() == [-1, -1, 0, -1, -1]
    assert tokens.span_index(1).tolist() == [-1, 0, 0, 1, -1]
    assert tokens.word_index(1).tolist() == [0, 1, 2, 3, 4]
    assert tokens.ids(0)[-1] == EOS
    assert (tokens.ids(0).dtype, tokens.span_index(0).dtype, tokens.word_index(0).dtype) == (
        np.int32,
        np.int16,
        np.int16,
    )
    assert (tokens.lengths.dtype, tokens.offsets.dtype, len(tokens)) == (np.int32, np.int64, 2)


@BOTH
def test_tokens_of_a_span_spell_it(
    make: Callable[[list[str]], PreTrainedTokenizerFast],
) -> None:
    test = load_captions(DigitCaptionsConfig(filler="unpredictable"), 0).test
    tokenizer = make([test.caption(i).text for i in range(len(test))])
    tokens = tokenize(test, tokenizer, EOS, 200)
    pieces_seen = 0
    for index in range(len(test)):
        caption, ids = test.caption(index), tokens.ids(index)
        assert ids[-1] == EOS and tokens.span_index(index)[-1] == -1
        assert ids[:-1].tolist() == tokenizer.encode(caption.text, add_special_tokens=False)
        for number, span in enumerate(caption.spans):
            own = ids[tokens.span_index(index) == number]
            pieces_seen += len(own)
            assert tokenizer.decode(own).strip() == caption.text[span.start : span.end]
        words = tokens.word_index(index)
        assert (np.diff(words) >= 0).all() and words[-1] == len(caption.text.split())
        for number, word in enumerate(caption.text.split()):
            assert tokenizer.decode(ids[words == number]).strip() == word
    if make is bpe:
        assert pieces_seen > 2 * len(test)  # some marked words have several pieces


def test_multibyte_characters_keep_their_place() -> None:
    split = Split("naïve café 🐳 ABC ok")
    tokens = tokenize(split, bpe(["plain text"]), EOS, 100)
    marked = tokens.ids(0)[tokens.span_index(0) == 0]
    assert bpe(["plain text"]).decode(marked).strip() == "ABC"
    assert set(tokens.word_index(0)[tokens.span_index(0) == 0]) == {3}


def test_too_long_names_the_caption_its_length_and_both_ways_out() -> None:
    split = Split("a b c", "a b c d e f g", "a b c d e")
    with pytest.raises(UserError) as raised:
        tokenize(split, word_level(["a b c d e f g"]), EOS, 5)
    text = str(raised.value)
    assert text.startswith("caption c1: 2 of 3 captions are longer than 5 tokens; the longest has 8")
    assert "data.max_tokens=8" in text and "data.on_long=truncate" in text
    assert tokenize(split, word_level(["a b c d e f g"]), EOS, 8).lengths.tolist() == [4, 8, 6]


def test_truncated_captions_lose_their_end(capsys: pytest.CaptureFixture[str]) -> None:
    split = Split("a b c", "a b c ABC e f g", "a b")
    tokenizer = word_level(["a b c d e f g ABC"])
    whole, cut = tokenize(split, tokenizer, EOS, 100), tokenize(split, tokenizer, EOS, 4, "truncate")
    assert cut.lengths.tolist() == [4, 4, 3] and cut.offsets.tolist() == [0, 4, 8, 11]
    for index in range(3):
        assert cut.ids(index).tolist() == whole.ids(index)[:4].tolist()
    assert cut.ids(1)[-1] != EOS and cut.ids(0)[-1] == EOS
    assert cut.span_index(1).tolist() == [-1, -1, -1, 0]
    assert cut.fingerprint() != whole.fingerprint()
    many = f"{cut.cut} of {len(cut)} captions are cut at data.max_tokens=4, and do not end"
    assert 0 < cut.cut == (whole.lengths > 4).sum() and many in capsys.readouterr().err
    assert tokenize(split, tokenizer, EOS, 100, "truncate").fingerprint() == whole.fingerprint()
    assert whole.cut == 0 and not capsys.readouterr().err


def entries(home: Path) -> list[str]:
    return sorted(name for name in os.listdir(home / "cache/tokens") if not name.startswith("."))


def test_the_cache_is_keyed_by_captions_spans_and_tokenizer(home: Path) -> None:
    first, second = word_level(["a b"]), word_level(["a b ABC"])
    tokenize(Split("a b ABC"), first, EOS, 10)
    tokenize(Split("a b ABC"), first, EOS, 20)
    assert len(entries(home)) == 1
    first.pad_token = "<eos>"
    first("a b", padding="max_length", max_length=8, truncation=True)  # leaves its mark on the tokenizer
    tokenize(Split("a b ABC"), first, EOS, 10)
    assert len(entries(home)) == 1
    tokenize(Split("a b ABC"), second, EOS, 10)
    tokenize(Split("a b ABC", mark="b"), first, EOS, 10)
    tokenize(Split("a b ABC d"), first, EOS, 10)
    tokenize(Split("a b ABC"), first, EOS + 1, 10)
    assert len(entries(home)) == 5


def test_cached_equals_fresh(home: Path) -> None:
    split = Split("a blue whale", "see ABC")
    tokenizer = bpe(["a blue whale"])
    fresh, again = (tokenize(split, tokenizer, EOS, 50) for _ in range(2))
    assert fresh.fingerprint() == again.fingerprint()
    assert fresh.span_index(0).tolist() == again.span_index(0).tolist()


def test_arrays_are_memory_mapped(home: Path) -> None:
    big = 30_000_000
    for name, dtype in COLUMNS.items():
        with RaggedFile(home / name, dtype) as file:
            file.extend([np.ones(3), np.ones(big - 3)])
    before = anonymous_memory()
    tokens = TokenizedCaptions(home, max_tokens=big)
    assert tokens.ids(0).tolist() == [1, 1, 1] and int(tokens.ids(1).sum()) == big - 3
    assert anonymous_memory() - before < 50_000_000


def anonymous_memory() -> int:
    """Bytes of this process that no file backs."""
    path = Path("/proc/self/smaps_rollup")
    if not path.exists():
        pytest.skip("memory use is read from /proc, which this system lacks")
    return int(re.search(r"Anonymous:\s+(\d+) kB", path.read_text())[1]) * 1024


def test_a_caption_without_a_token_still_ends() -> None:
    tokens = tokenize(Split("ABC", ""), word_level(["ABC"]), EOS, 5)
    assert tokens.ids(1).tolist() == [EOS] and tokens.word_index(1).tolist() == [0]
