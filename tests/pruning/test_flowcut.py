"""FlowCut's score, entropy schedule and accumulation."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recipes.pruning.options import FlowCutOptions
from recipes.pruning.pruners import make
from recipes.pruning.pruners.flowcut import combine_scores, density, entropy_ratio, llm_score, tokens_to_prune
from recipes.pruning.tokens import Point, Tokens
from tests.pruning.toy import batch, seen_at, walk

A = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64)
G = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
V = torch.tensor([[1.0, -1], [2, 0], [0.5, 0.5], [1, 1]], dtype=torch.float64)[None, None]


def test_worked_example():
    assert density(V).tolist() == [[2, 2, 1, 2]]
    score = combine_scores(A, G, density(V))
    assert score.tolist()[0] == pytest.approx([1, 1, 0.5, 1])
    assert (0.5 * torch.ones(1, 4) + 0.5 * score).tolist()[0] == pytest.approx([1, 1, 0.75, 1])
    ratio = entropy_ratio(A, torch.tensor([4]))
    assert float(ratio) == pytest.approx(0.92322, abs=5e-6)
    assert (4 - 2) / math.sqrt(4) * (1 - float(ratio) ** 2) == pytest.approx(0.14767, abs=5e-6)
    assert tokens_to_prune(torch.tensor([4]), torch.tensor([2]), 4, ratio).tolist() == [0]


def test_other_ways_to_combine():
    share = density(V) / 7
    assert combine_scores(A, G, density(V), "product").tolist()[0] == pytest.approx([0.08, 0.12, 0.06, 0.08])
    assert combine_scores(A, G, share, "sum").tolist()[0] == pytest.approx(
        [0.5 + 2 / 7] * 2 + [0.5 + 1 / 7, 0.5 + 2 / 7]
    )
    assert combine_scores(A, None, None, "sum").equal(A)
    assert combine_scores(A, None, None, "product").equal(combine_scores(A, None, None))


@pytest.mark.parametrize(
    "ratio, counts",
    [
        (0.95, [565, 553, 541, 529, 516, 502, 487, 470, 450, 423, 64]),
        (0.80, [535, 495, 456, 418, 381, 345, 309, 273, 235, 191, 64]),
        (0.60, [503, 437, 377, 323, 275, 232, 194, 160, 129, 100, 64]),
    ],
)
def test_published_schedule(ratio: float, counts: list[int]):
    now, target, left = torch.tensor([576]), torch.tensor([64]), []
    for layer in range(1, 22, 2):
        now = now - tokens_to_prune(now, target, 22 - layer - 1, torch.tensor([ratio], dtype=torch.float64))
        left.append(int(now))
    assert left == counts


def test_entropy_decides():
    even = torch.full((1, 8), 1 / 8)
    assert float(entropy_ratio(even, torch.tensor([8]))) == pytest.approx(1)
    counts, target = torch.tensor([100] * 3), torch.tensor([10] * 3)
    pruned = tokens_to_prune(counts, target, 4, torch.tensor([1.0, 0.8, 0.5]))
    assert pruned[0] == 0 and pruned[1] < pruned[2]
    assert float(entropy_ratio(torch.tensor([[1.0, 0.0]]), torch.tensor([2]))) == 0  # no NaN of 0 log 0
    assert float(entropy_ratio(torch.tensor([[1.0]]), torch.tensor([1]))) == 1


def at(layer: int, row: Tensor, values: Tensor, budget: int = 2, **given: object) -> Tokens:
    patches = row.shape[2] - 1
    x = torch.zeros(1, patches, 2, dtype=torch.float64)
    return Tokens.of(x, budget, point=Point("vit", layer), layers=6, cls_row=row, values=values, **given)


def test_even_attention_scores_by_density():
    row, values = torch.full((1, 1, 5), 0.2, dtype=torch.float64), torch.ones(1, 1, 5, 2, dtype=torch.float64)
    state: dict[str, Tensor] = {}
    make(FlowCutOptions())(at(0, row, values), state)
    assert state["flow"].tolist()[0] == pytest.approx([2 / 4 * 2] * 4)  # 2 / N x n, n = 2


@given(seed=st.integers(0, 1000), weight=st.sampled_from([0.0, 0.5, 0.8]))
def test_running_average_over_layers(seed: int, weight: float):
    draw = torch.Generator().manual_seed(seed)
    rows = [torch.rand(1, 2, 5, generator=draw, dtype=torch.float64).softmax(2) for _ in range(2)]
    values = torch.randn(1, 2, 5, 3, generator=draw, dtype=torch.float64)
    pruner, state, single = make(FlowCutOptions(cumulative=weight)), {}, []
    for layer, row in zip((0, 2), rows, strict=True):  # neither prunes
        chosen = pruner(at(layer, row, values), state)
        assert chosen.count == 4
        alone: dict[str, Tensor] = {}
        make(FlowCutOptions())(at(layer, row, values), alone)
        single.append(alone["flow"])
    torch.testing.assert_close(state["flow"], weight * single[0] + (1 - weight) * single[1])


def test_relevance_is_an_unscaled_softmax_over_all_tokens():
    values = torch.tensor([[1.0, 0], [2, 0], [0, 1]], dtype=torch.float64)[None, None]
    row = torch.tensor([[[0.2, 0.4, 0.4]]], dtype=torch.float64)
    state: dict[str, Tensor] = {}
    make(FlowCutOptions(criteria=("semantic",)))(at(0, row, values, budget=1), state)
    total = math.exp(2) + math.exp(0)  # CLS takes part in the softmax, then drops out
    assert state["flow"].tolist()[0] == pytest.approx([math.exp(2) / total, 1 / total])


def test_counts_and_order_behind_the_pruning_blocks():
    kept = walk(FlowCutOptions(ratio="fixed"), batch([25], [9]))
    assert [int(each.valid.sum()) for each in kept] == [25, 17, 17, 9]
    assert [int(k.valid.sum()) for k in walk(FlowCutOptions(ratio="one_shot"), batch([25], [9]))] == [25, 25, 25, 9]
    assert [int(k.valid.sum()) for k in walk(FlowCutOptions(ratio="fixed", interval=1), batch([25], [9]))] == [
        21,
        17,
        13,
        9,
    ]


@pytest.mark.parametrize("budgets, expected", [([1, 1], [2, 2]), ([1, 3], [2, 3]), ([1, 4], [2, 4])])
def test_the_official_count_is_the_largest_of_the_batch(budgets: list[int], expected: list[int]):
    """The sample of the lowest entropy decides; nobody falls below the own target."""
    row = torch.tensor([[[0.1, 0.9, 0.0, 0.0, 0.0]], [[0.2] * 5]], dtype=torch.float64)
    values = torch.ones(2, 1, 5, 2, dtype=torch.float64)
    x = torch.zeros(2, 4, 2, dtype=torch.float64)
    for reduce, counts in (("sample", [2, 4]), ("max", expected)):
        tokens = Tokens.of(x, budgets, point=Point("vit", 1), layers=6, cls_row=row, values=values)
        assert make(FlowCutOptions(ratio_reduce=reduce))(tokens, {}).count.tolist() == counts


def test_mean_query_reads_no_cls():
    pruner = make(FlowCutOptions(query="mean", criteria=("attn", "density")))
    assert "cls_row" not in pruner.needs(Point("vit", 0))
    q = torch.tensor([[1.0, 0], [3, 0]], dtype=torch.float64)[None, None]
    k = torch.tensor([[1.0, 0], [0, 5]], dtype=torch.float64)[None, None]
    tokens = Tokens.of(torch.zeros(1, 2, 2), 1, point=Point("vit", 0), layers=6, queries=q, keys=k, values=k)
    state: dict[str, Tensor] = {}
    pruner(tokens, state)
    share = 1 / (1 + math.exp(-2 / math.sqrt(2)))  # mean query (2, 0)
    assert state["flow"].tolist()[0] == pytest.approx([share * 1, (1 - share) * 5])


def test_second_stage_repeats_grouped_heads():
    tokens = seen_at(batch([9], [4]), Point("llm", 2))
    grouped = Tokens(**{**vars(tokens), "keys": tokens.keys[:, :1], "values": tokens.values[:, :1]})
    spelled = Tokens(
        **{**vars(tokens), "keys": grouped.keys.repeat(1, 2, 1, 1), "values": grouped.values.repeat(1, 2, 1, 1)}
    )
    torch.testing.assert_close(llm_score(grouped), llm_score(spelled))


def test_encoder_target_is_a_share_of_the_budget():
    kept = walk(FlowCutOptions(vit_share=2.0, llm_layer=2), batch([25], [4]))
    assert [int(each.valid.sum()) for each in kept][-2:] == [8, 4]
