"""What holds for every pruner: samples do not see each other, padding is never kept, a large budget changes nothing."""

from dataclasses import fields
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.core.config.schema import build
from recipes.core.errors import UserError
from recipes.pruning import options as o
from recipes.pruning.pruners import PRUNERS, make
from recipes.pruning.tokens import Depth, Point, Tokens, apply
from tests.pruning.toy import DEPTH, batch, rows_of, seen_at, walk

DEFAULTS = [kind() for kind in get_args(o.PrunerOptions)]
VARIANTS = [
    *DEFAULTS,
    *(o.DivPruneOptions(seed_rule=rule) for rule in ("farthest_pair", "max_norm", "random")),
    *(o.DivPruneOptions(metric=metric) for metric in ("l2", "l1")),
    o.DivPruneOptions(sort=False, feature="encoder"),
    o.DivPruneOptions(importance_alpha=0.5, layer=2),
    o.DivPruneOptions(protect_newline=True),
    o.DivPruneOptions(protect_newline=True, sort=False),
    o.FlowCutOptions(criteria=("attn",), cumulative=0.0, ratio="fixed", interval=1),
    o.FlowCutOptions(criteria=("semantic", "density"), ratio="one_shot", llm_layer=2, vit_share=1.5),
    o.FlowCutOptions(criteria=("attn", "density"), query="mean", interval=4),
    *(o.FlowCutOptions(combine=how) for how in ("product", "sum")),
    *(o.ZeroTPruneOptions(order=order) for order in ("IS", "I", "S")),
    *(o.ZeroTPruneOptions(partition=p) for p in ("seq_i", "alternate", "random", "none")),
    *(o.ZeroTPruneOptions(importance=i) for i in ("cls_row", "column_mean", "random")),
    *(o.ZeroTPruneOptions(sim_feature=f, metric=m) for f, m in (("query", "dot"), ("value", "l2"), ("x", "l1"))),
    o.ZeroTPruneOptions(aggregate="mean", vhf=False, cls_init="uniform", eps=1e-3, tau=0.5),
    o.ZeroTPruneOptions(aggregate="max", sstage=False, layers=(1, 3), rates=(0.7, 0.7)),
    *(o.RecoverableOptions(threshold=t, merge_neighbors=2) for t in ("iqr", "topk")),
    o.RecoverableOptions(neighbors=3, merge_neighbors=2, text_mode="union", text_sign=-1, patch_proj="post_ln"),
    o.RecoverableOptions(neighbors=3, merge_neighbors=2, lof_exclude_selected=True, order="score"),
    o.RecoverableOptions(counts=(2, 1, 1), merge_members=3),
    o.RecoverableOptions(text=False, merge=False, threshold="topk"),
    o.ToMeOptions(r=2, inflect=-1.0, proportional=False),
    o.ToMeOptions(schedule=(2, 0, 1, 0, 0, 1)),
    o.ATSOptions(minimum=2, layers=(1, 4)),
    o.EViTOptions(rate=0.7),
    o.EViTOptions(fuse=False),
    o.VisionZipOptions(keep_cls=False, contextual=1),
    o.PruMergeOptions(count="budget", neighbors=3),
    o.PruMergePlusOptions(count="budget"),
    o.TrimOptions(count="budget", normalize=True, sign=1),
    o.TrimOptions(count="budget", append_mean=False),
    o.FastVOptions(layer=0),
    o.SparseVLMOptions(layers=(1, 3), keep=(6, 3)),
    o.SparseVLMOptions(recycle=0.0),
    o.PyramidDropOptions(rates=()),
]
# Pruners that leave exactly the budget, new tokens included.
EXACT = [
    *(
        each
        for each in VARIANTS
        if each.name in ("random", "grid", "pool", "cls_topk", "divprune", "visionzip", "fastv")
    ),
    *(each for each in VARIANTS if each.name == "flowcut" and each.vit_share == 1),
    *(each for each in VARIANTS if each.name == "zero_tprune" and not each.rates),
    *(each for each in VARIANTS if each.name in ("prumerge", "prumerge_plus", "trim") and each.count == "budget"),
    *(each for each in VARIANTS if each.name == "recoverable" and each.threshold == "topk"),
    *(each for each in VARIANTS if each.name == "evit" and each.rate is None),
    o.ToMeOptions(),
    o.PyramidDropOptions(rates=()),
]
SHUFFLING = ("tome", "evit", "prumerge", "prumerge_plus")  # whose tokens do not stay in the order of the image
counts = st.lists(st.sampled_from([4, 9, 16, 25]), min_size=1, max_size=3)
budgets = st.sampled_from([1, 4, 9])


