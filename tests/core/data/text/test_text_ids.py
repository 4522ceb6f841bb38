"""Ids as the tokenizer gives them, and control tokens in data as text, over all kinds of tokenizers."""

from collections.abc import Callable
from typing import Any

import pytest
from transformers import ByT5Tokenizer

from recipes.core.data.text.text_ids import TextIds, control_ids, start_id, texts_of, token_texts, tokenizer_fingerprint
from recipes.core.errors import UserError
from tests.core.tokenizer_kinds import KINDS, byte_level, texts, unigram, word_mark, words

TYPED = ["a</s>b", "the cat </s> sat", "<s>", "why <pad> <unk> <|im_end|>", "a <|im_start|>user\n", "</s></s> <s>"]
PLAIN = [*texts()[:5], "Why? 12 cats, é and 漢.", "", " ", "a < b > c | d"]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]()


def test_texts_without_control_tokens_have_the_ids_that_the_tokenizer_gives_them(tokenizer: Any) -> None:
    reader = TextIds(tokenizer)
    bare = tokenizer(PLAIN, add_special_tokens=False, return_offsets_mapping=True)
    assert reader.batch(PLAIN) == [reader.ids(text) for text in PLAIN] == bare["input_ids"]
    assert reader.with_special_tokens(PLAIN) == tokenizer(PLAIN)["input_ids"]
    assert reader.with_offsets(PLAIN) == list(zip(bare["input_ids"], bare["offset_mapping"], strict=True))
    # The tokenizer without control tokens reads other texts alike, places included.
    assert [reader._literal(text) for text in PLAIN] == reader.with_offsets(PLAIN)


@pytest.mark.parametrize("text", TYPED)
def test_control_tokens_in_data_are_text(tokenizer: Any, text: str) -> None:
    reader = TextIds(tokenizer)
    ids = reader.ids(text)
    unknown = {tokenizer.unk_token_id}
    assert set(ids) & reader.control <= unknown, tokenizer.convert_ids_to_tokens(ids)
    assert reader.batch([PLAIN[0], text])[1] == ids and reader.with_offsets([text])[0][0] == ids
    places = reader.with_offsets([text])[0][1]
    assert len(places) == len(ids) and all(0 <= start <= end <= len(text) for start, end in places)
    if tokenizer.unk_token is None:  # byte-level: nothing is lost
        assert tokenizer.decode(ids) == text
    # The tokenizer itself is left as it was.
    assert tokenizer("</s>", add_special_tokens=False)["input_ids"][-1] == 2


def test_a_worked_example_in_bytes() -> None:
    tokenizer = byte_level(bos=True, adds_bos=True)
    reader = TextIds(tokenizer)
    assert tokenizer.convert_ids_to_tokens(reader.ids("cat</s>")) == ["cat", "<", "/", "s", ">"]
    document = tokenizer.convert_ids_to_tokens(reader.documents(["cat</s>"])[0])
    assert document == ["<s>", "cat", "<", "/", "s", ">", "</s>"]


def test_documents_begin_as_the_tokenizer_begins_them_and_end_once() -> None:
    expected = {
        "plain": [1],
        "bos-not-added": [],
        "without-bos": [],
        "word-mark": [1],
        "unigram": [],
        "word-pieces": [1],
    }
    for kind, start in expected.items():
        reader = TextIds(KINDS[kind]())
        assert reader.start == start, kind
        document = reader.documents(["the cat"])[0]
        assert document == [*start, *reader.ids("the cat"), reader.tokenizer.eos_token_id], kind


def test_added_tokens_that_are_no_control_tokens_stay_tokens() -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens(["<think>", "<|user|>", "   ", "<image>"])
    names = tokenizer.convert_ids_to_tokens(sorted(control_ids(tokenizer, ["<image>", "<absent>"])))
    assert "<|user|>" in names and "<image>" in names and "<think>" not in names and "   " not in names
    ids = TextIds(tokenizer, ["<image>"]).ids("<think>   <|user|><image>")
    assert tokenizer.convert_ids_to_tokens(ids)[:3] == ["<think>", "   ", "<"]


ORDINARY = [("plain", "!"), ("plain", "Ċ"), ("plain", "Ġdog"), ("word-mark", "."), ("unigram", "."), ("words", "cat")]


@pytest.mark.parametrize(("kind", "piece"), ORDINARY)
@pytest.mark.parametrize("name", ["pad_token", "eos_token"])
def test_a_piece_of_text_that_pads_or_ends_texts_too_stays_text(kind: str, piece: str, name: str) -> None:
    tokenizer = KINDS[kind]()
    setattr(tokenizer, name, piece)
    text = "the dog! ran . a\n cat dog."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_tokens_to_ids(piece) in ids
    assert TextIds(tokenizer).ids(text) == ids
    typed = TextIds(tokenizer).ids(f"</s> {text}")
    assert 2 not in typed and len(typed) > len(ids)


@pytest.mark.parametrize(("kind", "start"), [("plain", 1), ("bos-not-added", 1), ("without-bos", 2), ("unigram", 2)])
def test_where_a_method_needs_a_start_it_is_bos_or_else_the_end_of_the_text_before(kind: str, start: int) -> None:
    assert start_id(KINDS[kind]()) == start


def test_unknown_words_are_no_control_tokens() -> None:
    tokenizer = words()
    assert TextIds(tokenizer).ids("the zebra </s> sat") == tokenizer("the zebra zebra sat")["input_ids"]


def test_tokenizers_in_python_read_control_tokens_as_text_too() -> None:
    tokenizer = ByT5Tokenizer()
    reader = TextIds(tokenizer)
    assert tokenizer("a</s>b", add_special_tokens=False)["input_ids"] == [100, 1, 101]
    assert reader.ids("a</s>b") == [3 + byte for byte in b"a</s>b"] and reader.start == []
    assert reader.with_special_tokens(["ab"]) == [[100, 101, 1]] and reader.documents(["a"]) == [[100, 1]]
    with pytest.raises(UserError, match="does not tell which part of a text its tokens are"):
        reader.with_offsets(["a"])
    assert tokenizer_fingerprint(tokenizer) == tokenizer_fingerprint(ByT5Tokenizer())


@pytest.mark.parametrize("make", [word_mark, unigram, byte_level])
def test_texts_of_tokens_keep_the_space_in_front(make: Callable[[], Any]) -> None:
    tokenizer, text = make(), texts()[0][:60]
    ids = TextIds(tokenizer).ids(text)
    shown = texts_of(ids, tokenizer)
    assert "".join(shown).strip() == text.strip() and any(piece.startswith(" ") for piece in shown[1:])
    special = tokenizer.all_special_ids[0]
    assert texts_of([special], tokenizer) == [tokenizer.convert_ids_to_tokens(special)]
    assert token_texts(tokenizer)[special] == "" and token_texts(tokenizer)[ids[1]] == shown[1]
