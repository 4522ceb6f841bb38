"""MACs of a layer by formula, by published table and by PyTorch's own counter."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, GemmaConfig, LlamaConfig, MistralConfig, Qwen3Config

from recipes.core.models.costs import LayerShape, decoder_shape, flops, mlp_macs, model_macs, patch_macs


def test_deit_small():
    deit = LayerShape(384, 1536)
    assert deit.macs(197) == 12 * 197 * 384**2 + 2 * 197**2 * 384
    assert deit.macs(197) / 1e9 == pytest.approx(0.3784, abs=5e-5)
    assert (model_macs(deit, [197] * 12) + patch_macs(196, 768, 384)) / 1e9 == pytest.approx(4.5985, abs=5e-5)


def test_linear_layers_in_a_row():
    assert mlp_macs(4, 8, 4, 2) == 4 * (8 * 4 + 4 * 2)


def test_grouped_queries():
    plain, grouped = LayerShape(64, 128), LayerShape(64, 128, kv_width=16)
    assert plain.macs(10) - grouped.macs(10) == 2 * 10 * 64 * (64 - 16)
    assert LayerShape(64, 128, kv_width=64).macs(10) == plain.macs(10)


@pytest.mark.parametrize("kind", [LlamaConfig, MistralConfig, Qwen3Config, GemmaConfig])
@pytest.mark.parametrize("heads, kv_heads, head", [(4, 4, 4), (4, 2, 4), (4, 2, 12), (2, 1, 6)])
def test_layers_are_counted_by_their_weights(kind: Any, heads: int, kv_heads: int, head: int):
    """Heads x width of a head need not be the width of a token."""
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "vocab_size": 8}
    config = kind(**sizes, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head, pad_token_id=0)
    model = AutoModel.from_config(config, attn_implementation="eager")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(inputs_embeds=torch.randn(1, 7, 16))
    assert flops(decoder_shape(model.layers[0]).macs(7)) == counter.get_total_flops()
