"""Families of vision-language models on images of odd sizes: budgets, and which cell of a picture shows which token."""

from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from recipes.pruning import options as o
from recipes.pruning.adapters import families, prune
from recipes.pruning.adapters.family import Call
from recipes.pruning.pruners import make
from recipes.pruning.token_pruning.checkpoint import asking
from recipes.pruning.token_pruning.measuring import Seen
from recipes.pruning.token_pruning.pictures import dim, picture
from recipes.pruning.tokens import token_budget
from tests.pruning.adapters.folders import MAKERS, SHAPES, saved

kinds = pytest.mark.parametrize("kind", list(MAKERS))
ODD = [(17, 90), (61, 23), (8, 8)]  # height and width
MIXING = ("attn.proj", "out_proj", "projection_layer")  # behind the attention of an encoder block
LIT = 0.05  # more than this a planted square changes what the encoder is given
MEAN: dict[str, Any] = {"query": "mean", "criteria": ("attn", "density")}
EXACT = [
    o.RandomOptions(),
    o.GridOptions(place="projector"),
    o.DivPruneOptions(),
    o.FastVOptions(),
    o.PyramidDropOptions(rates=()),
]


def asked(kind: str, pictures: list[Any]) -> dict[str, Tensor]:
    """A question about each picture, padded on the left."""
    processor = saved(kind).processor
    processor.tokenizer.padding_side = "left"
    text = asking(processor, families()[kind].prompt)("why")
    inputs = processor(
        images=[[each] for each in pictures], text=[text] * len(pictures), padding=True, return_tensors="pt"
    )
    return {name: value for name, value in inputs.items() if name != "labels"}


def totals_of(kind: str, inputs: dict[str, Tensor]) -> list[int]:
    totals: list[int] = (inputs["input_ids"] == saved(kind).model.config.image_token_id).sum(1).tolist()
    return totals


@kinds
@torch.no_grad()
def test_every_pruner_meets_its_share_of_what_the_language_model_would_see_at_odd_sizes(kind: str):
    draw = np.random.default_rng(3)
    pictures = [Image.fromarray(draw.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in ODD]
    inputs, model = asked(kind, pictures), saved(kind).model
    totals = totals_of(kind, inputs)
    inside = [o.FlowCutOptions(**MEAN)] if "flowcut" in families()[kind].inside or kind == "paligemma" else []
    for keep in (0.29, min(totals) - 1):
        wanted = [token_budget(total, keep) if isinstance(keep, float) else keep for total in totals]
        for options in [*EXACT, *inside]:
            with prune(model, make(options), keep, seeds=range(len(ODD))) as trace:
                model(**inputs)
            assert trace.llm_visual[:, -1].tolist() == wanted, options
            assert [len(each) for each in trace.survivors] == wanted
    with prune(model, make(o.SparseVLMOptions()), 0.8, seeds=range(len(ODD))) as trace:  # of 4 tokens it needs 3
        model(**inputs)
    most = torch.tensor([token_budget(total, 0.8) for total in totals])
    assert (trace.llm_visual.double().mean(1) <= most).all()


@cache
def local(kind: str) -> Any:
    """The model with an encoder whose attention says nothing: a token depends on its own pixels only."""
    model = deepcopy(saved(kind).model)
    silenced = 0
    for name, part in families()[kind].blocks(model.model).named_modules():
        if name.endswith(MIXING):
            for parameter in part.parameters():
                parameter.data.zero_()
            silenced += 1
    assert silenced == len(families()[kind].blocks(model.model))
    return model


def planted(size: tuple[int, int], top: float, left: float) -> Any:
    """A grey picture with a bright square at these shares of its height and width."""
    pixels = np.full((*size, 3), 90, np.uint8)
    row, column = int(top * (size[0] - 5)), int(left * (size[1] - 5))
    pixels[row : row + 5, column : column + 5] = (255, 250, 10)
    return Image.fromarray(pixels)


@kinds
@torch.no_grad()
def test_the_cell_that_shows_a_planted_square_is_that_of_the_token_that_sees_it(kind: str):
    model, family = local(kind), families()[kind]
    for size in [*SHAPES, ODD[0]]:
        grey = asked(kind, [Image.fromarray(np.full((*size, 3), 90, np.uint8))])
        [before] = family.features(model.model, grey)
        shown = family.views(model.config, grey)
        [lines] = family.newline(model.model, Call(grey)) or [torch.zeros(len(before), dtype=torch.bool)]
        for top, left in ((0.1, 0), (0.4, 1)):
            inputs = asked(kind, [planted(size, top, left)])
            [after] = family.features(model.model, inputs)
            moved = (after - before).abs().amax(1)
            views, lit = family.views(model.config, inputs), {}
            for old, view in zip(shown, views, strict=True):
                assert (old.cells == view.cells).all()
                rows, columns = view.cells.shape
                change = (view.pixels - old.pixels).abs().amax(0)
                edges = [
                    torch.arange(side) * count // side
                    for side, count in zip(change.shape, view.cells.shape, strict=True)
                ]
                place = edges[0][:, None] * columns + edges[1]
                most = torch.zeros(rows * columns).scatter_reduce(0, place.flatten(), change.flatten().float(), "amax")
                lit |= dict(zip(view.cells.flatten().tolist(), most.tolist(), strict=True))
            assert not moved[lines].any()
            seen = {token for token in lit if moved[token] > 1e-5}
            bright = {token for token, change in lit.items() if change > LIT}
            if shrunk(kind, inputs):  # a token of a shrunk pack is made of its neighbours, too
                assert max(lit, key=lambda token: float(moved[token])) in bright
            else:
                assert bright and bright <= seen and all(lit[token] > 0 for token in seen)
                for old, view in zip(shown, views, strict=True):
                    picture_shows(old, view, seen)


def shrunk(kind: str, inputs: dict[str, Tensor]) -> bool:
    """Whether LLaVA-OneVision has resized the pack of these crops: then they hold more patches than tokens."""
    if kind != "llava_onevision":
        return False
    return len(inputs["pixel_values"][0]) > 3


def picture_shows(old: Any, view: Any, tokens: set[int]) -> None:
    """Of a picture whose model keeps these tokens the pixels that were planted are as they were, others are faded."""
    image = picture(view.pixels)
    out = dim(image, view.cells, Seen(tuple(tokens), 0, 0, "", True))
    lit = ((view.pixels - old.pixels).abs().amax(0) > LIT).numpy()
    assert (out[lit] == image[lit]).all()
    if not np.isin(view.cells, list(tokens)).all():
        assert (out != image).any()
