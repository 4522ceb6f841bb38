"""LLaVA-NeXT: several crops an image, packed with newline tokens, as one span."""

from typing import Any

import pytest
import torch
from torch import Tensor

from recipes.core.errors import UserError
from recipes.pruning import options as o
from recipes.pruning.adapters import prune
from recipes.pruning.adapters.crops import shares_of
from recipes.pruning.pruners import make
from recipes.pruning.tokens import Point
from tests.pruning.adapters.models import Chosen, guide, images, llava_next, one, prompts

# Rows of 8 and of 4 patches, and one whose lower and upper rows are cut away as padding.
SIZES = torch.tensor([[16, 32], [32, 16], [8, 32]])
TOTALS = [16 + 4 * 9, 16 + 8 * 5, 16 + 2 * 9]


@pytest.fixture(scope="module")
def model() -> Any:
    return llava_next()


def batch() -> dict[str, Tensor]:
    pixels = images(9).unflatten(0, (3, 3))
    return {**prompts([(2, 5), (1, 3), (4, 4)], TOTALS), "pixel_values": pixels, "image_sizes": SIZES}


def newlines(row: int) -> list[int]:
    width, rows = [(8, 4), (4, 8), (8, 2)][row]
    return [16 + line * (width + 1) + width for line in range(rows)]


@torch.no_grad()
def test_keeping_all_changes_no_bit(model: Any):
    inputs = batch()
    before = model(**inputs).logits
    for options in (o.DivPruneOptions(), o.FlowCutOptions(), o.ToMeOptions(), o.FastVOptions(), o.VTWOptions()):
        with prune(model, make(options), 1.0, seeds=range(3)) as trace:
            assert torch.equal(model(**inputs).logits, before)
        assert trace.llm_visual[:, 0].tolist() == TOTALS and trace.projected.tolist() == [48, 48, 48]


def reference(model: Any, inputs: dict[str, Tensor], kept: list[int]) -> Tensor:
    """Logits of one prompt with only some tokens of the model's own pack."""
    core = model.model
    packed = core.get_image_features(inputs["pixel_values"], inputs["image_sizes"]).pooler_output[0][kept]
    ids = inputs["input_ids"]
    image = ids[0] == model.config.image_token_id
    words = model.get_input_embeddings()(ids)[0]
    start = int(image.long().argmax())
    embeds = torch.cat([words[:start], packed, words[start + int(image.sum()) :]])[None]
    return model.lm_head(core.language_model(inputs_embeds=embeds).last_hidden_state)


@pytest.mark.parametrize("place", ["projector", "llm"])
@torch.no_grad()
def test_the_pack_is_one_span(model: Any, place: str):
    inputs, kept = batch(), [[0, 17, 24, 50], [55, 3], [10, 11, 12]]
    with prune(model, Chosen({Point(place): kept}), 0.2, seeds=range(3)) as trace:
        logits = model(**inputs).logits
    for row in range(3):
        expected = reference(model, one(inputs, row), sorted(kept[row]))
        torch.testing.assert_close(logits[row, -expected.shape[1] :], expected[0], atol=1e-5, rtol=1e-4)
        assert trace.survivors[row].tolist() == sorted(kept[row])


@torch.no_grad()
def test_crops_are_pruned_before_their_pack(model: Any):
    """Two patches of each crop are left; padding is cut away as ever, newline tokens fill what the budget leaves."""
    inputs, crop = batch(), [[1, 6]] * 3 + [[5, 14]] * 3 + [[0, 6]] * 3
    with prune(model, Chosen({Point("encoder"): crop}), 0.2, seeds=range(3)) as trace:
        logits = model(**inputs).logits
    # Crops side by side: patch 4 r + c of crop k stands in row r, column c + 4 k; one above the other: in row r + 4 k.
    wide = [16 + r * 9 + c + 4 * k for r, c in ((0, 1), (1, 2)) for k in (0, 1)]
    tall = [16 + (r + 4 * k) * 5 + c for r, c in ((1, 1), (3, 2)) for k in (0, 1)]
    cut = [16 + (1 - 1) * 9 + 2 + 4 * k for k in (0, 1)]  # row 0 of the crops is padding, row 1 the first left
    for row, (base, places) in enumerate(zip(([1, 6], [5, 14], [0, 6]), (wide, tall, cut), strict=True)):
        room = [10, 11, 7][row] - len(base) - len(places)
        kept = sorted([*base, *places, *newlines(row)[:room]])
        assert trace.entering[row].tolist() == kept
        expected = reference(model, one(inputs, row), kept)
        torch.testing.assert_close(logits[row, -expected.shape[1] :], expected[0], atol=1e-5, rtol=1e-4)
    assert trace.encoder_tokens[:, 0].tolist() == [17] * 9 and trace.crops == [3, 3, 3]
    assert trace.projected.tolist() == [6, 6, 4]  # patch 0 of the third image's tiles is padding


