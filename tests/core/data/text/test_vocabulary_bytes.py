"""The bytes of tokens, the index by first bytes, and tokenizers whose tokens have none."""

import numpy as np
import pytest
from tokenizers import pre_tokenizers

from recipes.core.data.text.vocabulary_bytes import END, NO_SYMBOL, VocabularyBytes, unicode_bytes, vocabulary_bytes
from recipes.core.errors import UserError
from tests.core import tokenizer_kinds


def test_every_byte_has_its_character() -> None:
    assert set(unicode_bytes()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(unicode_bytes().values()) == list(range(256))


@pytest.mark.parametrize("kind", ["plain", "without-bos", "word-mark"])
def test_tokens_of_a_text_join_to_its_bytes(kind: str) -> None:
    tokenizer = tokenizer_kinds.KINDS[kind]()
    table = vocabulary_bytes(tokenizer, len(tokenizer) + 3, [tokenizer.eos_token_id], "")
    text = "the cat sat on a house. good dog"
    assert table.join(tokenizer(text, add_special_tokens=False)["input_ids"]).lstrip() == text.encode()
    assert table.symbols[tokenizer.eos_token_id] == END and table.table[tokenizer.eos_token_id] == b""
    assert (table.symbols[-3:] == NO_SYMBOL).all()  # rows of the model without a token
    assert table.symbols[tokenizer.pad_token_id] == NO_SYMBOL


@pytest.mark.parametrize(
    ("kind", "type"), [("unigram", "Unigram"), ("words", "WordLevel"), ("word-pieces", "WordPiece")]
)
def test_tokenizers_whose_tokens_have_no_bytes_are_refused_by_name(kind: str, type: str) -> None:
    tokenizer = tokenizer_kinds.KINDS[kind]()
    with pytest.raises(UserError, match=f"a tokenizer of type {type} does not say which bytes its tokens are"):
        vocabulary_bytes(tokenizer, len(tokenizer), [], "model.path=mine")


def test_the_index_finds_tokens_by_their_first_bytes() -> None:
    random = np.random.default_rng(0)
    texts = [bytes(random.choice([0, 97, 98, 255], random.integers(0, 4)).tolist()) for _ in range(200)]
    index = VocabularyBytes(texts)
    for prefix in {text[:size] for text in texts for size in range(4)} | {b"\xff\xff\xff\xff", b"z"}:
        wanted = [token for token, text in enumerate(texts) if text and text.startswith(prefix)]
        assert sorted(index.starting_with(prefix).tolist()) == wanted
        assert index.spelling(prefix) == [token for token in wanted if texts[token] == prefix]
