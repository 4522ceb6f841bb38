"""Rows of softplus attention: worked numbers, invariants, and the kernel inside a decoder."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from recipes.core.models.attention_functions import use_attention
from recipes.core.models.build import llama, local_seed
from recipes.pretraining.softplus_attention.kernel import Kernel
from recipes.pretraining.softplus_attention.method import Rows, alibi_slopes, attention_rows, reweight
from recipes.pretraining.softplus_attention.positions import NoRotation, stretched

Q = torch.tensor([[1.0, 0], [0, 1], [1, 1], [2, 0]])
K = torch.tensor([[1.0, 0], [1, 1], [0, 2], [-1, 0]])
LSSA = Rows()
SOFTMAX = Rows("exp", "sqrt")
KINDS = {
    "lssa": LSSA,
    "lssar": Rows(power=15),
    "softmax": SOFTMAX,
    "softmax_reweight": Rows("exp", "sqrt", power=15),
    "cosine_exp": Rows("exp"),
    "sigmoid": Rows("sigmoid", "sqrt", divide=False, bias=True),
    "relu": Rows("relu", "sqrt", divide=False),
    "elu1": Rows("elu1"),
}


def _rows(rows: Rows, queries: Tensor = Q, keys: Tensor = K) -> Tensor:
    count = len(keys)
    return attention_rows(queries, keys, torch.ones(count, count).tril().bool(), rows)


def _decoder(rows: Rows | None, heads: int = 2) -> Any:
    with local_seed(0):
        model = LlamaForCausalLM(llama(50, 2, 16 * heads, heads, 32)).eval()
    if rows is not None:
        use_attention(model, Kernel(rows))
    return model


def test_worked_rows_without_reweighting() -> None:
    expected = [[1, 0, 0, 0], [0.441349, 0.558651, 0, 0], [0.317786, 0.364428, 0.317786, 0]]
    expected.append([0.378848, 0.321255, 0.204383, 0.095514])
    torch.testing.assert_close(_rows(LSSA), torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("power", "last", "third"),
    [
        (1, [0.643908, 0.356092, 0, 0], None),
        (3, [0.855339, 0.144661, 0, 0], [0.285055, 0.429890, 0.285055]),
        (15, [0.999862, 0.000138, 0, 0], [0.102031, 0.795938, 0.102031]),
    ],
)
def test_worked_rows_with_reweighting(power: float, last: list[float], third: list[float] | None) -> None:
    rows = _rows(Rows(power=power))
    torch.testing.assert_close(rows[3], torch.tensor(last), atol=2e-6, rtol=0)
    if third:
        torch.testing.assert_close(rows[2, :3], torch.tensor(third), atol=2e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_what_every_kind_keeps(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(2, 9, 4, generator=generator).unbind()
    rows = _rows(KINDS[kind], queries, keys)
    assert bool((rows >= 0).all()) and bool((rows.triu(1) == 0).all())
    if KINDS[kind].divide:
        torch.testing.assert_close(rows.sum(-1), torch.ones(9))
    changed = keys.clone()
    changed[6] += 1
    torch.testing.assert_close(_rows(KINDS[kind], queries, changed)[:6], rows[:6])
    if KINDS[kind].scale != "sqrt":
        torch.testing.assert_close(_rows(KINDS[kind], 3 * queries, 0.1 * keys), rows, rtol=1e-4, atol=1e-6)


def test_powers_sharpen_and_overflow_nowhere() -> None:
    weights = torch.rand(5, 3000, generator=torch.Generator().manual_seed(0)).pow(8)
    weights /= weights.sum(-1, keepdim=True)
    count = torch.full((5, 1), 3000.0)
    tops = [float(reweight(weights, count, power).amax(-1).min()) for power in (1, 3, 15, 40)]
    assert tops == sorted(tops)
    direct = (weights.double() * 3000 - 1).clamp_min(0).pow(15)
    direct /= direct.sum(-1, keepdim=True)
    torch.testing.assert_close(reweight(weights.double(), count.double(), 15), direct, rtol=1e-10, atol=0)
    assert bool(reweight(weights, count, 15).isfinite().all())


def test_a_row_without_excess_stays_and_has_a_gradient() -> None:
    queries = torch.randn(6, 4, requires_grad=True)
    rows = _rows(Rows(power=15), queries, torch.ones(6, 4))
    torch.testing.assert_close(rows[5], torch.full((6,), 1 / 6))
    rows[:, 0].sum().backward()
    assert queries.grad is not None and bool(queries.grad.isfinite().all())


def test_power_one_of_whole_rows_is_the_row() -> None:
    weights = torch.tensor([[0.2, 0.5, 0.3]])
    torch.testing.assert_close(reweight(weights, torch.tensor([[3.0]]), 1), weights)


@pytest.mark.parametrize("kind", ["lssar", "relu", "cosine_exp"])
def test_gradients(kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    queries, keys = (torch.randn(5, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in "qk")
    assert torch.autograd.gradcheck(lambda q, k: _rows(KINDS[kind], q, k), (queries, keys))


def test_softmax_rows_are_those_of_the_fused_kernel() -> None:
    plain, ours, ids = _decoder(None), _decoder(SOFTMAX), torch.randint(3, 50, (3, 20))
    mask = torch.ones_like(ids)
    mask[1, 12:] = 0  # padding behind
    for model in (plain, ours):
        model.zero_grad()
        logits = model(input_ids=ids, attention_mask=mask).logits
        logits[mask.bool()].square().mean().backward()
    logits = [model(input_ids=ids, attention_mask=mask).logits[mask.bool()] for model in (plain, ours)]
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-5)
    for one, other in zip(plain.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["lssar", "sigmoid"])
@torch.no_grad()
def test_cache_and_chunks_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = _decoder(KINDS[kind]), torch.randint(3, 50, (2, 30))
    whole = model(input_ids=ids).logits
    begun = model(input_ids=ids[:, :20], use_cache=True)
    parts, cache = [begun.logits], begun.past_key_values
    for number in range(20, 30):
        step = model(input_ids=ids[:, number : number + 1], past_key_values=cache, use_cache=True)
        parts, cache = [*parts, step.logits], step.past_key_values
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr("recipes.pretraining.softplus_attention.kernel.CHUNK", 7)
    torch.testing.assert_close(model(input_ids=ids).logits, whole, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_padding_in_front_is_not_counted() -> None:
    model, ids = _decoder(KINDS["lssar"]), torch.randint(3, 50, (1, 9))
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.int64), ids], 1)
    mask = torch.tensor([[0] * 4 + [1] * 9])
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    logits = model(input_ids=padded, attention_mask=mask, position_ids=positions).logits[:, 4:]
    torch.testing.assert_close(logits, model(input_ids=ids).logits, rtol=1e-4, atol=1e-5)


def test_alibi_and_stretched_positions() -> None:
    torch.testing.assert_close(alibi_slopes(8), torch.tensor([2.0**-head for head in range(1, 9)]))
    cosines, sines = NoRotation(4)(torch.zeros(1), torch.arange(3)[None])
    assert bool((cosines == 1).all()) and bool((sines == 0).all()) and cosines.shape == (1, 3, 4)
    rotary = _decoder(None).model.rotary_emb
    before = rotary.inv_freq.clone()
    with stretched(rotary, "interpolation", 4):
        torch.testing.assert_close(rotary.inv_freq, before / 4)
    with stretched(rotary, "ntk", 4):
        # The base that is enlarged: base' = base 4^(d / (d - 2)).
        width = 2 * len(before)
        base = 10_000 * 4 ** (width / (width - 2))
        torch.testing.assert_close(rotary.inv_freq, base ** (-torch.arange(0, width, 2) / width))
    torch.testing.assert_close(rotary.inv_freq, before)
    assert math.isclose(float(before[0]), 1)
