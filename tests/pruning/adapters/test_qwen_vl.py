"""Pruning inside the vision towers of Qwen2-VL and Qwen2.5-VL: patches dropped in front of the merger."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from recipes.core.errors import UserError
from recipes.pruning import options as o
from recipes.pruning.adapters import Trace, check, layout, prune
from recipes.pruning.pruners import make
from recipes.pruning.pruners.flowcut import FlowCut
from recipes.pruning.token_pruning.measuring import sample_costs
from recipes.pruning.tokens import Selection, State, Tokens, apply
from tests.pruning.adapters.folders import batch, saved

both = pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl"])
QWEN: dict[str, Any] = {"query": "mean", "criteria": ("attn", "density")}


class Recorded(FlowCut):
    """Remembers the patches that it keeps behind each block, and what it saw."""

    def __call__(self, tokens: Tokens, state: State) -> Selection:
        selection = super().__call__(tokens, state)
        seen: dict[Any, Any] = self.__dict__.setdefault("seen", {})
        kept = apply(tokens, selection)
        seen[tokens.point.place, tokens.point.layer] = (
            tokens,
            [p[v] for p, v in zip(kept.positions, kept.valid, strict=True)],
        )
        return selection


def merged_by_hand(kind: str, inputs: dict[str, Tensor], kept: list[list[int]]) -> tuple[Tensor, list[int]]:
    """Features of one image, block by block with only the patches kept behind each, and where they stand."""
    tower, grid = saved(kind).model.model.visual, inputs["image_grid_thw"]
    hidden, count = tower.patch_embed(inputs["pixel_values"]), int(grid.prod())
    rotary = tower.rotary_emb if hasattr(tower, "rotary_emb") else tower.rotary_pos_emb
    cos, sin = rotary(hidden, get_vision_position_ids(grid, 2))
    windows, order = torch.zeros(count), torch.arange(count // 4)
    if kind == "qwen2_5_vl":
        order, ends = get_vision_window_index(grid, 2, tower.window_size, tower.patch_size)
        windows = torch.bucketize(torch.arange(count), ends[1:].long(), right=True)
        hidden, cos, sin = (each.unflatten(0, (-1, 4))[order].flatten(0, 1) for each in (hidden, cos, sin))
    index = list(range(count))
    for number, block in enumerate(tower.blocks):
        everywhere = kind == "qwen2_vl" or number in tower.fullatt_block_indexes
        segment = torch.zeros(len(index)) if everywhere else windows[index]
        _, lengths = segment.unique_consecutive(return_counts=True)
        ends = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]).int()
        hidden = block(hidden, cu_seqlens=ends, position_embeddings=(cos[index], sin[index]))
        hidden = hidden[[index.index(patch) for patch in kept[number]]]
        index = kept[number]
    groups = [int(order[patch // 4]) for patch in index[::4]]
    return tower.merger(hidden), groups


def flowcut(kind: str, inputs: dict[str, Tensor], keep: float | int, **kwargs: Any) -> tuple[Recorded, Trace, Tensor]:
    pruner = Recorded(o.FlowCutOptions(**QWEN, **kwargs))
    with prune(saved(kind).model, pruner, keep, seeds=range(len(inputs["image_grid_thw"]))) as trace:
        logits = saved(kind).model(**inputs).logits
    return pruner, trace, logits


@both
@torch.no_grad()
def test_flowcut_leaves_twice_the_budget_to_the_language_model_and_the_budget_behind_its_second_layer(kind: str):
    inputs = batch(kind)
    pruner, trace, logits = flowcut(kind, inputs, 4, vit_share=2.0, llm_layer=2)
    assert trace.llm_visual.tolist() == [[8, 8, 4, 4]] * 3 and trace.projected.tolist() == [8] * 3
    assert trace.encoder_tokens[:, 0].tolist() == [60, 64, 96] and (trace.encoder_tokens.diff(dim=1) <= 0).all()
    # Every second block prunes, and the last one to 8 T patches.
    assert [len(each) for each in pruner.seen["vit", 3][1]] == [32] * 3
    tokens, model = pruner.seen["llm", 2][0], saved(kind).model
    for row in range(3):
        alone = batch(kind, (row,))
        kept = [pruner.seen["vit", block][1][row].tolist() for block in range(4)]
        assert all(each == sorted(each) for each in kept)
        features, groups = merged_by_hand(kind, alone, kept)
        assert sorted(groups) == tokens.positions[row].tolist() == trace.entering[row].tolist()
        placed = features[torch.tensor(groups).argsort()]
        embeds = model.get_input_embeddings()(alone["input_ids"])
        image = (alone["input_ids"][0] == model.config.image_token_id).nonzero().squeeze(1)
        embeds[0, image[sorted(groups)]] = placed
        gone = set(image.tolist()) - set(image[sorted(groups)].tolist())
        left = [column for column in range(embeds.shape[1]) if column not in gone]
        places = model.model.get_rope_index(
            alone["input_ids"], alone["mm_token_type_ids"], image_grid_thw=alone["image_grid_thw"]
        )[0]
        llm, hidden, places = model.model.language_model, embeds[:, left], places[..., left]
        later = [left.index(int(image[each])) for each in trace.survivors[row].tolist()]
        text = [column for column, before in enumerate(left) if before not in image.tolist()]
        columns = sorted([*later, *text])
        for layer, block in enumerate(llm.layers):
            if layer == 2:
                hidden, places = hidden[:, columns], places[..., columns]
            causal = torch.full((hidden.shape[1],) * 2, -torch.inf).triu(1)[None, None]
            rotary = llm.rotary_emb(hidden, position_ids=places)
            hidden = block(hidden, attention_mask=causal, position_embeddings=rotary)
        expected = model.lm_head(llm.norm(hidden))[0]
        torch.testing.assert_close(logits[row, -len(columns) :], expected, atol=1e-5, rtol=1e-4)


@both
@torch.no_grad()
def test_what_flowcut_reads_is_what_the_tower_attends_with(kind: str):
    inputs, tower = batch(kind, (1,)), saved(kind).model.model.visual
    pruner, _, _ = flowcut(kind, inputs, 4)
    tokens: Tokens = pruner.seen["vit", 1][0]
    outputs: list[Tensor] = []
    handle = tower.blocks[1].attn.register_forward_hook(lambda module, args, output: outputs.append(output))
    tower(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])
    handle.remove()
    assert tokens.queries is not None and tokens.keys is not None and tokens.values is not None
    # Behind block 0 nothing was dropped, and block 1 attends to the whole image in both.
    weights = (tokens.queries @ tokens.keys.mT * 8**-0.5).softmax(3)
    attended = tower.blocks[1].attn.proj((weights @ tokens.values)[0].transpose(0, 1).flatten(1))
    assert tokens.x.shape[1] == 64
    torch.testing.assert_close(attended, outputs[0], atol=1e-5, rtol=1e-4)
    mean = tokens.queries.mean(2, keepdim=True)
    attention = ((mean @ tokens.keys.mT) * 8**-0.5).softmax(3).mean(1)[0, 0]
    score = attention / attention.sum() * tokens.values.mean(1).abs().sum(2)[0]
    pruner = FlowCut(o.FlowCutOptions(**QWEN, cumulative=0.0, ratio="fixed"))
    kept = apply(tokens, pruner(tokens, {})).positions[0].tolist()
    assert kept == sorted(tokens.positions[0][score.topk(len(kept)).indices].tolist())


@both
@torch.no_grad()
def test_patches_are_dropped_alike_alone_and_in_a_batch_and_cost_what_torch_counts(kind: str):
    inputs, model = batch(kind), saved(kind).model
    _, trace, logits = flowcut(kind, inputs, 0.25)
    assert trace.llm_visual.tolist() == [[4] * 4, [4] * 4, [6] * 4]
    for row in range(3):
        _, single, alone = flowcut(kind, batch(kind, (row,)), 0.25)
        torch.testing.assert_close(logits[row, -2:], alone[0, -2:], atol=1e-4, rtol=1e-4)
        assert single.survivors[0].tolist() == trace.survivors[row].tolist()
    counter, one = FlopCounterMode(display=False), batch(kind, (2,))
    [cost] = sample_costs(layout(model), single)
    parts = {"encoder": cost.encoder_macs, "projector": cost.projector_macs, "llm": cost.llm_macs}
    with sdpa_kernel(SDPBackend.MATH), counter, prune(model, make(o.FlowCutOptions(**QWEN)), 0.25, seeds=[0]):
        model(**one, logits_to_keep=1)
    counted = {name: sum(values.values()) for name, values in counter.get_flop_counts().items()}
    name = type(model).__name__
    assert counted[f"{name}.model.language_model"] == 2 * parts["llm"]
    assert counted[f"{name}.model.visual.merger"] == 2 * parts["projector"]
    blocks = sum(counted[f"{name}.model.visual.blocks.{block}"] for block in range(4))
    embedding = counted[f"{name}.model.visual.patch_embed"]
    assert blocks + embedding == 2 * parts["encoder"]


@both
@torch.no_grad()
def test_a_budget_of_all_changes_no_bit(kind: str):
    inputs = batch(kind)
    _, trace, logits = flowcut(kind, inputs, 1.0)
    assert torch.equal(logits, saved(kind).model(**inputs).logits) and trace.encoder_tokens[:, -1].tolist() == [
        60,
        64,
        96,
    ]


@both
def test_flowcut_with_cls_says_what_to_type(kind: str):
    with pytest.raises(UserError, match=r"flowcut reads the attention of CLS(.|\n)*pruner.query=mean"):
        check(saved(kind).model, make(o.FlowCutOptions()), 0.5)
    with pytest.raises(UserError, match="vit_share: 22 patches are left of sample 0, of which 4(.|\n)*type 1 or 2"):
        flowcut(kind, batch(kind, (0,)), 4, vit_share=1.4)
