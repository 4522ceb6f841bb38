"""Recoverable compression: the outlier test beside scikit-learn's, and what text and merging do."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import LocalOutlierFactor
from torch import Tensor

from recipes.pruning.options import RecoverableOptions
from recipes.pruning.pruners import make
from recipes.pruning.pruners.merging import absorb, final_scores, iqr_outliers, nearest_tokens
from recipes.pruning.pruners.recoverable import local_outlier_factor, local_outliers
from recipes.pruning.tokens import Point, Selection, Tokens
from tests.pruning.toy import batch, seen_at

seeds = st.integers(0, 10_000)


def their_factor(values: Tensor, k: int) -> Tensor:
    fitted = LocalOutlierFactor(n_neighbors=k).fit(values.numpy()[:, None])
    return torch.from_numpy(-fitted.negative_outlier_factor_)


@given(seed=seeds, count=st.integers(3, 200), k=st.integers(1, 30), scale=st.sampled_from([1e-3, 1.0, 50.0]))
def test_outlier_factor_equals_scikit_learns(seed: int, count: int, k: int, scale: float):
    k = min(k, count - 1)
    values = scale * torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).exp()
    torch.testing.assert_close(local_outlier_factor(values, k), their_factor(values, k), atol=1e-6, rtol=1e-6)


@given(seed=seeds, scale=st.sampled_from([0.5, 2.0, 1024.0]), shift=st.sampled_from([-3.0, 8.0]))
def test_outlier_factor_ignores_scale_and_shift(seed: int, scale: float, shift: float):
    values = torch.randn(60, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    moved = local_outlier_factor(scale * values + shift, 10)
    torch.testing.assert_close(moved, local_outlier_factor(values, 10), atol=1e-5, rtol=1e-5)


def test_worked_outliers():
    values = torch.cat([torch.linspace(0.001, 0.002, 27, dtype=torch.float64), torch.tensor([0.05, 0.09, 0.0])])
    factor = local_outlier_factor(values, 10)
    assert local_outliers(values, 10).nonzero().squeeze(1).tolist() == [27, 28, 29]
    assert factor[27:].tolist() == pytest.approx([191.9, 309.7, 4.9], abs=0.05)


def test_outlier_counts_of_log_normal_scores():
    drawn = np.random.default_rng(0).lognormal(size=576)
    values = torch.from_numpy(drawn / drawn.sum())
    assert [int(local_outliers(values, k).sum()) for k in (10, 20)] == [18, 9]
    assert int(iqr_outliers(values).sum()) == 36


def test_equal_values_have_no_outliers():
    assert not local_outliers(torch.full((40,), 0.3), 20).any()
    assert not iqr_outliers(torch.full((40,), 0.3)).any()


def example(seed: int = 0, count: int = 49, budget: int = 12) -> Tokens:
    return seen_at(batch([count], [budget], seed), Point("encoder"))


def run(tokens: Tokens, **given: Any) -> Selection:
    defaults = {"neighbors": 5, "merge_neighbors": 4}
    return make(RecoverableOptions(**(defaults | given)))(tokens, {})


def kept(selection: Selection) -> list[int]:
    return selection.indices[0].tolist()


@given(seed=seeds)
def test_counts_and_parts(seed: int):
    tokens = example(seed)
    scores = final_scores(tokens)[0]
    visual = kept(run(tokens, text=False, merge=False))
    count = int(local_outliers(scores, 5).sum())
    assert visual == scores.topk(max(count, 1)).indices.sort().values.tolist()
    both, merged = run(tokens, merge=False), run(tokens)
    assert (set(visual) <= set(kept(both))) or not count
    assert kept(both) == sorted(kept(both)) == kept(merged)
    rest = 49 - len(kept(merged))
    left = torch.ones(49, dtype=torch.bool).index_fill(0, merged.indices[0], False)
    centres = int(local_outliers(scores[left], 4).sum())
    assert left.sum() == rest and merged.extra.shape[1] == (centres + 1 if centres else 0)


@given(seed=seeds)
def test_the_question_never_changes_the_visual_choice(seed: int):
    tokens = example(seed)
    other = Tokens(**{**vars(tokens), "text": -tokens.text.flip(1)})
    fixed = {"counts": (4, 3, 1)}
    visual = set(kept(run(tokens, counts=(4, 0, 0))))
    first, second = set(kept(run(tokens, **fixed))), set(kept(run(other, **fixed)))
    assert visual <= first and visual <= second and len(first) == len(second) == 7


def test_constant_text_scores_recover_nothing():
    tokens = example()
    even = Tokens(**{**vars(tokens), "patch_text_raw": torch.ones_like(tokens.x)})
    assert kept(run(even)) == kept(run(tokens, text=False))


@given(seed=seeds)
def test_merging_equals_the_double_loop(seed: int):
    tokens = example(seed)
    scores, x, keys = final_scores(tokens)[0], tokens.x[0], tokens.final_keys[0, 1:]
    text = torch.cosine_similarity(tokens.patch_text_raw[0], tokens.text) / tokens.text.shape[1] ** 0.5
    selection = run(tokens, counts=(4, 3, 2), merge_members=5)
    rest = [i for i in range(49) if i not in kept(selection)]
    centres = sorted(rest, key=lambda i: -float(scores[i]))[:2]
    for place, i in enumerate(centres):
        near = sorted(
            (j for j in rest if j != i),
            key=lambda j: -float(torch.cosine_similarity(keys[i], keys[j], dim=0) + 50 * text[j]),
        )
        expected = x[i] + sum(scores[j] * x[j] for j in near[:5])
        torch.testing.assert_close(selection.extra[0, place], expected)
    torch.testing.assert_close(selection.extra[0, 2], sum(scores[j] * x[j] for j in rest if j not in centres))


def test_members_of_no_weight_change_nothing():
    x, keys = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    centre = torch.tensor([2])
    same = absorb(x, torch.zeros(6, dtype=torch.float64), centre, nearest_tokens(keys, centre, 3))
    assert torch.equal(same, x[centre])


def test_text_picks_its_patches_and_the_sign_turns_it():
    tokens = example()
    similarity = torch.cosine_similarity(tokens.patch_text_raw[0], tokens.text)
    assert kept(run(tokens, counts=(0, 3, 0))) == similarity.topk(3).indices.sort().values.tolist()
    assert kept(run(tokens, counts=(0, 3, 0), text_sign=-1)) == (-similarity).topk(3).indices.sort().values.tolist()
    normed = torch.cosine_similarity(tokens.patch_text[0], tokens.text)
    assert kept(run(tokens, counts=(0, 3, 0), patch_proj="post_ln")) == normed.topk(3).indices.sort().values.tolist()


def test_union_chooses_independently():
    tokens = example()
    scores = final_scores(tokens)[0]
    similarity = torch.cosine_similarity(tokens.patch_text_raw[0], tokens.text)
    wanted = set(scores.topk(4).indices.tolist()) | set(similarity.topk(4).indices.tolist())
    assert kept(run(tokens, counts=(4, 4, 0), text_mode="union")) == sorted(wanted)


def test_something_is_kept_where_nothing_stands_out():
    tokens = example()
    even = Tokens(**{**vars(tokens), "final_keys": torch.ones_like(tokens.final_keys)})
    assert kept(run(even, text=False)) == [0] and kept(run(even, text=False, min_keep=3)) == [0, 1, 2]


def test_order_by_score():
    tokens = example()
    scores = final_scores(tokens)[0]
    order = scores[kept(run(tokens, counts=(6, 0, 0), order="score"))]
    assert order.tolist() == sorted(order.tolist(), reverse=True)


def test_a_fixed_budget_is_shared_out():
    selection = run(example(budget=12), threshold="topk")
    assert len(kept(selection)) == 10 and selection.extra.shape[1] == 2
    assert int(selection.count) == 12
