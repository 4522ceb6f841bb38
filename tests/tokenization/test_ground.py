"""A new vocabulary for an old model, bits per byte, and tokenizers: what every recipe of the family stands on."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from recipes.core.data.text.pieces import Speller, read_vocabulary, token_rows
from recipes.core.errors import UserError
from recipes.core.models.hf_folder import writer
from recipes.core.models.rows import RowWeights, mean_row, random_rows
from recipes.core.models.vision_language import TextModel
from recipes.core.scoring.bits import says, text_bits
from recipes.tokenization import measures
from recipes.tokenization.config import TokenizerConfig
from recipes.tokenization.mapping import NO_TOKEN, map_vocabularies
from recipes.tokenization.tokenizers import (
    CHANCES,
    LENGTHS,
    draw_lengths,
    draw_stretches,
    is_supertoken,
    load_new_tokenizer,
    train_tokenizer,
)
from recipes.tokenization.transplant import transplant
from recipes.tokenization.vocabularies import copied_rows
from tests.core import tokenizer_kinds

TEXTS = ["the cat sat on a red house. the dog ran. ünïcode 猫が座った, şehir.", "a big tree and a small tree"]


def tiny(kind: str, vocabulary: int, seed: int = 0) -> Any:
    """A causal language model in evaluation mode: Llama with a head of its own, or GPT-2 with a tied one."""
    torch.manual_seed(seed)
    if kind == "llama":
        shape: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
        config: Any = LlamaConfig(
            vocab_size=vocabulary, num_attention_heads=2, max_position_embeddings=256, bos_token_id=0, eos_token_id=0,
            initializer_range=0.5, **shape,
        )  # fmt: skip
        return LlamaForCausalLM(config).eval()
    small = GPT2Config(
        vocab_size=vocabulary, n_embd=16, n_layer=2, n_head=2, n_positions=256, initializer_range=0.3,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(small).eval()


def permuted(tokenizer: Any, order: np.ndarray) -> Any:
    """The same byte-level BPE whose token i has the id order[i]."""
    import json

    from transformers import PreTrainedTokenizerFast

    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    pipeline["model"]["vocab"] = {piece: int(order[i]) for piece, i in pipeline["model"]["vocab"].items()}
    for token in pipeline["added_tokens"]:
        token["id"] = int(order[token["id"]])
    pipeline["added_tokens"].sort(key=lambda token: token["id"])
    backend = Tokenizer.from_str(json.dumps(pipeline))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", unk_token="<unk>", pad_token="<pad>", bos_token="<s>"
    )


def test_the_same_vocabulary_gives_the_same_rows_bit_for_bit() -> None:
    tokenizer = tokenizer_kinds.byte_level(bos=True)
    old = read_vocabulary(tokenizer, "")
    mapped = map_vocabularies(old, tokenizer, old, tokenizer)
    assert mapped.copied.tolist() == list(range(len(old))) and not len(mapped.unique) and not len(mapped.dropped)
    for kind in ("llama", "gpt2"):
        model = tiny(kind, len(old))
        before = {name: values.clone() for name, values in model.state_dict().items()}
        transplant(model, tokenizer, mapped, copied_rows(mapped))
        assert all(values.equal(before[name]) for name, values in model.state_dict().items())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_permuted_vocabulary_gives_permuted_logits(kind: str) -> None:
    tokenizer = tokenizer_kinds.byte_level(bos=True)
    order = np.random.default_rng(0).permutation(token_rows(tokenizer))
    other = permuted(tokenizer, order)
    mapped = map_vocabularies(read_vocabulary(tokenizer, ""), tokenizer, read_vocabulary(other, ""), other)
    assert mapped.copied.tolist() == np.argsort(order).tolist()
    model, ids = tiny(kind, len(order)), torch.tensor(tokenizer(TEXTS[0])["input_ids"])[None]
    with torch.no_grad():
        before = model(ids).logits
        transplant(model, other, mapped, copied_rows(mapped))
        after = model(torch.from_numpy(order)[ids]).logits
    torch.testing.assert_close(after[..., torch.from_numpy(order)], before)


def test_tokens_are_shared_by_their_bytes_whatever_marks_a_space() -> None:
    one, other = tokenizer_kinds.byte_level(bos=True), tokenizer_kinds.word_mark()
    ids, theirs = one.get_vocab(), other.get_vocab()
    mapped = map_vocabularies(read_vocabulary(one, ""), one, read_vocabulary(other, ""), other)
    assert mapped.copied[theirs["▁the"]] == ids["Ġthe"]
    assert mapped.copied[theirs["</s>"]] == ids["</s>"] and mapped.control[theirs["</s>"]]
    assert theirs["▁the"] in mapped.shared and not mapped.control[theirs["▁the"]]


def test_control_tokens_are_the_same_by_role_where_names_differ() -> None:
    old, new = tokenizer_kinds.byte_level(bos=True), tokenizer_kinds.byte_level(bos=True)
    new.add_special_tokens({"eos_token": "<end>"})
    new.add_special_tokens({"additional_special_tokens": ["<tool>"]})
    mapped = map_vocabularies(read_vocabulary(old, ""), old, read_vocabulary(new, ""), new)
    assert mapped.copied[new.eos_token_id] == old.eos_token_id
    tool = new.convert_tokens_to_ids("<tool>")
    assert mapped.copied[tool] == NO_TOKEN and mapped.control[tool] and tool not in mapped.unique


@pytest.mark.parametrize("kind", ["plain", "word-mark"])
def test_bytes_are_spelt_by_the_merges_alone(kind: str) -> None:
    tokenizer = tokenizer_kinds.KINDS[kind]()
    vocabulary = read_vocabulary(tokenizer, "")
    spell = Speller(tokenizer, vocabulary, "")
    for data in (b"the", b" the", b"he", b"big tr"):
        ids = spell(data)
        assert spell.spells(data, ids) and vocabulary.join(ids) == data
    assert len(spell(b" the")) == 1
    if kind == "plain":  # half of a character is no text, and has tokens all the same
        assert spell.spells(b"\xc3", spell(b"\xc3")) and spell.spells(b" a\xff", spell(b" a\xff"))
    else:
        assert spell(b"\xc3") == [] and not spell.spells(b"\xc3", [])


def test_rows_are_weighted_sums_and_others_fill_what_is_missing() -> None:
    old = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-0.0, 4.0]])
    some = RowWeights(4, torch.tensor([0, 1, 1]), torch.tensor([2, 0, 1]), torch.tensor([1.0, 0.25, 0.75]))
    others = RowWeights(4, torch.tensor([1, 2]), torch.tensor([2, 1]), torch.tensor([1.0, 0.5]))
    both = some.with_others(others)
    assert both.apply(old).tolist() == [[0, 4], [0.25, 1.5], [0, 1], [0, 0]]
    assert math.copysign(1, both.apply(old)[0, 0]) == -1  # a copy, to the bit
    assert both.missing.tolist() == [False, False, False, True]


def test_rows_of_no_token_are_the_mean_or_drawn() -> None:
    old = torch.randn(500, 8) * 3 + 1
    assert torch.equal(mean_row(old), old.double().mean(0).float())
    rows = random_rows(old, 4000, seed=1)
    assert torch.equal(rows, random_rows(old, 4000, seed=1)) and not torch.equal(rows, random_rows(old, 4000, seed=2))
    assert float(rows.mean()) == pytest.approx(float(old.mean()), abs=0.1)
    assert float(rows.std()) == pytest.approx(float(old.std()), rel=0.05)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_folder_that_transformers_loads(kind: str, tmp_path: Path) -> None:
    old, texts = tokenizer_kinds.byte_level(bos=True), [*TEXTS, *tokenizer_kinds.texts()]
    new = train_tokenizer(TokenizerConfig(vocabulary=320), texts, f"folder-{kind}", old, 0)
    model = tiny(kind, token_rows(old))
    mapped = map_vocabularies(read_vocabulary(old, ""), old, read_vocabulary(new, ""), new)
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    transplant(model, new, mapped, copied_rows(mapped), pad_to=128)
    folder = tmp_path / "model"
    writer(model, new)(folder)
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert loaded.config.vocab_size == 384 and len(tokenizer) == 320
    assert (loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight) == tied == (kind == "gpt2")
    assert loaded.config.eos_token_id == tokenizer.eos_token_id == new.eos_token_id
    ids = tokenizer("the cat", return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(loaded(**ids).logits, model(**ids).logits)
    assert tokenizer.decode(ids["input_ids"][0]) == "the cat"


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_bits_of_a_text_are_those_of_its_tokens_one_by_one(kind: str) -> None:
    tokenizer = tokenizer_kinds.byte_level(bos=True)
    model = tiny(kind, token_rows(tokenizer) + 7)
    measured = text_bits(TextModel(model), tokenizer, TEXTS, "evaluation.characters", batch_tokens=64)
    for text, one in zip(TEXTS, measured, strict=True):
        ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        with torch.no_grad():  # rows that no token has get no probability
            logits = model(torch.tensor([ids])).logits[0, :, : token_rows(tokenizer)]
        chances = logits.log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
        assert one.ids == ids[1:] and one.exact and one.size == len(text.encode())
        np.testing.assert_allclose(one.bits, -chances.numpy() / math.log(2), rtol=1e-4)
        assert one.per_byte * one.size == pytest.approx(one.per_token * len(one.ids))


def test_texts_that_do_not_fit_or_that_a_tokenizer_cannot_say() -> None:
    tokenizer = tokenizer_kinds.byte_level(bos=True)
    model = TextModel(tiny("gpt2", token_rows(tokenizer)))
    with pytest.raises(UserError, match="does not fit the context of the model, 256"):
        text_bits(model, tokenizer, ["x" * 300], "evaluation.characters")
    marks = tokenizer_kinds.word_mark()
    measured = text_bits(TextModel(tiny("gpt2", token_rows(marks))), marks, ["the 猫"], "evaluation.characters")
    assert not measured[0].exact  # no byte fallback: what is lost is said


def test_a_blank_that_the_tokenizer_sets_in_front_takes_nothing_from_a_text() -> None:
    tokenizer = tokenizer_kinds.byte_level()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    for text in ("the 猫", " the cat"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert says(tokenizer, ids, text) and not says(tokenizer, ids[:-1], text)


def test_lengths_of_stretches() -> None:
    draw = np.random.default_rng(0)
    for characters in (0, 1, 3, 4, 5, 500):
        lengths = draw_lengths(characters, draw)
        assert sum(lengths) == characters
        assert all(LENGTHS[0][0] <= length <= LENGTHS[-1][1] for length in lengths[:-1])
    assert sum(CHANCES) == pytest.approx(1.1)  # as released: they are divided by their sum
    many = np.array(draw_lengths(400_000, draw))
    shares = [np.isin(many, pair).mean() for pair in LENGTHS]
    np.testing.assert_allclose(shares, np.array(CHANCES) / sum(CHANCES), atol=0.01)
    assert "".join(draw_stretches(TEXTS, 0)) == "".join(TEXTS)


def test_supertokens_cross_words_and_text_comes_back() -> None:
    old, texts = tokenizer_kinds.byte_level(bos=True), tokenizer_kinds.texts() * 3
    text = TEXTS[0] + "  a  b\n\tİstanbul ıi שלום e\u0301"
    sizes, supers = {}, {}
    for supertokens in (False, True):
        config = TokenizerConfig(vocabulary=800, supertokens=supertokens)
        made = train_tokenizer(config, texts, "supertokens", old, 0)
        assert made.eos_token == old.eos_token and made.convert_tokens_to_ids("<|im_start|>") is not None
        assert made.decode(made(text, add_special_tokens=False)["input_ids"]) == text
        table = read_vocabulary(made, "").table
        supers[supertokens] = sum(map(is_supertoken, table))
        sizes[supertokens] = sum(len(row) for row in made(texts, add_special_tokens=False)["input_ids"])
        assert supertokens is False or max(map(len, table)) <= config.longest
    assert supers[False] == 0 and supers[True] > 50 and sizes[True] < sizes[False]


def test_texts_with_too_few_pairs_make_a_smaller_vocabulary(capsys: pytest.CaptureFixture[str]) -> None:
    old = tokenizer_kinds.byte_level(bos=True)
    made = train_tokenizer(TokenizerConfig(vocabulary=500), ["word"], "one word", old, 0)
    assert 256 <= token_rows(made) < 270 and "no more pairs to merge" in capsys.readouterr().err


def test_a_users_tokenizer_file(tmp_path: Path) -> None:
    like = tokenizer_kinds.byte_level(bos=True)
    file = tmp_path / "new.json"
    tokenizer_kinds.byte_level().backend_tokenizer.save(str(file))
    assert load_new_tokenizer(str(file), like).eos_token == "</s>"
    file.write_text("{}")
    with pytest.raises(UserError, match=r"is no tokenizer\.json"):
        load_new_tokenizer(str(file), like)
    from tokenizers import models

    Tokenizer(models.BPE()).save(str(file))
    with pytest.raises(UserError, match="has no token that ends a text"):
        load_new_tokenizer(str(file), like)


def test_measures_of_a_cut() -> None:
    assert measures.fertility(6, "two words") == 3 and measures.fertility(2, "") == 2
    assert measures.boundaries([3, 1, 2]) == {3, 4}
    assert measures.agreement({3, 4}, {4, 5}) == pytest.approx(1 / 3) and measures.agreement((), ()) == 1
    assert measures.renyi_efficiency([5, 5, 5, 5], 4) == pytest.approx(1)
    assert measures.renyi_efficiency([7, 0], 4) == 0
    # p = (3/4, 1/4): sum p^2 = 10/16, H_2 = log 1.6
    assert measures.renyi_efficiency([3, 1], 4, alpha=2) == pytest.approx(math.log(1.6) / math.log(4))
    shannon = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(4)
    assert measures.renyi_efficiency([3, 1], 4, alpha=1) == pytest.approx(shannon)
