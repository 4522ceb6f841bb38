"""Samples: padding on the left, and where a completion ends."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from recipes.core.models.vision_language import TextModel
from recipes.core.scoring.sampling import _cut_at_end, _pad_left, sample, sample_once


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def test_prompts_are_padded_on_the_left_and_completions_end_once() -> None:
    padded, attention = _pad_left([ids(5), ids(6, 7)], pad_id=0)
    assert padded.tolist() == [[0, 5], [6, 7]] and attention.tolist() == [[0, 1], [1, 1]]
    assert _cut_at_end(np.array([4, 2, 2, 2]), [2]).tolist() == [4, 2]
    assert _cut_at_end(np.array([4, 5]), [2]).tolist() == [4, 5]


def test_a_completion_ends_at_the_ends_that_the_model_names_as_well() -> None:
    def completion(*ends: int | list[int] | None) -> list[int]:
        model = model_of_sixes()
        model.generation_config.eos_token_id = ends[0]
        return sample(TextModel(model), [ids(1)], 2, 4, 0.0, 0, "cpu")[0].tolist()

    assert completion(None) == completion(2) == [6, 6, 6, 6]
    assert completion(6) == completion([2, 6]) == [6]


def test_samples_of_other_settings_are_not_those_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEELYARD_HOME", str(tmp_path))

    def drawn(*ends: int | list[int] | None, path: str = "") -> list[int]:
        model = model_of_sixes()
        model.generation_config.eos_token_id, model.config.name_or_path = ends[0], path
        return sample_once("key", TextModel(model), [ids(1)], 1, 2, 4, 0.01, 0, "cpu")[0][0].tolist()

    def entries() -> int:
        return sum(each.is_dir() for each in (tmp_path / "cache/sampled-answers").iterdir())

    assert drawn(2) == drawn(None) == [6, 6, 6, 6] and entries() == 1
    assert drawn([2, 6]) == [6]
    assert drawn(2, path="owner/name") == [6, 6, 6, 6]  # its checkpoint may hold what changed samples of before
    assert entries() == 3


def model_of_sixes() -> LlamaForCausalLM:
    """A model that always says 6."""
    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.model.embed_tokens.weight.fill_(1.0)
        model.lm_head.weight[6] = 1.0
        for layer in model.model.layers:
            for parameter in layer.parameters():
                parameter.zero_()
    return model
