"""Blocks are where they are, and an encoder's block is the sum of its parts."""

from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
)

from recipes.core.errors import UserError
from recipes.core.models.anatomy import encoder_parts, transformer_blocks

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = SIZES | {"vocab_size": 20, "pad_token_id": 0}
IMAGE = SIZES | {"image_size": 8, "patch_size": 4}


@pytest.mark.parametrize(
    "model, name",
    [
        (LlamaForCausalLM(LlamaConfig(**TEXT)), "model.layers"),
        (GPT2LMHeadModel(GPT2Config(vocab_size=20, n_embd=16, n_layer=2, n_head=2)), "transformer.h"),
        (BertModel(BertConfig(**TEXT)), "encoder.layer"),
        (CLIPVisionModel(CLIPVisionConfig(**IMAGE)), "encoder.layers"),
        (MixtralForCausalLM(MixtralConfig(**TEXT, num_key_value_heads=2, num_local_experts=2)), "model.layers"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_blocks(model: Any, name: str):
    assert transformer_blocks(model) is model.get_submodule(name)


def test_a_model_of_two_towers_is_refused():
    model = T5ForConditionalGeneration(T5Config(vocab_size=20, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2))
    with pytest.raises(UserError, match="has 2 stacks of 2 blocks(.|\n)*one tower"):
        transformer_blocks(model)


@pytest.mark.parametrize(
    "tower, special",
    [
        (CLIPVisionModel(CLIPVisionConfig(**IMAGE)), (1, 0)),
        (SiglipVisionModel(SiglipVisionConfig(**IMAGE)), (0, 0)),
        (ViTModel(ViTConfig(**IMAGE)), (1, 0)),
        (BertModel(BertConfig(**TEXT)), (1, 1)),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, tuple) else "",
)
@torch.no_grad()
def test_a_block_is_its_parts(tower: Any, special: tuple[int, int]):
    parts, hidden = encoder_parts(tower.eval()), torch.randn(2, 5, 16)
    assert (parts.lead, parts.trail) == special and parts.heads == 2
    assert parts.patches == (0 if isinstance(tower, BertModel) else 4)
    for block in parts.blocks:
        whole = parts.family.feed(block, parts.family.attend(block, hidden, None))
        torch.testing.assert_close(whole, block(hidden, None))
        query, _, _ = parts.family.projections(block)
        assert query(parts.family.normed(block, hidden)).shape == hidden.shape
