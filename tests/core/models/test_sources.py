"""Weights come as safetensors from a folder or the hub, or not at all; tokenizers get their image tokens."""

from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.core.data.images.captions import CaptionData
from recipes.core.errors import UserError
from recipes.core.models import from_config as models
from recipes.core.models.tokenizer import IMAGE_TOKENS, add_image_tokens


def test_pickled_weights_are_refused(config: Any, tokenizer: Any, tmp_path: Path) -> None:
    models.build_text_model(config.model, tokenizer, 0).language_model.config.save_pretrained(tmp_path)
    torch.save({"a": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="refused: pytorch_model.bin is pickled") as caught:
        models.load_text_model(str(tmp_path))
    assert "safetensors" in caught.value.hint


def test_an_absent_folder_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        models.load_text_model(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"no \*.safetensors"):
        models.load_text_model(str(tmp_path))


def test_a_hub_name_without_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="without network only a model that was downloaded before") as caught:
        models.load_text_model("nobody/nothing-of-that-name")
    assert "reference.path=FOLDER" in str(caught.value)


def test_a_saved_text_model_loads_the_same(config: Any, tokenizer: Any, tmp_path: Path) -> None:
    model = models.build_text_model(config.model, tokenizer, 0)
    model.language_model.save_pretrained(tmp_path)
    again = models.load_text_model(str(tmp_path))
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_bpe_keeps_frequent_words_whole_and_gives_the_text_back(tokenizer: Any, data: CaptionData) -> None:
    for word in ("seven", "three", "thin", "bold", "handwritten"):
        assert len(tokenizer(f"a {word}", add_special_tokens=False)["input_ids"]) == 2, word
    for i in range(20):
        text = data.test.caption(i).text
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]).strip() == text


def test_offsets_point_at_the_words(tokenizer: Any) -> None:
    text = "it shows a bold handwritten seven on white paper ."
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    words = {text[start:end].strip() for start, end in encoded["offset_mapping"]}
    assert {"bold", "seven", "paper"} <= words


def test_the_bpe_is_deterministic(
    config: Any, data: CaptionData, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path))
    again = models.build_tokenizer(config.model, data)
    assert again.get_vocab() == tokenizer.get_vocab()


def test_special_tokens_are_single_ids(tokenizer: Any) -> None:
    ids = [tokenizer.convert_tokens_to_ids(token) for token in IMAGE_TOKENS]
    assert len(set(ids)) == 4 and tokenizer.unk_token_id not in ids
    assert {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}.isdisjoint(ids)
    assert len(add_image_tokens(tokenizer)) == len(tokenizer)
