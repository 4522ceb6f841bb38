"""What pruners refuse: budgets that they cannot meet, and numbers that are none."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from recipes.core.errors import UserError
from recipes.pruning import options as o
from recipes.pruning.adapters import check, prune
from recipes.pruning.guards import point_words
from recipes.pruning.pruners import make
from recipes.pruning.tokens import Point, Tokens
from tests.pruning.adapters.models import batch as images_and_prompts
from tests.pruning.adapters.models import bert, clip, guide, llava, llava_next, vit
from tests.pruning.test_every_pruner import DEFAULTS, VARIANTS, label
from tests.pruning.toy import DEPTH, batch, seen_at, walk


@pytest.mark.parametrize("layers", [1, 2, 4, 5, 24])
@pytest.mark.parametrize("count", [1, 2, 3, 63, 64, 576])
def test_tome_halves_at_most_in_each_block(count: int, layers: int):
    least = count
    for _ in range(layers):
        least = -(-least // 2)
    assert make(o.ToMeOptions()).smallest_budget(count, layers) == least


@pytest.mark.parametrize("count", [7, 9, 25, 30])
def test_tome_meets_its_smallest_budget(count: int):
    pruner = make(o.ToMeOptions())
    least = pruner.smallest_budget(count, 6)
    assert walk(o.ToMeOptions(), batch([count], [least]))[-1].valid.sum() == least


@pytest.mark.parametrize(
    "options, keep, message",
    [
        (o.ToMeOptions(), 1, r"keep: tome leaves at least 2 of 64 tokens: each of 5 blocks .*, but 1 were to be kept"),
        (o.ToMeOptions(), 0.02, r"(?s)2 of 64 .* type keep=\[0.0313\] or more, or keep_tokens=\[2\]"),
        (o.SparseVLMOptions(), 0.125, r"(?s)at least 13 of 64 tokens, mean over 6 layers.*keep=\[0.2032\] or more"),
    ],
)
def test_a_budget_that_cannot_be_met_is_refused_before_anything_runs(options: Any, keep: float | int, message: str):
    model = llava(image_size=32)
    with pytest.raises(UserError, match=message):
        check(model, make(options), keep)
    check(model, make(options), 1.0)


def test_texts_are_checked_by_their_lengths():
    check(bert(), make(o.ToMeOptions()), 0.1, counts=[20, 64])
    with pytest.raises(UserError, match="tome leaves at least 2 of 126 tokens: each of 6 blocks"):
        check(bert(), make(o.ToMeOptions()), 0.01, counts=[20, 126])


def test_numbers_of_their_own_meet_no_budget():
    for options in (o.ToMeOptions(r=1), o.ToMeOptions(schedule=(1,) * 6), o.SparseVLMOptions(keep=(1, 1, 1))):
        assert make(options).smallest_budget(64, 6) == 0


@pytest.mark.parametrize("options", VARIANTS, ids=label)
def test_no_pruner_ranks_what_is_no_number(options: Any):
    """Padding may hold anything: `batch` fills it with NaN."""
    pruner, tokens = make(options), batch([9, 16], [9, 9])
    point = pruner.points(DEPTH)[0]
    seen = replace(seen_at(tokens, point), names=("one", "two"))
    for name in ("x", *pruner.needs(point)):
        for value, word in ((torch.nan, "NaN"), (torch.inf, "infinite numbers"), (-torch.inf, "infinite numbers")):
            broken = getattr(seen, name).clone()
            if broken.is_floating_point():
                broken[(1,) + (0,) * (broken.ndim - 1)] = value
                with pytest.raises(UserError, match=f"two: {word} .*{point_words(point)}: nothing can be ranked"):
                    pruner(replace(seen, **{name: broken}), {})
    pruner(seen, {})


def test_a_sample_without_a_name_is_numbered():
    x = torch.ones(3, 4, 2)
    x[2, 3, 1] = torch.nan
    with pytest.raises(UserError, match="sample 2: NaN among its tokens behind the encoder"):
        make(o.GridOptions())(Tokens.of(x, 2, point=Point("encoder")), {})


@pytest.mark.parametrize("options", DEFAULTS, ids=label)
@torch.no_grad()
def test_a_broken_image_is_named_whatever_prunes(options: Any):
    inputs = images_and_prompts()
    inputs["pixel_values"][1, 0, 3, 3] = torch.nan
    model, names = llava(), ("a", "b", "c")
    with (
        prune(model, make(options), 9, seeds=range(3), guide=guide(3), names=names),
        pytest.raises(UserError, match="b: NaN among its tokens"),
    ):
        model(**inputs)


@pytest.mark.parametrize("make_model", [clip, vit])
@torch.no_grad()
def test_encoders_alone_name_it_too(make_model: Any):
    pixels = images_and_prompts()["pixel_values"]
    pixels[2] = torch.inf
    model = make_model()
    for options in (o.FullOptions(), o.EViTOptions()):
        with prune(model, make(options), 4, seeds=range(3)), pytest.raises(UserError, match="sample 2: NaN"):
            model(pixels)


@torch.no_grad()
def test_weights_of_the_language_model_may_be_broken():
    model = llava()
    model.model.language_model.layers[5].mlp.down_proj.weight[0, 0] = torch.nan
    with (
        prune(model, make(o.DivPruneOptions()), 4, seeds=range(3)),
        pytest.raises(UserError, match="sample 0: NaN among its tokens behind the language model"),
    ):
        model(**images_and_prompts())


@torch.no_grad()
def test_a_broken_crop_is_named():
    from tests.pruning.adapters.test_llava_next import batch as crops

    inputs, model = crops(), llava_next()
    inputs["pixel_values"][1, 2] = torch.nan
    with (
        prune(model, make(o.ClsTopkOptions()), 0.5, seeds=range(3), names=("a", "b", "c")),
        pytest.raises(UserError, match="b, crop 2: NaN"),
    ):
        model(**inputs)
