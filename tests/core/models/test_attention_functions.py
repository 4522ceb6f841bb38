"""Functions of ours as the attention of `transformers` models: they compute what the kernel does, and may differ."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel, LlamaModel

from recipes.core.models.attention_functions import (
    PADS,
    ROWS,
    AttentionCall,
    RowsAttention,
    set_attention,
    softmax_rows,
    use_attention,
)
from recipes.core.models.build import llama, local_seed

SHAPE: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
IDS = torch.arange(24).reshape(3, 8) + 3


def _model(kind: str) -> Any:
    with local_seed(0):
        if kind == "bert":
            return BertModel(BertConfig(vocab_size=50, **SHAPE), add_pooling_layer=False).eval()
        config = llama(50, 2, 16, 4, 32)
        config.num_key_value_heads = 2
        return LlamaModel(config).eval()


def _states(model: Any, mask: Tensor) -> Tensor:
    """States at real tokens, with gradients of their squares left behind."""
    model.zero_grad()
    states: Tensor = model(input_ids=IDS, attention_mask=mask).last_hidden_state[mask.bool()]
    states.pow(3).mean().backward()
    return states.detach()


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("masks", [ROWS, PADS])
@pytest.mark.parametrize("pads", ["none", "behind", "in front"])
def test_unaltered_rows_are_the_kernel(kind: str, masks: str, pads: str) -> None:
    mask = torch.ones_like(IDS)
    if pads != "none":
        mask[1, slice(5, None) if pads == "behind" else slice(3)] = 0
    plain, ours = _model(kind), _model(kind)
    use_attention(ours, RowsAttention(lambda call, rows: rows), masks)
    torch.testing.assert_close(_states(ours, mask), _states(plain, mask), rtol=1e-4, atol=1e-5)
    for one, other in zip(plain.parameters(), ours.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-6)


def test_rows_are_seen_altered_and_returned() -> None:
    model, seen = _model("bert"), {}

    def hide_first(call: AttentionCall, rows: Tensor) -> Tensor:
        seen[call.layer] = rows
        rest = rows.index_fill(-1, torch.tensor([0]), 0)
        return rest / rest.sum(-1, keepdim=True)

    use_attention(model, RowsAttention(hide_first))
    out = model(input_ids=IDS, output_attentions=True)
    assert sorted(seen) == [0, 1] and seen[0].shape == (3, 2, 8, 8) and seen[0].requires_grad
    torch.testing.assert_close(seen[1].sum(-1), torch.ones(3, 2, 8))
    assert len(out.attentions) == 2 and bool((out.attentions[0][..., 0] == 0).all())
    without = torch.ones_like(IDS)
    without[:, 0] = 0
    states = _model("bert")(input_ids=IDS, attention_mask=without).last_hidden_state
    torch.testing.assert_close(out.last_hidden_state, states, rtol=1e-4, atol=1e-5)
    set_attention(model, RowsAttention(lambda call, rows: rows))
    states = _model("bert")(input_ids=IDS).last_hidden_state
    torch.testing.assert_close(model(input_ids=IDS).last_hidden_state, states, rtol=1e-4, atol=1e-5)


def test_a_query_that_sees_nothing_has_a_row_of_zeros_and_a_gradient() -> None:
    queries = torch.randn(1, 1, 3, 4, requires_grad=True)
    seen = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1]]).bool()[None, None]
    rows = softmax_rows(AttentionCall(None, 0, queries, torch.randn(1, 1, 3, 4), queries, seen, False, 0.5, 0.0))
    assert rows.detach()[0, 0, 1].tolist() == [0, 0, 0] and float(rows.detach()[0, 0, 0, 1]) == 0
    torch.testing.assert_close(rows.sum(-1)[0, 0], torch.tensor([1.0, 0, 1]))
    rows[..., 0].sum().backward()
    assert queries.grad is not None and bool(queries.grad.isfinite().all())
    assert bool((queries.grad[0, 0, 1] == 0).all())


def test_settings_stand_at_modules_and_not_among_parameters() -> None:
    model = _model("bert")
    before = set(model.state_dict())
    use_attention(model, torch.nn.Linear(2, 2))  # type: ignore[arg-type]
    assert set(model.state_dict()) == before