def label(options: Any) -> str:
    changed = [f"{f.name}={getattr(options, f.name)}" for f in fields(options) if getattr(options, f.name) != f.default]
    return " ".join([options.name, *changed])


every = pytest.mark.parametrize("options", VARIANTS, ids=label)


def test_all_pruners_have_options_that_a_config_can_build():
    assert {each.name for each in DEFAULTS} == set(PRUNERS)
    for each in VARIANTS:
        made, problems = build(type(each), dict(vars(each)))
        assert made == each and not problems


@every
@settings(max_examples=8)
@given(counts=counts, budget=budgets, seed=st.integers(0, 500))
def test_a_sample_does_not_depend_on_the_others(options: Any, counts: list[int], budget: int, seed: int):
    tokens = batch(counts, [budget] * len(counts), seed)
    together = walk(options, tokens)
    for row in range(len(counts)):
        for both, alone in zip(together, walk(options, tokens.sample(row)), strict=True):
            mask = both.valid[row]
            assert mask.sum() == alone.valid.sum()
            assert both.positions[row, mask].tolist() == alone.positions[0].tolist()
            torch.testing.assert_close(both.x[row, mask], alone.x[0])
            torch.testing.assert_close(both.sizes[row, mask], alone.sizes[0])


@every
def test_the_order_of_a_batch_does_not_matter(options: Any):
    tokens = batch([16, 9, 25], [4, 4, 9])
    for first, second in zip(walk(options, tokens), walk(options, rows_of(tokens, [2, 0, 1])), strict=True):
        for row, moved in ((2, 0), (0, 1), (1, 2)):
            left, right = first.positions[row, first.valid[row]], second.positions[moved, second.valid[moved]]
            assert left.tolist() == right.tolist()


@every
@settings(max_examples=5)
@given(counts=counts, seed=st.integers(0, 500))
def test_padding_is_never_kept_and_no_token_twice(options: Any, counts: list[int], seed: int):
    tokens = batch(counts, [1] * len(counts), seed)
    for kept in walk(options, tokens):
        for row, count in enumerate(counts):
            mask = kept.valid[row]
            old = kept.positions[row, mask]
            old = old[old >= 0].tolist()
            assert len(set(old)) == len(old) and all(0 <= each < count for each in old)
            assert kept.x[row, mask].isfinite().all()
            if (
                options.name not in SHUFFLING
                and getattr(options, "sort", True)
                and getattr(options, "order", "") != "score"
            ):
                assert old == sorted(old)


@every
def test_a_budget_of_all_tokens_changes_no_bit(options: Any):
    tokens = batch([16, 9], [16, 30])
    before = tokens
    for kept in walk(options, tokens):
        assert torch.equal(kept.valid, before.valid)
        assert torch.equal(kept.positions.masked_fill(~kept.valid, 0), before.positions.masked_fill(~kept.valid, 0))
        assert torch.equal(kept.x[kept.valid], before.x[before.valid])
        assert torch.equal(kept.sizes, before.sizes)


@every
def test_a_sample_that_keeps_all_stands_beside_one_that_does_not(options: Any):
    tokens = batch([16, 9, 16], [16, 4, 1])
    for kept in walk(options, tokens):
        assert kept.positions[0, kept.valid[0]].tolist() == list(range(16))
        assert torch.equal(kept.x[0, :16], tokens.x[0])


@pytest.mark.parametrize("options", EXACT, ids=label)
@settings(max_examples=8)
@given(counts=counts, budget=budgets, seed=st.integers(0, 500))
def test_the_budget_is_met_exactly(options: Any, counts: list[int], budget: int, seed: int):
    kept = walk(options, batch(counts, [budget] * len(counts), seed))[-1]
    assert kept.valid.sum(1).tolist() == [min(budget, count) for count in counts]


