"""Pruning inside the SigLIP tower of PaliGemma, each of whose patches is one visual token."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from recipes.core.errors import UserError
from recipes.pruning import options as o
from recipes.pruning.adapters import check, layout, prune
from recipes.pruning.pruners import make
from recipes.pruning.token_pruning.measuring import sample_costs
from recipes.pruning.tokens import Point
from tests.pruning.adapters.folders import batch, saved
from tests.pruning.adapters.models import Chosen

KIND = "paligemma"
KEPT = [[0, 3, 4, 9, 11], [1, 2, 8], [5]]
MEAN: dict[str, Any] = {"query": "mean", "criteria": ("attn", "density")}
INSIDE = [
    o.FlowCutOptions(**MEAN),
    o.ZeroTPruneOptions(layers=(0, 1)),
    o.ToMeOptions(),
    o.DivPruneOptions(feature="encoder"),
    o.RandomOptions(),
]
every = pytest.mark.parametrize("options", INSIDE, ids=lambda each: each.name)


def by_hand(row: int, place: str, block: int) -> Tensor:
    """[R, vocabulary] logits of one prompt, its patches dropped behind a block or between its two parts."""
    model, inputs = saved(KIND).model, batch(KIND, (row,))
    core, kept = model.model, KEPT[row]
    hidden = core.vision_tower.embeddings(inputs["pixel_values"])
    for index, layer in enumerate(core.vision_tower.encoder.layers):
        hidden = hidden + layer.self_attn(layer.layer_norm1(hidden), None)[0]
        hidden = hidden[:, kept] if (place, block) == ("vit_attention", index) else hidden
        hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
        hidden = hidden[:, kept] if (place, block) == ("vit", index) else hidden
    features = core.multi_modal_projector(core.vision_tower.post_layernorm(hidden))
    embeds, image = (
        model.get_input_embeddings()(inputs["input_ids"]),
        inputs["input_ids"][0] == core.config.image_token_id,
    )
    start = int(image.long().argmax())
    embeds = torch.cat([embeds[:, :start], features, embeds[:, start + int(image.sum()) :]], 1)
    places = 1 + torch.arange(embeds.shape[1])[None]
    mask = torch.zeros(1, 1, embeds.shape[1], embeds.shape[1])  # all tokens of a prompt see each other
    states = core.language_model(inputs_embeds=embeds, attention_mask=mask, position_ids=places).last_hidden_state
    logits: Tensor = model.lm_head(states)[0]
    return logits


@pytest.mark.parametrize("place, block", [("vit", 1), ("vit_attention", 1), ("vit", 2)])
@torch.no_grad()
def test_dropping_inside_the_encoder_equals_a_forward_on_the_kept_patches(place: str, block: int):
    with prune(saved(KIND).model, Chosen({Point(place, block): KEPT}), 5, seeds=range(3)) as trace:
        logits = saved(KIND).model(**batch(KIND)).logits
    for row, kept in enumerate(KEPT):
        expected = by_hand(row, place, block)
        torch.testing.assert_close(logits[row, -len(expected) :], expected, atol=1e-5, rtol=1e-4)
        assert trace.entering[row].tolist() == trace.survivors[row].tolist() == kept
    assert trace.projected.tolist() == [5, 3, 1] and trace.llm_visual.tolist() == [[n] * 4 for n in (5, 3, 1)]


@every
@torch.no_grad()
def test_pruners_of_a_llava_s_encoder_meet_the_budget_here_and_samples_do_not_see_each_other(options: Any):
    model, inputs = saved(KIND).model, batch(KIND)
    plain = model(**inputs).logits
    with prune(model, make(options), 1.0, seeds=range(3)):
        assert torch.equal(model(**inputs).logits, plain)
    with prune(model, make(options), 0.5, seeds=range(3)) as trace:
        logits = model(**inputs).logits
    assert trace.llm_visual.eq(8).all() and trace.projected.eq(8).all()
    for row in range(3):
        with prune(model, make(options), 0.5, seeds=[row]) as single:
            expected = model(**batch(KIND, (row,))).logits
        torch.testing.assert_close(logits[row, -2:], expected[0, -2:], atol=1e-4, rtol=1e-4)
        assert single.encoder_tokens[0].tolist() == trace.encoder_tokens[row].tolist()
    assert torch.equal(model(**inputs).logits, plain)


@every
@torch.no_grad()
def test_costs_are_those_that_torch_counts(options: Any):
    model, inputs, counter = saved(KIND).model, batch(KIND, (1,)), FlopCounterMode(display=False)
    with prune(model, make(options), 0.5, seeds=[0]) as trace, sdpa_kernel(SDPBackend.MATH), counter:
        model(**inputs, logits_to_keep=1)
    [cost] = sample_costs(layout(model), trace)
    counted = {name: sum(values.values()) for name, values in counter.get_flop_counts().items()}
    name = type(model).__name__
    assert counted[f"{name}.model.language_model"] == 2 * cost.llm_macs
    between = 16 * 16 * 16 if options.name == "divprune" else 0  # products of all pairs, in front of the projector
    assert counted[f"{name}.model.multi_modal_projector"] == 2 * (cost.projector_macs + between)
    # What a pruner reads is computed by the blocks' own projections, and counted there.
    tower = counted[f"{name}.model.vision_tower"]
    assert tower == 2 * cost.encoder_macs if options.name in ("divprune", "random") else tower > 2 * cost.encoder_macs


def test_what_the_tower_lacks_is_refused_by_name():
    model = saved(KIND).model
    with pytest.raises(UserError, match=r"CLS, which the encoder of paligemma lacks\n.*query=mean pruner.criteria=\["):
        check(model, make(o.FlowCutOptions()), 0.5)
    with pytest.raises(UserError, match="trim compares patches .* of a CLIP, from which the encoder of paligemma does"):
        check(model, make(o.TrimOptions()), 0.5, guided=True)
    for keep, message in ((17, "17 tokens are more than the 16"), (0.01, "keep=0.01 of 16 tokens is none")):
        with pytest.raises(UserError, match=message):
            check(model, make(o.RandomOptions()), keep)