@pytest.mark.parametrize(
    "options",
    [
        o.RandomOptions(),
        o.FlowCutOptions(llm_layer=3, vit_share=1.5),
        o.ToMeOptions(),
        o.ClsTopkOptions(),
        o.DivPruneOptions(protect_newline=True),
        o.SparseVLMOptions(),
    ],
    ids=lambda each: each.name,
)
@torch.no_grad()
def test_samples_do_not_see_each_other(model: Any, options: Any):
    inputs = batch()
    with prune(model, make(options), 0.3, seeds=(4, 5, 6)) as trace:
        logits = model(**inputs).logits
        together = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    for row in range(3):
        with prune(model, make(options), 0.3, seeds=(4 + row,)) as single:
            alone = model(**one(inputs, row)).logits
            answer = model.generate(**one(inputs, row), max_new_tokens=3, do_sample=False)
        torch.testing.assert_close(logits[row, -2:], alone[0, -2:], atol=1e-4, rtol=1e-4)
        assert single.survivors[0].tolist() == trace.survivors[row].tolist()
        assert answer[0, -3:].tolist() == together[row, -3:].tolist()


WHEREVER = [
    o.RandomOptions(),
    o.GridOptions(),
    o.ClsTopkOptions(),
    o.DivPruneOptions(feature="encoder"),
    o.FlowCutOptions(),
    o.ZeroTPruneOptions(),
    o.EViTOptions(fuse=False),
    o.ToMeOptions(),
    o.RandomOptions(place="projector"),
    o.DivPruneOptions(),
    o.FastVOptions(),
    o.PyramidDropOptions(rates=()),
    o.FlowCutOptions(llm_layer=3, vit_share=2.5),
]


@pytest.mark.parametrize("options", WHEREVER, ids=lambda each: each.name)
@torch.no_grad()
def test_budgets_are_equal_wherever_is_pruned(model: Any, options: Any):
    """Crops share one budget; newline tokens count, and padding of the image never does."""
    inputs = batch()
    for keep in (0.125, 0.3, 0.9, 0.97, 7, 12):
        with prune(model, make(options), keep, seeds=range(3)) as trace:
            model(**inputs)
        wanted = [keep if isinstance(keep, int) else round(keep * total) for total in TOTALS]
        assert trace.llm_visual[:, -1].tolist() == wanted
        inside = options.name in ("fastv", "pyramiddrop") or getattr(options, "llm_layer", 0)
        assert inside or trace.llm_visual[:, 0].tolist() == wanted


def test_shares_add_up():
    assert shares_of(10, [16, 16, 16]) == [4, 3, 3] and shares_of(60, [16, 16]) == [16, 16]
    assert shares_of(3, [100, 1, 1]) == [1, 1, 1] and shares_of(4, [100, 1, 0]) == [3, 1, 0]
    for total in range(3, 40):
        shares = shares_of(total, [16, 8, 20])
        assert sum(shares) == total and min(shares) >= 1 and shares[0] <= 16 and shares[1] <= 8


@torch.no_grad()
def test_newline_tokens_are_known_and_counted(model: Any):
    inputs = batch()
    with prune(model, make(o.DivPruneOptions(protect_newline=True)), 12, seeds=range(3)) as trace:
        model(**inputs)
    assert trace.llm_visual.eq(12).all()
    for row in range(3):
        assert set(newlines(row)) <= set(trace.survivors[row].tolist())


@torch.no_grad()
def test_what_cannot_work_is_refused(model: Any):
    inputs = batch()
    with (
        pytest.raises(UserError, match="have no place in the grid(.|\n)*one that only drops: random, grid"),
        prune(model, make(o.TrimOptions()), 0.25, seeds=range(3), guide=guide(3)),
    ):
        model(**inputs)
    with (
        pytest.raises(UserError, match="keep: 2 tokens cannot come from 3 crops of sample 0"),
        prune(model, make(o.ClsTopkOptions()), 2, seeds=range(3)),
    ):
        model(**inputs)
    with (
        pytest.raises(UserError, match="keep: a sample has 34 tokens, of which 40 were to be kept"),
        prune(model, make(o.DivPruneOptions()), 40, seeds=range(3)),
    ):
        model(**inputs)
