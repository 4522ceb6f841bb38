"""Pruners inside the language model."""

import pytest
import torch
from torch import Tensor

from recipes.pruning import options as o
from recipes.pruning.accounting import avg_tokens
from recipes.pruning.pruners import make
from recipes.pruning.pruners.sparsevlm import KEPT, dpc_knn, fit_keep, mean_tokens, rater_attention, raters, recycle
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
    assert rater_attention(rows, chosen)[0].tolist() == pytest.approx([0.3, 0.7])


BEHIND = (3, 7, 16)  # of 32 layers


def test_published_lists_come_to_more_than_their_budget():
    """The authors count a layer too few, and no clusters."""
    for budget, mean, clustered in ((192, 202.75, 206.5), (64, 79.1875, 82.25)):
        first, second, third = KEPT[budget]
        assert avg_tokens([576] * 3 + [first] * 4 + [second] * 9 + [third] * 16) == mean
        assert mean_tokens(576, KEPT[budget], BEHIND, 32, 0.0) == mean
        assert mean_tokens(576, KEPT[budget], BEHIND, 32, 0.3) == clustered


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("count, layers, behind", [(576, 32, BEHIND), (576, 40, (4, 9, 20)), (64, 4, (1, 2, 3))])
def test_the_mean_over_layers_is_the_budget(count: int, layers: int, behind: tuple[int, ...], share: float):
    least = mean_tokens(count, (1, 1, 1), behind, layers, share)
    for budget in range(int(least) + 1, count):
        keep = fit_keep(count, budget, behind, layers, share)
        mean = mean_tokens(count, keep, behind, layers, share)
        assert budget - max(layers - behind[2], behind[1] - behind[0]) / layers < mean <= budget
        assert list(keep) == sorted(keep, reverse=True) and keep[-1] >= 1


def test_sparsevlm_recycles_a_tenth_of_a_third():
    tokens = Tokens.of(torch.randn(1, 100, 4), 10)
    scores = torch.arange(100.0)
    selection = recycle(tokens, scores >= 60, scores, 0.3)
    assert selection.indices.tolist() == [list(range(60, 100))]
    assert selection.extra.shape == (1, 13 // 10 + 1, 4)  # int(.3 x 60) + 1 = 19 taken -> 2 groups
    again = recycle(tokens, scores >= 60, scores, 0.3)
    assert torch.equal(selection.extra, again.extra)
    alone = recycle(tokens, scores >= 99, scores, 0.0)
    assert torch.equal(alone.extra[0, 0], tokens.x[0, 98])  # one taken: its own mean
    assert recycle(tokens, scores >= 0, scores, 0.3).extra is None


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


@pytest.mark.parametrize("recycle", [0.0, 0.3])
@pytest.mark.parametrize("budget", [8, 11, 16, 24])
def test_sparsevlm_meets_its_budget(recycle: float, budget: int):
    kept = walk(o.SparseVLMOptions(recycle=recycle), batch([25], [budget]))  # layers 1, 2 and 3 of 6
    counts = [int(each.valid.sum()) for each in kept]
    assert budget - 0.5 < avg_tokens([25, counts[1], counts[2], *[counts[3]] * 3]) <= budget


def test_pyramiddrop_keeps_shares_of_the_original():
    kept = walk(o.PyramidDropOptions(), batch([24], [9]))
    assert [int(each.valid.sum()) for each in kept] == [12, 6, 3]


def test_pyramiddrop_reads_the_layer_about_to_run():
    assert make(o.PyramidDropOptions()).needs(Point("llm", 8)) == ("next_row",)


def test_vtw_drops_all():
    pruner = make(o.VTWOptions())
    assert pruner.points(Depth(llm=32)) == (Point("llm", 15),) and pruner.points(Depth(llm=4)) == (Point("llm", 2),)
    assert make(o.VTWOptions(layer=5)).points(Depth(llm=32)) == (Point("llm", 5),)
    assert pruner(Tokens.of(numbered(4), 2, point=Point("llm", 16)), {}).count.tolist() == [0]
