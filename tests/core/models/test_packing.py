"""The policy's forward without padding gives the losses and gradients of padded rows."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from recipes.core.losses.objectives import IGNORE
from recipes.core.models import packing
from recipes.core.models.head import OutputHead
from recipes.core.models.vision_language import TextModel
from recipes.core.scoring.rows import completion_batch

VOCABULARY = 40
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.3,
}
GROUPED = {**SHAPE, "intermediate_size": 24, "num_key_value_heads": 2, "head_dim": 4}
CONFIGS = {
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=4, initializer_range=0.3),
    "llama": LlamaConfig(**GROUPED),
    "mistral": MistralConfig(**GROUPED, sliding_window=None),
    "qwen2": Qwen2Config(**GROUPED),
    "qwen3": Qwen3Config(**GROUPED),
}
# Prompt tokens, then those of both answers.
PAIRS = [(5, 9, 2), (1, 1, 4), (17, 3, 3), (2, 30, 11), (4, 1, 1)]
Rows = list[tuple[np.ndarray, np.ndarray]]


def rows(pairs: list[tuple[int, int, int]]) -> Rows:
    random = np.random.default_rng(0)

    def ids(length: int) -> np.ndarray:
        return random.integers(0, VOCABULARY, length).astype(np.int32)

    prompts = [ids(prompt) for prompt, _, _ in pairs]
    return [(prompt, ids(pair[side])) for side in (1, 2) for prompt, pair in zip(prompts, pairs, strict=True)]


def policy(name: str) -> TextModel:
    torch.manual_seed(0)
    model = TextModel(AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation="sdpa"))
    return model.eval()


def outcome(model: TextModel, batch: dict[str, Tensor], packed: bool) -> tuple[Tensor, Tensor]:
    """Log-probs of the completion tokens, and the gradient of a loss in which each weighs differently."""
    predicted = batch["labels"] != IGNORE
    seen = []

    def read(hidden: Tensor, head: OutputHead) -> Tensor:
        seen.append(hidden.shape)
        logp = head.logits(hidden[predicted]).log_softmax(-1)
        return logp.gather(1, batch["labels"][predicted][:, None])[:, 0]

    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    logps = packing.forward_packed(model, batch, read) if packed else model(**inputs, pixels=None, readout=read)
    assert seen == [(*batch["input_ids"].shape, 16)]
    model.zero_grad()
    (logps * torch.linspace(-1, 1, len(logps)) / len(logps)).sum().backward()
    return logps.detach(), torch.cat([weight.grad.flatten() for weight in model.parameters()])  # type: ignore[union-attr]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("answers", [slice(None), slice(7), slice(0, None, 5)])
def test_packed_rows_say_what_padded_ones_say(name: str, answers: slice) -> None:
    model, batch = policy(name), completion_batch(rows(PAIRS)[answers], pad_id=3)
    assert packing.packable(model)
    (logps, gradient), (expected, plain) = (outcome(model, batch, packed) for packed in (True, False))
    torch.testing.assert_close(logps, expected, atol=3e-6, rtol=1e-6)
    torch.testing.assert_close(gradient, plain, atol=1e-6, rtol=1e-5)
    assert plain.abs().max() > 0.01


def test_packed_rows_hold_fewer_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = policy("llama"), completion_batch(rows(PAIRS), pad_id=3)
    shapes = []
    plain = model.forward
    monkeypatch.setattr(model, "forward", lambda **inputs: shapes.append(inputs["input_ids"].shape) or plain(**inputs))
    outcome(model, batch, packed=True)
    [(count, width)] = shapes
    assert 2 * count * width < batch["input_ids"].numel()


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**GROUPED, sliding_window=8),
        LlamaConfig(**GROUPED, attn_implementation="eager"),
        Qwen2Config(**GROUPED, use_sliding_window=True, sliding_window=8, max_window_layers=1),
    ],
)
def test_other_models_get_padded_rows(config: Any) -> None:
    torch.manual_seed(0)
    model = TextModel(AutoModelForCausalLM.from_config(config)).eval()
    assert not packing.packable(model)
    batch = completion_batch(rows(PAIRS), pad_id=3)
    assert torch.equal(outcome(model, batch, True)[0], outcome(model, batch, False)[0])


def test_answers_share_what_they_begin_with() -> None:
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [1, 2, 9, 4], [5, 6, 0, 0]])
    attention = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]])
    assert packing.common_prefix_lengths(ids, attention).tolist() == [2, 2, 2, 2]
    assert packing.common_prefix_lengths(ids[:3], attention[:3]).tolist() == [0, 0, 0]


def test_what_a_token_sees() -> None:
    owners, branches = torch.tensor([[0, 0, 0, 1, -1]]), torch.tensor([[0, 1, 2, 0, 0]])
    assert packing.visible(owners, branches)[0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1],
    ]


@pytest.mark.parametrize(
    ("sizes", "balance", "expected"),
    [
        ([5, 9, 4], 1e9, [[1], [0, 2]]),  # two full rows
        ([9, 2, 2, 2], 1e9, [[0, 1, 2, 3]]),  # one long row holds no padding
        ([9, 2, 2, 2], 1.0, [[0], [1, 2, 3]]),  # where attention is dear, rows stay short
        ([7], 100.0, [[0]]),
    ],
)
def test_rows_that_cost_least(sizes: list[int], balance: float, expected: list[list[int]]) -> None:
    assert packing.fit(sizes, balance) == expected
