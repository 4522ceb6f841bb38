"""Baselines with worked examples: pooling, VisionZip, PruMerge, TRIM, ToMe, ATS, EViT."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recipes.core.errors import UserError
from recipes.pruning import options as o
from recipes.pruning.draws import sample_seed
from recipes.pruning.pruners import make
from recipes.pruning.pruners.merging import contextual_tokens, final_scores
from recipes.pruning.pruners.vit import inverse_samples, tome_schedule
from recipes.pruning.tokens import Point, Selection, Tokens, apply, size_bias, token_budget
from tests.pruning.toy import batch, seen_at, walk

seeds = st.integers(0, 10_000)


def numbered(count: int, width: int = 2) -> Tensor:
    return torch.arange(1, count + 1, dtype=torch.float64)[None, :, None].expand(1, count, width).contiguous()


def kept(selection: Selection) -> list[int]:
    return selection.indices[0].tolist()


# --- simple ones ---


def test_grid_strides_evenly():
    assert kept(make(o.GridOptions())(Tokens.of(numbered(10), 4), {})) == [
        math.floor((i + 0.5) * 10 / 4) for i in range(4)
    ]


def test_random_is_uniform_and_seeded():
    tokens = [Tokens.of(numbered(8), 2, seeds=(sample_seed(0, index),)) for index in range(2000)]
    counts = torch.zeros(8)
    for each in tokens:
        counts[make(o.RandomOptions())(each, {}).indices[0]] += 1
    # Chi-square with 7 degrees of freedom: 24.3 is exceeded once in a thousand.
    assert float(((counts - 500) ** 2 / 500).sum()) < 24.3
    again, other = (make(o.RandomOptions())(tokens[k], {}).indices for k in (3, 3))
    assert torch.equal(again, other)


def test_pool_averages_squares():
    tokens = Tokens.of(torch.arange(16, dtype=torch.float64)[None, :, None], 4)
    selection = make(o.PoolOptions())(tokens, {})
    assert selection.x.flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert selection.sizes.tolist() == [[4] * 4] and kept(selection) == [5, 7, 13, 15]
    with pytest.raises(UserError, match="was to make 5 tokens of 16"):
        make(o.PoolOptions())(Tokens.of(numbered(16), 5), {})


def test_cls_topk():
    row = torch.tensor([[[0.5, 0.1, 0.2, 0.0, 0.2], [0.1, 0.0, 0.1, 0.6, 0.2]]])
    assert kept(make(o.ClsTopkOptions())(Tokens.of(numbered(4), 2, cls_row=row), {})) == [2, 3]


def test_token_budget_rounds_halves_to_even():
    assert [token_budget(576, 0.098), token_budget(5, 0.5), token_budget(7, 0.5)] == [56, 2, 4]


def test_new_tokens_stand_where_they_belong():
    x = numbered(3, 1)
    two = torch.ones(1, 1, dtype=torch.bool)
    chosen = Selection(
        torch.tensor([[0, 2]]),
        torch.ones(1, 2, dtype=torch.bool),
        extra=x[:, :1] * 9,
        extra_valid=two,
        front=x[:, :1] * 7,
        front_valid=two,
    )
    left = apply(Tokens.of(x, 2), chosen)
    assert left.x.flatten().tolist() == [7, 1, 3, 9] and left.positions.tolist() == [[-1, 0, 2, -1]]
    assert left.source.tolist() == [[-1, 0, 2, -1]] and chosen.count.tolist() == [4]


# --- VisionZip ---


def zipped(budget: int, keys: Tensor | None = None, **given: object) -> Selection:
    x = numbered(5)
    row = torch.tensor([[[0.0, 0.10, 0.40, 0.05, 0.30, 0.15]]])
    keys = torch.ones(1, 1, 6, 2, dtype=torch.float64) if keys is None else keys
    tokens = Tokens.of(x, budget, cls_row=row, keys=keys, cls=torch.full((1, 2), 50.0, dtype=torch.float64))
    return make(o.VisionZipOptions(**given))(tokens, {})  # type: ignore[arg-type]


def test_visionzip_worked_example():
    selection = zipped(4, contextual=1)
    assert kept(selection) == [1, 3] and selection.front.tolist() == [[[50, 50]]]
    assert selection.extra.tolist() == [[[1 + (3 + 5) / 2] * 2]]
    assert kept(zipped(3, contextual=1, keep_cls=False)) == [1, 3]


def test_visionzip_shares_of_the_published_budgets():
    for budget, contextual in ((64, 10), (128, 20), (192, 30)):
        assert round(o.VisionZipOptions().contextual_share * budget) == contextual


def test_contextual_tokens():
    v = torch.tensor([[2.0, -1.0]]).expand(7, 2)
    keys = torch.eye(3)[[0, 0, 1, 1, 2, 2, 0]]  # every target has a token of its kind
    assert torch.equal(contextual_tokens(v, keys, 3), 2 * v[:3])
    x, keys = numbered(3)[0], torch.eye(3, dtype=torch.float64)
    assert torch.equal(contextual_tokens(x, keys, 9), x)  # clamped: every token is its own target
    assert contextual_tokens(x, keys, 0).shape == (0, 2)


# --- PruMerge and TRIM ---


def test_prumerge_equals_the_double_loop():
    tokens = seen_at(batch([25], [6]), Point("encoder"))
    scores, x, keys = final_scores(tokens)[0], tokens.x[0], tokens.final_keys[0, 1:]
    selection = make(o.PruMergeOptions(count="budget", neighbors=4))(tokens, {})
    assert kept(selection) == scores.topk(5).indices.tolist()
    for place, i in enumerate(kept(selection)):
        near = sorted(
            (j for j in range(25) if j != i), key=lambda j: -float(torch.cosine_similarity(keys[i], keys[j], dim=0))
        )
        torch.testing.assert_close(selection.x[0, place], x[i] + sum(scores[j] * x[j] for j in near[:4]))
    rest = [j for j in range(25) if j not in kept(selection)]
    torch.testing.assert_close(selection.extra[0, 0], sum(scores[j] * x[j] for j in rest))


def test_final_scores_are_those_of_one_wide_head():
    tokens = seen_at(batch([9], [4]), Point("encoder"))
    logits = tokens.final_keys[0] @ tokens.final_query[0] / 8**0.5
    torch.testing.assert_close(final_scores(tokens)[0], logits.softmax(0)[1:])


def test_prumerge_keeps_the_outliers_and_plus_adds_a_grid():
    count, width = 30, 2
    query, keys = torch.tensor([[1.0, 0.0]]), torch.zeros(1, count + 1, width)
    keys[0, 1:, 0] = torch.linspace(0, 0.1, count)
    keys[0, [5, 12], 0] = torch.tensor([9.0, 8.0])
    tokens = Tokens.of(numbered(count), 10, final_query=query, final_keys=keys)
    assert kept(make(o.PruMergeOptions())(tokens, {})) == [4, 11]
    strided = list(range(0, count - 1, int(int(count / 2) / 3)))
    assert kept(make(o.PruMergePlusOptions())(tokens, {})) == [4, 11, *strided]
    crowded = Tokens.of(numbered(3), 2, final_query=query, final_keys=keys[:, [0, 5, 2, 3]])
    assert len(kept(make(o.PruMergePlusOptions())(crowded, {}))) >= 1  # a step of 0 in the published code


def test_trim_keeps_the_lowest_products_and_appends_the_mean():
    patch_text = torch.tensor([[[3.0, 0], [-2, 0], [0, 1], [-4, 4]]], dtype=torch.float64)
    text = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    tokens = Tokens.of(numbered(4), 3, feature_text=patch_text, text=text)
    low = make(o.TrimOptions(count="budget"))(tokens, {})
    assert kept(low) == [1, 3] and low.extra.tolist() == [[[(1 + 3) / 2] * 2]]
    assert kept(make(o.TrimOptions(count="budget", sign=1))(tokens, {})) == [0, 2]
    last = Tokens.of(numbered(4), 3, patch_text=-patch_text, text=text)
    assert kept(make(o.TrimOptions(count="budget", states="last"))(last, {})) == [0, 2]
    nearest = make(o.TrimOptions(count="budget", normalize=True, append_mean=False))(
        Tokens(**{**vars(tokens), "budget": torch.tensor([1])}), {}
    )
    assert kept(nearest) == [1]  # -2 / 2 is lower than -4 / 5.66


# --- ToMe ---


def tome(x: Tensor, keys: Tensor, r: int, **given: object) -> Selection:
    tokens = Tokens.of(x, 1, keys=keys[:, None], point=Point("vit_attention", 0), layers=4, **given)
    return make(o.ToMeOptions(schedule=(r, 0, 0, 0)))(tokens, {})


def test_tome_worked_example():
    keys = torch.tensor([[[1.0, 0], [0.9, 0.1], [0, 1], [0.5, 0.5]]], dtype=torch.float64)
    x = torch.tensor([[[1.0], [3], [5], [7]]], dtype=torch.float64)
    assert float(torch.cosine_similarity(keys[0, 0], keys[0, 1], dim=0)) == pytest.approx(0.9939, abs=5e-5)
    selection = tome(x, keys, 1)
    assert (
        kept(selection) == [2, 1, 3]
        and selection.x.flatten().tolist() == [5, 2, 7]
        and selection.sizes.tolist() == [[1, 2, 1]]
    )


def test_tome_without_merging_keeps_bits():
    x, keys = torch.randn(1, 5, 3), torch.randn(1, 6, 2)
    selection = tome(x, keys, 0)
    assert torch.equal(selection.x, x[:, kept(selection)]) and sorted(kept(selection)) == list(range(5))


@given(seed=seeds)
def test_tome_keeps_the_sum_of_sizes_and_equal_values(seed: int):
    tokens = batch([25], [3], seed)
    assert [float(each.sizes.sum()) for each in walk(o.ToMeOptions(r=4), tokens)] == pytest.approx([25] * 6)
    equal = Tokens(**{**vars(tokens), "x": torch.full_like(tokens.x, 1.7)})
    for each in walk(o.ToMeOptions(r=4), equal):
        torch.testing.assert_close(each.x, torch.full_like(each.x, 1.7))


def test_tome_merges_sizes_by_weight():
    keys = torch.tensor([[[1.0, 0], [1, 0]]], dtype=torch.float64)
    x = torch.tensor([[[1.0], [4.0]]], dtype=torch.float64)
    selection = tome(x, keys, 1, sizes=torch.tensor([[3.0, 1.0]]))
    assert selection.x.item() == pytest.approx((3 * 1 + 4) / 4) and selection.sizes.item() == 4


def test_tome_without_cls_keeps_the_order_of_the_image():
    """The official code leaves what does not merge in the order of its similarity, and sorts it only beside CLS."""
    keys = torch.tensor([[[1.0, 0.0], [0, 1], [0.6, 0.8], [-1, 0.2], [0.1, 0.99], [-1, 0]]])  # 4 merges; 2 before 0
    selection = tome(numbered(6), keys, 1)
    assert kept(selection) == [0, 2, 1, 3, 5]
    beside = tome(numbered(6), torch.cat([torch.zeros(1, 1, 2), keys], 1), 0)
    assert kept(beside) == [1, 3, 5, 0, 2, 4]  # CLS is the first of group A


def test_tome_schedules():
    assert tome_schedule(8, 0, 12) == [8] * 12
    falling, rising = tome_schedule(8, -1, 5), tome_schedule(8, 1, 5)
    assert falling == [16, 12, 8, 4, 0] and rising == falling[::-1]


def test_proportional_attention_of_single_tokens_is_plain():
    logits = torch.randn(1, 2, 5, 5)
    plain = size_bias(torch.ones(1, 4), special=1)
    assert torch.equal((logits + plain).softmax(3), logits.softmax(3))
    # A token of size 2 counts like two equal ones.
    twice = torch.cat([logits, logits[..., 4:]], 3).softmax(3)
    merged = (logits + size_bias(torch.tensor([[1.0, 1, 1, 2]]), special=1)).softmax(3)
    torch.testing.assert_close(merged[..., 4], twice[..., 4] + twice[..., 5])
    assert make(o.ToMeOptions()).proportional and not make(o.ToMeOptions(proportional=False)).proportional


# --- ATS and EViT ---


def test_ats_samples_the_distribution():
    scores = torch.tensor([[0.02, 0.9, 0.03, 0.05]], dtype=torch.float64)
    everyone = torch.ones(1, 4, dtype=torch.bool)
    # Sorted sums .02 .05 .10 1 become 0 .0306 .0816 1; values .0306, .5153, 1 are nearest to .0306, .0816 (or 1), 1.
    height = [(each - 0.02) / 0.98 for each in (0.02, 0.05, 0.10, 1.0)]
    values = [height[1], (height[1] + 1) / 2, 1]
    wanted = {(0, 2, 3, 1)[min(range(4), key=lambda i: abs(height[i] - value))] for value in values}
    assert set(inverse_samples(scores, torch.tensor([3]), everyone)[0].nonzero().squeeze(1).tolist()) == wanted
    even = torch.full((1, 4), 0.25, dtype=torch.float64)
    assert inverse_samples(even, torch.tensor([3]), everyone).sum() == 3
    assert inverse_samples(scores, torch.tensor([1]), everyone)[0].tolist() == [False, True, False, False]


def test_ats_count_adapts_and_has_a_floor():
    row = torch.tensor([[[0.0, 0.97, *[0.03 / 15] * 15]]], dtype=torch.float64)
    values = torch.ones(1, 1, 17, 2, dtype=torch.float64)
    tokens = Tokens.of(numbered(16), 12, cls_row=row, values=values, point=Point("vit_attention", 3), layers=4)
    assert make(o.ATSOptions(minimum=1))(tokens, {}).count < 8
    assert make(o.ATSOptions())(tokens, {}).count == 8


def test_ats_that_keeps_all_does_not_sample():
    """The official code draws as many values as there are tokens, and drops what no value is nearest to."""
    row = torch.tensor([[[0.0, 0.97, *[0.03 / 15] * 15]]], dtype=torch.float64)
    values = torch.ones(1, 1, 17, 2, dtype=torch.float64)
    tokens = Tokens.of(numbered(16), 16, cls_row=row, values=values, point=Point("vit_attention", 3), layers=4)
    assert make(o.ATSOptions(minimum=1))(tokens, {}).count == 16
    sampled = inverse_samples(row[:, 0, 1:], torch.tensor([16]), torch.ones(1, 16, dtype=torch.bool))
    assert sampled.sum() < 16


def test_evit_keeps_in_descending_order_and_fuses_the_rest():
    row = torch.tensor([[[0.1, 0.1, 0.3, 0.05, 0.45]]], dtype=torch.float64)
    tokens = Tokens.of(numbered(4), 1, cls_row=row, point=Point("vit_attention", 3), layers=12)
    selection = make(o.EViTOptions(rate=0.5))(tokens, {})
    assert kept(selection) == [3, 1]
    assert selection.extra.flatten().tolist() == pytest.approx([0.1 * 1 + 0.05 * 3] * 2)
    assert len(kept(make(o.EViTOptions(rate=0.51, fuse=False))(tokens, {}))) == 3  # rounded up
