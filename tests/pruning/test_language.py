"""Pruners inside the language model."""

import pytest
import torch
from torch import Tensor

from recipes.pruning import options as o
from recipes.pruning.accounting import avg_tokens
from recipes.pruning.pruners import make
from recipes.pruning.pruners.language import dpc_knn, published_keep, rated, raters, recycled
from recipes.pruning.tokens import Depth, Point, Tokens
from tests.pruning.toy import batch, walk


def numbered(count: int) -> Tensor:
    return torch.arange(1, count + 1, dtype=torch.float64)[None, :, None].expand(1, count, 2).contiguous()


def test_fastv_worked_example():
    row = torch.tensor([[[0.2, 0.1, 0.4, 0.3]]])
    tokens = Tokens.of(numbered(4), 2, last_row=row, point=Point("llm", 2), layers=32)
    assert make(o.FastVOptions())(tokens, {}).indices.tolist() == [[2, 3]]


def test_fastv_means_over_heads_and_layer_zero_needs_no_attention():
    row = torch.tensor([[[0.5, 0.0, 0.1], [0.0, 0.2, 0.3]]])
    tokens = Tokens.of(numbered(3), 1, last_row=row, point=Point("llm", 2), layers=32)
    assert make(o.FastVOptions())(tokens, {}).indices.tolist() == [[0]]
    assert make(o.FastVOptions(layer=0)).needs(Point("llm", 0)) == ()


def test_raters_look_more_than_the_mean():
    visual = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    text = torch.tensor([[[4.0, 0.0], [0.0, 4.0], [0.0, 1.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True, True, False]])
    assert raters(visual, text, torch.ones(1, 2, dtype=torch.bool), mask).tolist() == [[True, False, False, False]]
    even = raters(visual, torch.ones(1, 4, 2), torch.ones(1, 2, dtype=torch.bool), mask)
    assert even.tolist() == [[True, True, True, False]]


def test_rated_is_the_mean_over_heads_and_raters():
    rows = torch.tensor([[[[0.2, 0.8], [0.6, 0.4], [9, 9]], [[0.4, 0.6], [0.0, 1.0], [9, 9]]]])
    chosen = torch.tensor([[True, True, False]])
    assert rated(rows, chosen)[0].tolist() == pytest.approx([0.3, 0.7])


def test_published_lists():
    assert published_keep(576, 192) == (300, 200, 110) and published_keep(576, 64) == (66, 30, 17)
    assert published_keep(64, 64 // 3) == pytest.approx((33, 22, 12), abs=1)
    kept = published_keep(576, 192)
    assert avg_tokens([576] * 3 + [kept[0]] * 4 + [kept[1]] * 9 + [kept[2]] * 16) == 202.75


def test_sparsevlm_recycles_a_tenth_of_a_third():
    tokens = Tokens.of(torch.randn(1, 100, 4), 10)
    scores = torch.arange(100.0)
    found = recycled(tokens, scores >= 60, scores, 0.3)
    assert found.indices.tolist() == [list(range(60, 100))]
    assert found.extra.shape == (1, 13 // 10 + 1, 4)  # int(.3 x 60) + 1 = 19 taken -> 2 groups
    again = recycled(tokens, scores >= 60, scores, 0.3)
    assert torch.equal(found.extra, again.extra)
    alone = recycled(tokens, scores >= 99, scores, 0.0)
    assert torch.equal(alone.extra[0, 0], tokens.x[0, 98])  # one taken: its own mean
    assert recycled(tokens, scores >= 0, scores, 0.3).extra is None


def test_clusters_find_separate_clouds():
    draw = torch.Generator().manual_seed(0)
    clouds = torch.cat([0.01 * torch.randn(5, 2, generator=draw) + centre for centre in (0.0, 10.0, -10.0)])
    group = dpc_knn(clouds, 3, torch.rand(15, generator=draw))
    assert [len(set(group[start : start + 5].tolist())) for start in (0, 5, 10)] == [1, 1, 1]
    assert len(set(group.tolist())) == 3


def test_sparsevlm_counts_by_layer():
    kept = walk(o.SparseVLMOptions(layers=(1, 3), keep=(12, 4)), batch([25], [9]))
    # 13 dropped, int(.3 x 13) + 1 = 4 of them in one group; then 9 of 13 dropped, 3 in one group.
    assert [int(each.valid.sum()) for each in kept] == [25, 13, 5]
    plain = walk(o.SparseVLMOptions(layers=(1, 3), keep=(12, 4), recycle=0.0), batch([25], [9]))
    assert [int(each.valid.sum()) for each in plain] == [25, 12, 4]


def test_pyramiddrop_keeps_shares_of_the_original():
    kept = walk(o.PyramidDropOptions(), batch([24], [9]))
    assert [int(each.valid.sum()) for each in kept] == [12, 6, 3]


def test_pyramiddrop_reads_the_layer_about_to_run():
    assert make(o.PyramidDropOptions()).needs(Point("llm", 8)) == ("next_row",)


def test_vtw_drops_all():
    pruner = make(o.VTWOptions())
    assert pruner.points(Depth(llm=32)) == (Point("llm", 16),)
    assert make(o.VTWOptions(layer=5)).points(Depth(llm=32)) == (Point("llm", 5),)
    assert pruner(Tokens.of(numbered(4), 2, point=Point("llm", 16)), {}).count.tolist() == [0]
