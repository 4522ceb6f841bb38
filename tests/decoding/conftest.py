"""Tiny models with random weights, of the two types that tokens are chosen from."""

from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from recipes.core.models.vision_language import TextModel

VOCABULARY = 23


def tiny(kind: str, seed: int = 0, vocabulary: int = VOCABULARY) -> Any:
    """A causal language model, in evaluation mode, whose distributions are not flat."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 0}
    if kind == "llama":
        model: Any = LlamaForCausalLM(
            LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                        num_key_value_heads=1, max_position_embeddings=128, initializer_range=0.6, **shape)
        )  # fmt: skip
    else:
        model = GPT2LMHeadModel(
            GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=128, initializer_range=0.3, **shape)
        )
    return model.eval().requires_grad_(False)


@pytest.fixture(params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> Any:
    """A `TextModel` of either type."""
    return TextModel(tiny(request.param))