@every
def test_a_missing_field_is_named(options: Any):
    pruner, tokens = make(options), batch([16], [4])
    for point in pruner.points(DEPTH):
        for name in pruner.needs(point):
            lacking = Tokens(**{**vars(seen_at(tokens, point)), name: None})
            with pytest.raises(ValueError, match=f"reads {name}, which"):
                pruner(lacking, {})


@every
def test_half_precision_goes_in_and_comes_out(options: Any):
    pruner, tokens = make(options), batch([16], [9])
    point = pruner.points(DEPTH)[0]
    seen = {
        k: v.bfloat16() if isinstance(v, torch.Tensor) and v.is_floating_point() else v
        for k, v in vars(seen_at(tokens, point)).items()
    }
    kept = apply(Tokens(**seen), pruner(Tokens(**seen), {}))
    assert kept.x.dtype is torch.bfloat16 and kept.x.isfinite().all()


@pytest.mark.parametrize(
    "options, depth, message",
    [
        (o.FastVOptions(layer=9), Depth(llm=6), "fastv acts at layer 9, but the model has 6"),
        (o.SparseVLMOptions(), Depth(llm=2), "sparsevlm prunes at three layers, but the model has 2"),
        (o.PyramidDropOptions(), Depth(llm=2), "pyramiddrop has 3 rates for 1 layers of a model with 2"),
        (o.FlowCutOptions(), Depth(vit=2), "third last block, but the encoder has 2"),
        (o.ToMeOptions(schedule=(1, 1)), Depth(vit=6), "tome has a schedule of 2 blocks, but the model has 6"),
    ],
    ids=lambda each: getattr(each, "name", None),
)
def test_a_model_that_is_too_shallow_is_told(options: Any, depth: Depth, message: str):
    with pytest.raises(UserError, match=message):
        make(options).points(depth)


@pytest.mark.parametrize(
    "options, key, message",
    [
        (o.FlowCutOptions(criteria=("density",)), "criteria", "needs attn or semantic"),
        (o.FlowCutOptions(query="mean"), "criteria", "semantic compares with CLS"),
        (o.DivPruneOptions(feature="encoder", layer=1), "feature", "encoder means layer=0"),
        (o.ZeroTPruneOptions(rates=(0.5,)), "rates", "has 1 entries for 3 layers"),
        (o.ZeroTPruneOptions(iterations=(4,)), "iterations", "needs three numbers"),
        (o.RecoverableOptions(counts=(1,)), "counts", "needs three numbers or none"),
        (o.ToMeOptions(inflect=1.0), "inflect", "needs r"),
        (o.ToMeOptions(r=1, schedule=(1,)), "schedule", "replaces r"),
        (o.SparseVLMOptions(keep=(1,)), "keep", "has 1 entries for 3 layers"),
        (o.SparseVLMOptions(layers=(1,)), "keep", "give your own"),
        (o.PyramidDropOptions(rates=(0.5,)), "rates", "has 1 entries for 3 layers"),
    ],
    ids=lambda each: getattr(each, "name", None),
)
def test_options_that_contradict_each_other_are_told(options: Any, key: str, message: str):
    problems = options.check()
    assert [each[0] for each in problems] == [key] and message in problems[0][1]


def test_published_layers():
    deep = Depth(vit=12, llm=32)
    assert [p.layer for p in make(o.ZeroTPruneOptions()).points(deep)] == [2, 5, 8]
    assert [p.layer for p in make(o.EViTOptions()).points(deep)] == [3, 6, 9]
    assert [p.layer for p in make(o.ATSOptions()).points(deep)] == list(range(3, 12))
    assert [p.layer for p in make(o.SparseVLMOptions()).points(deep)] == [0, 3, 7, 16]
    assert [p.layer for p in make(o.PyramidDropOptions()).points(deep)] == [8, 16, 24]
    assert make(o.FlowCutOptions()).points(Depth(vit=24))[-1] == Point("vit", 21)
    assert make(o.DivPruneOptions(layer=2)).points(deep) == (Point("llm", 2),)
    assert make(o.DivPruneOptions(feature="encoder")).points(deep) == (Point("encoder"),)
    assert make(o.FastVOptions()).positions == "original" and make(o.SparseVLMOptions()).positions == "compact"
