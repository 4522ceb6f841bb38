"""Rows of attention read beside a fused kernel are those of eager attention."""

import math
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    DynamicCache,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    MistralConfig,
    MistralModel,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)

from recipes.core.errors import UserError
from recipes.core.models.taps import Tap, attention_taps

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4}
TEXT = SIZES | {"vocab_size": 20}
GROUPED = TEXT | {"num_key_value_heads": 2, "pad_token_id": 0}
GPT2 = {"vocab_size": 20, "n_embd": 16, "n_layer": 3, "n_head": 4}
KINDS = {
    "llama": lambda: LlamaModel(LlamaConfig(**GROUPED)),
    "mistral": lambda: MistralModel(MistralConfig(**GROUPED, sliding_window=3, head_dim=6)),
    "qwen3": lambda: Qwen3Model(Qwen3Config(**GROUPED, head_dim=6)),
    "gpt2": lambda: GPT2Model(GPT2Config(**GPT2, scale_attn_by_inverse_layer_idx=True)),
    "bert": lambda: BertModel(BertConfig(**TEXT)),
}
IDS = torch.tensor([[1, 2, 3, 4, 5, 6], [7, 8, 9, 3, 0, 0]])
MASK = torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]])


def model_of(kind: str) -> Any:
    torch.manual_seed(0)
    return KINDS[kind]().eval()


def eager(model: Any, **inputs: Any) -> list[torch.Tensor]:
    model.set_attn_implementation("eager")
    weights = list(model(**inputs, output_attentions=True).attentions)
    model.set_attn_implementation("sdpa")
    return weights


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_rows_equal_eager_attention_and_the_model_computes_the_same(kind: str, padded: bool):
    model = model_of(kind)
    inputs = {"input_ids": IDS, "attention_mask": MASK if padded else torch.ones_like(MASK)}
    alone = model(**inputs).last_hidden_state
    with attention_taps(model) as taps:
        assert torch.equal(model(**inputs).last_hidden_state, alone)
    real = inputs["attention_mask"].bool()
    for layer, expected in enumerate(eager(model, **inputs)):
        full = taps[layer].rows()
        for row in range(2):
            torch.testing.assert_close(full[row][:, real[row]], expected[row][:, real[row]], atol=1e-6, rtol=1e-5)
        last = real.sum(1, keepdim=True) - 1
        torch.testing.assert_close(taps[layer].rows(last)[1], full[1][:, last[1]], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(taps[layer].rows([0, -1]), full[:, :, [0, 5]], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(taps[layer].received(), full.sum((1, 2)), atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_the_row_of_cls_of_an_image():
    torch.manual_seed(0)
    model = CLIPVisionModel(CLIPVisionConfig(**SIZES, image_size=8, patch_size=4)).eval()
    pixels = torch.randn(2, 3, 8, 8)
    with attention_taps(model, [-1]) as taps:
        model(pixels)
    torch.testing.assert_close(taps[2].rows([0]), eager(model, pixel_values=pixels)[2][:, :, :1], atol=1e-6, rtol=1e-5)
    with pytest.raises(KeyError, match="layer 0 has no tap"):
        taps[0]


@torch.no_grad()
def test_a_tail_on_a_cache_reads_the_keys_in_front_of_it():
    model, cache = model_of("llama"), DynamicCache()
    model(input_ids=IDS[:1, :4], cache=cache, use_cache=True)
    with attention_taps(model, [1]) as taps:
        model(input_ids=IDS[:1, 4:], cache=cache, use_cache=True)
    assert taps[1].queries.shape == (1, 4, 2, 4) and taps[1].keys.shape == (1, 2, 6, 4)
    torch.testing.assert_close(taps[1].rows(), eager(model, input_ids=IDS[:1])[1][:, :, 4:], atol=1e-6, rtol=1e-5)


def test_worked_rows():
    """Logits 0 and ln 3 for the second token: .25, .75. The first sees itself only; padding sees nothing."""
    queries, keys = torch.ones(1, 1, 2, 1), torch.tensor([[[[0.0], [math.log(3)]]]])
    tap = Tap(queries, keys, keys, 1.0, None, True)
    torch.testing.assert_close(tap.rows(), torch.tensor([[[[1.0, 0.0], [0.25, 0.75]]]]))
    seen = torch.tensor([[[[False, False], [False, True]]]])
    masked = Tap(queries, keys, keys, 1.0, seen, True)
    assert masked.rows().tolist() == [[[[0.0, 0.0], [0.0, 1.0]]]]
    with pytest.raises(IndexError, match="rows of 2 tokens"):
        tap.rows([2])


@pytest.mark.parametrize("count", [1, 64, 150])
def test_what_tokens_receive_is_the_sum_of_columns(count: int):
    drawn = torch.Generator().manual_seed(count)
    queries, keys = (torch.randn(2, heads, count, 4, generator=drawn) for heads in (4, 2))
    tap = Tap(queries, keys, keys, 0.5, None, True)
    torch.testing.assert_close(tap.received(), tap.rows().sum((1, 2)))
    assert tap.received().sum(1).tolist() == pytest.approx([4 * count] * 2)
    mask = torch.rand(2, 1, count, count, generator=drawn) < 0.5
    masked = Tap(queries, keys, keys, 0.5, mask, True)
    torch.testing.assert_close(masked.received(), masked.rows().sum((1, 2)))


def test_what_cannot_be_tapped_is_refused():
    model = model_of("llama")
    with pytest.raises(UserError, match="LlamaModel has no layer 3(.|\n)*0 to 2 exist"), attention_taps(model, [3]):
        pass
    with attention_taps(model) as taps, pytest.raises(UserError, match="no attention was seen in layer 0"):
        taps[0]
    model.set_attn_implementation("eager")
    with pytest.raises(UserError, match="runs with eager(.|\n)*attn_implementation=sdpa"), attention_taps(model):
        pass
    biased = T5EncoderModel(T5Config(vocab_size=20, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4))
    with pytest.raises(UserError, match="T5EncoderModel has a position_bias"), attention_taps(biased):
        biased(IDS)
