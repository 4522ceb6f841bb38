"""Which matrices of a model are pruned and quantised."""

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM

from recipes.compression.linears import blocks_of, linears_of, zeros_of
from recipes.core.errors import UserError
from tests.compression.models import KINDS, small_model


@pytest.mark.parametrize("kind", KINDS)
def test_all_matrices_of_the_blocks_and_no_other(kind: str) -> None:
    model = small_model(kind)
    blocks, outside = blocks_of(model, "model"), {id(part) for part in model.parameters()}
    assert [block.number for block in blocks] == [0, 1, 2]
    assert len(blocks[0].linears) == {"llama": 7, "gpt2": 4, "bert": 6}[kind]
    for linear in linears_of(model, "model"):
        assert model.get_submodule(linear.name) is linear.module
        outside.remove(id(linear.module.weight))
    left = [name for name, part in model.named_parameters() if id(part) in outside and part.ndim > 1]
    assert all(
        "embed" in name or "wte" in name or "wpe" in name or "pooler" in name or "lm_head" in name for name in left
    )


@pytest.mark.parametrize("kind", KINDS)
def test_weight_is_out_by_in_and_a_view(kind: str) -> None:
    linear = next(
        each for each in linears_of(small_model(kind), "model") if each.weight.shape == (32, 16) or kind == "gpt2"
    )
    x = torch.randn(5, linear.weight.shape[1])
    bias = 0 if linear.module.bias is None else linear.module.bias
    torch.testing.assert_close(linear.module(x), x @ linear.weight.T + bias)
    linear.weight[0] = 0
    torch.testing.assert_close(linear.module(x)[:, 0], torch.zeros(5) + (bias if isinstance(bias, int) else bias[0]))


def test_zeros_are_counted() -> None:
    model = small_model("gpt2")
    count = zeros_of(model, "model")[1]
    assert count == 3 * 12 * 16 * 16 and zeros_of(model, "model")[0] == 0
    linears_of(model, "model")[5].weight[:2] = 0
    assert zeros_of(model, "model") == (2 * 16, count)


def test_experts_in_one_tensor_are_refused() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = MixtralForCausalLM(MixtralConfig(**sizes, num_key_value_heads=2, vocab_size=50, num_local_experts=2))
    with pytest.raises(UserError, match="no linear layers, such as") as error:
        blocks_of(model, "model=mine")
    assert "model=mine" in str(error.value)
