"""Banded attention: that of a dense mask in value and gradient, counts, what a token can reach, and what is held."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from recipes.core.models.attention_functions import RowsAttention, use_attention
from recipes.core.models.banded import Projected, banded_attention, use_banded_attention
from recipes.core.models.build import local_seed

WINDOW = 6
LENGTHS = {"1": 1, "half": 3, "half and one": 4, "w": 6, "w + 1": 7, "3w + 7": 25}


def _dense(
    queries: Tensor, keys: Tensor, values: Tensor, window: int, real: Tensor, chosen: Tensor, apart: Projected
) -> Tensor:
    """Attention with all [L, L] scores; `chosen` is bool [B, L]."""
    places = torch.arange(queries.shape[2])
    near = (places[:, None] - places).abs() <= window // 2
    visible = (near | chosen[:, None, :]) & real[:, None, :]

    def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~seen[:, None], -1e30)
        return scores.softmax(-1) @ v

    rows = attend(queries, keys, values, visible)
    everything = attend(*apart, real[:, None, :].expand(-1, len(places), -1))
    out = torch.where(chosen[:, None, :, None], everything, rows)
    return out.masked_fill(~real[:, None, :, None], 0)


@pytest.mark.parametrize("length", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("kind", ["band", "pads", "everywhere", "pads, everywhere", "pads, everywhere, projected"])
def test_equals_a_dense_mask(length: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(length)
    parts = [
        torch.randn(3, 2, length, 4, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(6)
    ]
    real, chosen = torch.ones(3, length, dtype=torch.bool), torch.zeros(3, length, dtype=torch.bool)
    if "pads" in kind:
        real = torch.rand(3, length, generator=generator) < 0.7
        real[:2, 0] = True  # the last row may hold padding alone
    if "everywhere" in kind:
        chosen = torch.rand(3, length, generator=generator) < 0.3
        chosen[2] = False
    positions = torch.where(chosen, torch.arange(length), -1).sort(1, descending=True).values
    apart = Projected(*parts[3:]) if "projected" in kind else Projected(*parts[:3])
    taken = apart.queries.gather(2, positions.clamp_min(0)[:, None, :, None].expand(-1, 2, -1, 4))
    q, k, v = parts[:3]
    ours = banded_attention(
        q,
        k,
        v,
        WINDOW,
        real=real if "pads" in kind else None,
        everywhere=positions if "everywhere" in kind else None,
        projected=Projected(taken, apart.keys, apart.values) if "projected" in kind else None,
    )
    dense = _dense(q, k, v, WINDOW, real, chosen, apart)
    torch.testing.assert_close(ours, dense, rtol=0, atol=1e-10)
    weights = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    used = parts if "projected" in kind else parts[:3]
    for one, other in zip(*(torch.autograd.grad((out * weights).sum(), used) for out in (ours, dense)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("everywhere", "counts"), [(None, [3, 4, 5, 5, 5, 5, 4, 3]), ([[0]], [8, 4, 5, 6, 6, 6, 5, 4])]
)
def test_worked_counts(everywhere: list[list[int]] | None, counts: list[int]) -> None:
    queries, keys = torch.randn(2, 1, 1, 8, 8)
    positions = None if everywhere is None else torch.tensor(everywhere)
    rows = banded_attention(queries, keys, torch.eye(8)[None, None], 4, everywhere=positions)[0, 0]
    assert (rows > 0).sum(-1).tolist() == counts
    torch.testing.assert_close(rows.sum(-1), torch.ones(8))


def test_short_texts_have_full_attention_and_odd_windows_none() -> None:
    q, k, v = torch.randn(3, 2, 2, 5, 4)
    full = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(banded_attention(q, k, v, 10), full, rtol=0, atol=0)
    torch.testing.assert_close(banded_attention(q, k, v, 8), full, rtol=0, atol=0)
    assert not torch.allclose(banded_attention(q, k, v, 6), full)
    for window in (7, 0, -2):
        with pytest.raises(ValueError, match="an even number of tokens"):
            banded_attention(q, k, v, window)


def test_what_is_held_grows_with_the_length_alone() -> None:
    def held(length: int) -> int:
        sizes: dict[int, int] = {}
        q, k, v = torch.randn(3, 1, 2, length, 8, requires_grad=True)

        def note(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            out = banded_attention(q, k, v, 16)
        assert out.requires_grad
        return sum(sizes.values())

    assert held(1024) < 2.2 * held(512)


def _encoder(layers: int = 2) -> Any:
    shape: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    with local_seed(0):
        config = BertConfig(vocab_size=50, num_hidden_layers=layers, max_position_embeddings=64, **shape)
        return BertModel(config, add_pooling_layer=False).eval()


@torch.no_grad()
def test_a_token_reaches_half_a_window_a_layer_and_padding_nothing() -> None:
    model, ids = _encoder(), torch.randint(3, 50, (1, 40), generator=torch.Generator().manual_seed(0))
    use_banded_attention(model, WINDOW)
    states = model(input_ids=ids).last_hidden_state
    changed = ids.clone()
    changed[0, 20] = (ids[0, 20] + 1) % 50
    moved = (model(input_ids=changed).last_hidden_state - states).abs().amax(-1)[0] > 0
    assert moved.nonzero().flatten().tolist() == list(range(20 - WINDOW, 20 + WINDOW + 1))
    padded = torch.cat([ids, torch.zeros(1, 9, dtype=torch.int64)], 1)
    mask = torch.ones_like(padded)
    mask[:, 40:] = 0
    out = model(input_ids=padded, attention_mask=mask).last_hidden_state[:, :40]
    torch.testing.assert_close(out, states, rtol=1e-5, atol=1e-5)


def test_a_first_token_that_sees_all_begins_with_the_projections_of_others() -> None:
    model, ids = _encoder(), torch.randint(3, 50, (2, 30), generator=torch.Generator().manual_seed(0))
    use_banded_attention(model, WINDOW, first=True)
    places = torch.arange(30)
    seen = ((places[:, None] - places).abs() <= WINDOW // 2) | (places == 0) | (places[:, None] == 0)
    dense = _encoder()
    use_attention(dense, RowsAttention(lambda _, rows: rows))
    mask = seen.expand(2, 1, -1, -1)
    states = model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(
        states, dense(input_ids=ids, attention_mask=mask).last_hidden_state, rtol=1e-4, atol=1e-5
    )
    states[:, 0].pow(3).sum().backward()
    layer = model.encoder.layer[1].attention.self
    assert bool(layer.globally.query.weight.grad.abs().sum() > 0)
    assert layer.query.weight.grad is None or bool((layer.query.weight.grad == 0).all())
    with torch.no_grad():  # a layer further, nothing but the first token changes
        layer.globally.value.weight.mul_(2)
    changed = model(input_ids=ids).last_hidden_state
    assert not torch.allclose(changed[:, 0], states[:, 0])
    torch.testing.assert_close(changed[:, 1:], states[:, 1:])
