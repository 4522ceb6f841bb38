"""Embeddings of a tiny random BERT: each that of the text alone, whatever stands beside it. No test needs an asset."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import normalizers
from transformers import BertConfig, BertModel, BertTokenizer

from recipes.core.errors import UserError
from recipes.core.models import sentences
from recipes.core.models.sentences import SentenceEncoder, embed_rows, load_sentence_encoder
from recipes.core.scoring.vectors import sentence_vectors

WORDS = [f"w{number}" for number in range(12)]
TEXTS = ["w1 w2 w3 w4 w5 w6", "w7", "w1 w2 w3 w4 w5 w6", "w2 w9 w9", "w3 w1 w2", "w7"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoder")
    (path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizer(str(path / "vocab.txt")).save_pretrained(path)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2}
    config = BertConfig(vocab_size=17, max_position_embeddings=10, initializer_range=0.5, **sizes)
    BertModel(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def encoder(folder: Path) -> SentenceEncoder:
    return load_sentence_encoder(str(folder), "model.path")


@torch.no_grad()
def test_each_embedding_is_that_of_the_text_alone(folder: Path, encoder: SentenceEncoder):
    embeddings = encoder.embed(TEXTS, batch_tokens=16)
    model, tokenizer = BertModel.from_pretrained(folder).eval(), encoder.tokenizer
    for text, vector in zip(TEXTS, embeddings, strict=True):
        mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        torch.testing.assert_close(vector, mean / mean.norm(), atol=1e-5, rtol=1e-5)
    order = [3, 0, 5, 1, 4, 2]
    torch.testing.assert_close(
        encoder.embed([TEXTS[i] for i in order], batch_tokens=999), embeddings[order], atol=1e-5, rtol=0
    )


def test_equal_texts_are_encoded_once_and_long_ones_first(encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch):
    shapes: list[tuple[int, ...]] = []

    def pooled(model: Any, rows: Any, *options: Any) -> torch.Tensor:
        shapes.append((len(rows), len(rows[0])))
        return torch.tensor([[float(len(row))] for row in rows])

    monkeypatch.setattr(sentences, "_embed_rows", pooled)
    rows = [[1] * 3, [2] * 8, [1] * 3, [3] * 3, [4] * 2]
    assert embed_rows(encoder.model, rows, device="cpu", batch_tokens=9).flatten().tolist() == [3, 8, 3, 3, 2]
    assert shapes == [(1, 8), (3, 3)]
    with pytest.raises(ValueError, match="row 1 has no ids"):
        embed_rows(encoder.model, [[1], []], device="cpu")
    assert encoder.embed([]).shape[0] == 0


@torch.no_grad()
def test_inner_layers_and_the_first_token(folder: Path, encoder: SentenceEncoder):
    model, rows = BertModel.from_pretrained(folder).eval(), [[2, 5, 6, 3], [2, 7, 3]]
    for layer in (0, 1, 2):
        embeddings = embed_rows(encoder.model, rows, device="cpu", layer=layer, pooling="first")
        for row, vector in zip(rows, embeddings, strict=True):
            states = model(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states[layer]
            torch.testing.assert_close(vector, states[0, 0], atol=1e-5, rtol=1e-5)
    last = embed_rows(encoder.model, rows, device="cpu", pooling="first")
    torch.testing.assert_close(last, embeddings, atol=0, rtol=0)


def test_kept_vectors_are_those_of_weights_and_tokenizer(
    encoder: SentenceEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path))
    other = replace(encoder, tokenizer=copy.deepcopy(encoder.tokenizer))
    other.tokenizer.backend_tokenizer.normalizer = normalizers.Replace("w1", "w3")
    kept = [sentence_vectors(each, ["w1 w2", "w3 w2"]) for each in (encoder, other, encoder)]
    assert np.array_equal(kept[0], kept[2]) and not np.allclose(kept[0][0], kept[0][1], atol=1e-3)
    np.testing.assert_allclose(kept[1], kept[0][[1, 1]], rtol=1e-5, atol=1e-6)
    assert all(isinstance(each, np.memmap) for each in kept)  # a large collection stays on the disk
    assert sentence_vectors(encoder, []).shape == (0, 1)


def test_long_texts_are_cut_and_counted(encoder: SentenceEncoder, capsys: pytest.CaptureFixture[str]):
    long = " ".join(["w1"] * 30)
    torch.testing.assert_close(encoder.embed([long])[0], encoder.embed([" ".join(["w1"] * 8)])[0])
    assert "1 of 1 texts are cut to the encoder's 10 tokens" in capsys.readouterr().err


def with_files(folder: Path, target: Path, files: dict[str, Any]) -> Path:
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).symlink_to(file)
    for name, content in files.items():
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).write_text(json.dumps(content))
    return target


def test_pooling_and_length_are_those_of_its_files(folder: Path, tmp_path: Path):
    files = {
        "1_Pooling/config.json": {"pooling_mode_cls_token": True},
        "sentence_bert_config.json": {"max_seq_length": 6},
    }
    encoder = load_sentence_encoder(str(with_files(folder, tmp_path / "cls", files)), "model.path")
    assert (encoder.pooling, encoder.max_tokens) == ("first", 6)
    expected = embed_rows(encoder.model, encoder.tokenizer(["w1 w2"])["input_ids"], device="cpu", pooling="first")[0]
    torch.testing.assert_close(encoder.embed(["w1 w2"])[0], expected / expected.norm())


@pytest.mark.parametrize(
    "files, message",
    [
        ({"1_Pooling/config.json": {"pooling_mode_max_tokens": True}}, "pools by pooling_mode_max_tokens"),
        ({"2_Dense/config.json": {}}, "has more behind its tokens than is known: 2_Dense"),
    ],
)
def test_encoders_that_make_something_else_of_their_tokens(folder: Path, tmp_path: Path, files: Any, message: str):
    with pytest.raises(UserError, match=message):
        load_sentence_encoder(str(with_files(folder, tmp_path / "other", files)), "model.path")


def test_more_tokens_than_positions(folder: Path):
    with pytest.raises(UserError, match="has 10 positions, fewer than 11"):
        load_sentence_encoder(str(folder), "model.path", max_tokens=11)
