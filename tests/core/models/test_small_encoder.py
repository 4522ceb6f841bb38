"""Small encoders and their WordPiece: shapes counted, seeds, the same pieces whatever the order of texts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from recipes.core.data.text.text_ids import TextIds
from recipes.core.errors import UserError
from recipes.core.models.config import SmallEncoderConfig
from recipes.core.models.costs import flops
from recipes.core.models.small_encoder import (
    build_encoder,
    build_encoder_tokenizer,
    check_known,
    inside_words,
    special_tokens,
)
from recipes.core.models.tokenizer import train_bpe, train_wordpiece

TEXTS = [f"The quick Brown fox number {n} jumps; über {n * 7} lazy dogs, unbelievably." for n in range(60)]
CONFIG = SmallEncoderConfig(layers=2, width=16, heads=2, positions=12, vocabulary=200)


@pytest.fixture(scope="module")
def tokenizer(session_home: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEELYARD_HOME", str(session_home))
        return build_encoder_tokenizer(CONFIG, lambda: TEXTS, "texts of test_small_encoder")


def test_wordpiece(tokenizer: Any) -> None:
    [row] = TextIds(tokenizer).with_special_tokens(["The über fox, [MASK] unbelievably"])
    assert tokenizer.convert_ids_to_tokens(row)[:: len(row) - 1] == ["[CLS]", "[SEP]"]
    assert tokenizer.mask_token_id not in row and tokenizer.eos_token_id == tokenizer.sep_token_id
    assert tokenizer.decode(TextIds(tokenizer).ids("The Über fox")) == "the uber fox"
    special, inside = special_tokens(tokenizer), inside_words(tokenizer)
    assert special.nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4] and not bool((special & inside).any())
    assert inside[tokenizer.convert_tokens_to_ids("##y")] and len(tokenizer) <= 200


def test_wordpiece_is_the_same_whatever_the_order_of_texts(tokenizer: Any) -> None:
    other = train_wordpiece(lambda: TEXTS[::-1], "the same texts, reversed", 200)
    assert other.get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("train", [train_bpe, train_wordpiece])
def test_a_run_without_a_break_is_no_word_to_learn(train: Any) -> None:
    """The trainers' time grows with the square of a word, which base64 and DNA make minutes of."""
    text = "x" * 5000
    texts: Any = [text] if train is train_bpe else lambda: [text]
    made = train(texts, "a long run of test_small_encoder", 400)
    assert 500 <= max(len(piece.strip("#Ġ")) for piece in made.get_vocab()) <= 1000
    if train is train_bpe:
        assert made.decode(TextIds(made).ids(text)).lstrip() == text


def test_tokenizers_are_trained_on_words_everywhere() -> None:
    """But for stretches of text whose pieces have a greatest length, and unigrams, which are counted in linear time."""
    root = Path(__file__).parents[3]
    files = {path: path.read_text("utf-8").count(".train_from_iterator(") for path in root.glob("recipes/**/*.py")}
    assert {path.relative_to(root).as_posix(): count for path, count in files.items() if count} == {
        "recipes/core/models/tokenizer.py": 1,
        "recipes/tokenization/tokenizers.py": 2,
    }


@pytest.mark.parametrize("embedding", [None, 8])
def test_sizes_are_counted_as_they_are(embedding: int | None, tokenizer: Any) -> None:
    config = replace(CONFIG, embedding=embedding, vocabulary=len(tokenizer))
    model = build_encoder(config, tokenizer, 0)
    assert sum(part.numel() for part in model.parameters()) == config.parameters
    model.set_attn_implementation("eager")
    ids = torch.arange(7)[None]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    assert flops(config.macs(7)) == counter.get_total_flops()


def test_weights_come_from_the_seed_alone(tokenizer: Any) -> None:
    before = torch.get_rng_state()
    first, again, other = (build_encoder(CONFIG, tokenizer, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    [one, two, three] = [model.encoder.layer[0].output.dense.weight for model in (first, again, other)]
    assert torch.equal(one, two) and not torch.equal(one, three)


def test_texts_that_a_tokenizer_does_not_know(tokenizer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    read = TextIds(tokenizer).batch
    check_known(tokenizer, read(["The fox jumps"]), "these")
    assert not capsys.readouterr().err
    check_known(tokenizer, read(["The fox 船船船船船船船"]), "those")
    assert "of the tokens of those are [UNK]" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"knows no token of those: all 3 are \[UNK\]"):
        check_known(tokenizer, read(["船船", "船"]), "those")


def test_tokenizers_that_have_another_size_than_is_counted(
    tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer.save_pretrained(tmp_path / "theirs")
    train_bpe(TEXTS, "texts of test_small_encoder, bpe", 400).save_pretrained(tmp_path / "bpe")
    theirs = replace(CONFIG, tokenizer=str(tmp_path / "theirs"), vocabulary=len(tokenizer))
    read = build_encoder_tokenizer(theirs, list, "")
    assert read.get_vocab() == tokenizer.get_vocab()
    with pytest.raises(UserError) as smaller:  # operations would be counted with more
        build_encoder_tokenizer(replace(theirs, vocabulary=400), list, "")
    assert smaller.value.hint == f"type model.vocabulary={len(tokenizer)}"
    build_encoder_tokenizer(replace(CONFIG, vocabulary=5000), lambda: TEXTS, "texts of test_small_encoder")
    assert "are counted with model.vocabulary=5,000" in "".join(capsys.readouterr())
    with pytest.raises(UserError, match="has no cls token"):
        build_encoder_tokenizer(replace(CONFIG, tokenizer=str(tmp_path / "bpe")), list, "")
    tokenizer.add_tokens(["one more"] * 1 + [f"and {n}" for n in range(200)])
    tokenizer.save_pretrained(tmp_path / "large")
    with pytest.raises(UserError) as caught:
        build_encoder_tokenizer(replace(CONFIG, tokenizer=str(tmp_path / "large")), list, "")
    assert "type model.vocabulary=" in str(caught.value.hint)
