"""Pruning inside encoders beside forwards built by hand, and what is read there beside eager attention."""

from typing import Any

import pytest
import torch
from torch import Tensor

from recipes.pruning import options as o
from recipes.pruning.adapters import Layout, layout, prune
from recipes.pruning.pruners import make
from recipes.pruning.pruners.flowcut import FlowCut
from recipes.pruning.tokens import Point, Selection, State, Tokens, apply, size_bias
from tests.pruning.adapters.models import Chosen, bert, clip, guide, images, llava, vit

KEPT = [[0, 3, 4, 9, 15], [1, 2]]


def with_cls(kept: list[int]) -> list[int]:
    return [0, *(place + 1 for place in kept)]


def by_hand(model: Any, pixels: Tensor, kept: list[int], behind: int, middle: bool = False) -> Tensor:
    """CLIP's blocks one by one, a sample alone, tokens dropped behind a block or between its two parts."""
    hidden = model.pre_layrnorm(model.embeddings(pixels))
    for index, block in enumerate(model.encoder.layers):
        hidden = hidden + block.self_attn(block.layer_norm1(hidden), None)[0]
        if middle and index == behind:
            hidden = hidden[:, with_cls(kept)]
        hidden = hidden + block.mlp(block.layer_norm2(hidden))
        if not middle and index == behind:
            hidden = hidden[:, with_cls(kept)]
    return hidden


@pytest.mark.parametrize("place", ["vit", "vit_attention"])
@torch.no_grad()
def test_dropping_equals_a_forward_on_the_kept_tokens(place: str):
    model, pixels = clip(), images(2)
    with prune(model, Chosen({Point(place, 2): KEPT}), 5, seeds=(0, 1)) as trace:
        states = model(pixels)
    for row, kept in enumerate(KEPT):
        expected = by_hand(model, pixels[row : row + 1], kept, 2, place == "vit_attention")
        kept_states = states.last_hidden_state[row, trace.output_mask[row]]
        torch.testing.assert_close(kept_states, expected[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            states.pooler_output[row], model.post_layernorm(expected[0, 0]), atol=1e-5, rtol=1e-5
        )
        assert trace.survivors[row].tolist() == trace.entering[row].tolist() == kept
    assert trace.encoder_tokens.tolist() == [[17, 17, 17, 6, 6, 6], [17, 17, 17, 3, 3, 3]]


@torch.no_grad()
def test_dropping_equals_masking_in_all_later_blocks():
    model, pixels, layer = vit(), images(1), 3
    with prune(model, Chosen({Point("vit", layer): KEPT[:1]}), 5, seeds=(0,)):
        dropped = model(pixels).last_hidden_state
    place = with_cls(KEPT[0])
    mask = torch.full((1, 1, 1, 17), -torch.inf)
    mask[..., place] = 0
    hidden = model.embeddings(pixels)
    for index, block in enumerate(model.layers):
        hidden = block(hidden, mask if index > layer else None)
    torch.testing.assert_close(dropped, model.layernorm(hidden)[:, place], atol=1e-4, rtol=1e-4)


class Recorded(FlowCut):
    """Remembers what it keeps behind each block."""

    def __call__(self, tokens: Tokens, state: State) -> Selection:
        selection = super().__call__(tokens, state)
        self.kept = {**vars(self).get("kept", {}), tokens.point.layer: apply(tokens, selection).positions[0].tolist()}
        return selection


@torch.no_grad()
def test_flowcut_equals_masking_its_dropped_tokens():
    model, pixels = clip(), images(1)
    pruner = Recorded(o.FlowCutOptions(ratio="fixed"))
    with prune(model, pruner, 4, seeds=(0,)) as trace:
        dropped = model(pixels).last_hidden_state
    assert trace.encoder_tokens.tolist() == [[17, 17, 11, 11, 5, 5]]
    assert [len(pruner.kept[block]) for block in range(4)] == [16, 10, 10, 4]
    hidden, seen = model.pre_layrnorm(model.embeddings(pixels)), list(range(17))
    for index, block in enumerate(model.encoder.layers):
        mask = torch.full((1, 1, 1, 17), -torch.inf)
        mask[..., seen] = 0
        hidden = block(hidden, mask)
        seen = with_cls(pruner.kept.get(index, seen[1:])) if index < 4 else seen
    torch.testing.assert_close(dropped, hidden[:, seen], atol=1e-4, rtol=1e-4)


class Doubles(Chosen):
    """Says that its first token stands for three."""

    proportional = True

    def select(self, tokens: Tokens, state: State) -> Selection:
        chosen = super().select(tokens, state)
        sizes = torch.ones(chosen.indices.shape)
        sizes[:, 0] = 3
        return Selection(chosen.indices, chosen.valid, sizes=sizes)


@torch.no_grad()
def test_proportional_attention_adds_the_log_of_sizes():
    model, pixels = clip(), images(2)
    with prune(model, Doubles({Point("vit", 4): KEPT}), 5, seeds=(0, 1)) as trace:
        states = model(pixels).last_hidden_state
    for row, kept in enumerate(KEPT):
        hidden = model.pre_layrnorm(model.embeddings(pixels[row : row + 1]))
        for block in model.encoder.layers[:5]:
            hidden = block(hidden, None)
        sizes = torch.ones(1, len(kept))
        sizes[0, 0] = 3
        hidden = model.encoder.layers[5](hidden[:, with_cls(kept)], size_bias(sizes, 1))
        torch.testing.assert_close(states[row, trace.output_mask[row]], hidden[0], atol=1e-5, rtol=1e-5)


READS = ("cls_row", "attention", "queries", "keys", "values", "cls")


@pytest.mark.parametrize("make_model, point", [(clip, Point("vit", 2)), (vit, Point("vit_attention", 2))])
@torch.no_grad()
def test_what_is_read_is_what_eager_attention_gives(make_model: Any, point: Point):
    model, pixels = make_model(), images(2)
    probe = Chosen({point: KEPT}, reads=READS)
    with prune(model, probe, 5, seeds=(0, 1)):
        model(pixels)
    seen = probe.seen[point]
    model.set_attn_implementation("eager")
    states = model(pixels, output_attentions=True, output_hidden_states=True)
    torch.testing.assert_close(seen.attention, states.attentions[2], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen.cls_row, states.attentions[2][:, :, 0], atol=1e-5, rtol=1e-5)
    logits = (seen.queries @ seen.keys.mT) * 8**-0.5
    torch.testing.assert_close(logits.softmax(3), states.attentions[2], atol=1e-5, rtol=1e-5)
    assert seen.values.shape == (2, 2, 17, 8)
    if point.place == "vit":
        torch.testing.assert_close(seen.x, states.hidden_states[3][:, 1:], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(seen.cls, states.hidden_states[3][:, 0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_reads_behind_pruned_blocks_leave_padding_out():
    model, pixels, later = clip(), images(2), Point("vit", 4)
    probe = Chosen({Point("vit", 1): KEPT, later: []}, reads=READS)
    with prune(model, probe, 5, seeds=(0, 1)):
        model(pixels)
    rows = probe.seen[later].attention
    assert rows[1, :, :, 3:].eq(0).all() and rows[0].ne(0).all()
    torch.testing.assert_close(rows.sum(3), torch.ones(2, 2, 6))


@torch.no_grad()
def test_the_last_block_and_the_question_are_read_at_the_encoders_output():
    names = (*READS, "final_query", "final_keys", "text", "patch_text", "patch_text_raw", "feature_text")
    point, model, pixels = Point("encoder"), llava(), images(2)
    probe, question = Chosen({point: KEPT}, reads=names), guide(2)
    with prune(model, probe, 5, seeds=(0, 1), guide=question):
        model.model.get_image_features(pixels)
    seen, tower = probe.seen[point], model.model.vision_tower
    tower.set_attn_implementation("eager")
    states = tower(pixels, output_attentions=True, output_hidden_states=True)
    block, last = tower.encoder.layers[5], states.hidden_states[-1]
    entering = block.layer_norm1(states.hidden_states[-2])
    close = {"atol": 1e-4, "rtol": 1e-4}
    torch.testing.assert_close(seen.x, states.hidden_states[-2][:, 1:], **close)
    torch.testing.assert_close(seen.cls, states.hidden_states[-2][:, 0], **close)
    torch.testing.assert_close(seen.cls_row, states.attentions[4][:, :, 0], **close)
    torch.testing.assert_close(seen.final_query, block.self_attn.q_proj(entering)[:, 0], **close)
    torch.testing.assert_close(seen.final_keys, block.self_attn.k_proj(entering), **close)
    torch.testing.assert_close(seen.patch_text_raw, question.project(last[:, 1:]), **close)
    torch.testing.assert_close(seen.patch_text, question.project(tower.post_layernorm(last)[:, 1:]), **close)
    features = tower.post_layernorm(states.hidden_states[-2])[:, 1:]
    torch.testing.assert_close(seen.feature_text, question.project(features), **close)
    assert torch.equal(seen.text, question.text)


@torch.no_grad()
def test_a_classifier_reads_the_pruned_sequence():
    model, pixels = vit(head=True), images(2)
    with prune(model, make(o.EViTOptions()), 0.25, seeds=(0, 1)) as trace:
        logits = model(pixels).logits
    inner = model.vit
    with prune(inner, make(o.EViTOptions()), 0.25, seeds=(0, 1)):
        expected = model.classifier(inner(pixels).last_hidden_state[:, 0])
    assert torch.equal(logits, expected) and trace.encoder_tokens[0, -1] < 17


@torch.no_grad()
def test_words_are_dropped_but_never_cls_and_sep():
    model, lengths = bert(), [9, 6]
    ids = torch.randint(4, 40, (2, 9))
    mask = (torch.arange(9) < torch.tensor(lengths)[:, None]).long()
    kept = [[0, 4, 6], [3]]
    with prune(model, Chosen({Point("vit", 2): kept}), 0.5, seeds=(0, 1)) as trace:
        states = model(ids, attention_mask=mask).last_hidden_state
    for row in range(2):
        hidden = model.embeddings(ids[row : row + 1, : lengths[row]])
        for index, block in enumerate(model.encoder.layer):
            hidden = block(hidden, None)
            if index == 2:
                hidden = hidden[:, [*with_cls(kept[row]), lengths[row] - 1]]
        torch.testing.assert_close(states[row, trace.output_mask[row]], hidden[0], atol=1e-5, rtol=1e-5)
    assert trace.output_mask.tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    assert trace.encoder_tokens[:, [2, 3]].tolist() == [[9, 5], [6, 3]]


@torch.no_grad()
def test_attention_of_text_is_read_with_special_tokens_first():
    model, point = bert(), Point("vit", 1)
    ids = torch.randint(4, 40, (2, 8))
    mask = torch.tensor([[1] * 8, [1] * 6 + [0] * 2])
    probe = Chosen({point: [[0], [0]]}, reads=READS)
    with prune(model, probe, 0.5, seeds=(0, 1)):
        model(ids, attention_mask=mask)
    model.set_attn_implementation("eager")
    rows = model(ids, attention_mask=mask, output_attentions=True).attentions[1]
    seen = probe.seen[point].attention
    for row, length in enumerate((8, 6)):
        order = [0, length - 1, *range(1, length - 1)]
        expected = rows[row][:, order][:, :, order]
        torch.testing.assert_close(seen[row, :, :length, :length], expected, atol=1e-5, rtol=1e-5)


def test_layouts_in_numbers():
    parts = layout(llava())
    assert isinstance(parts, Layout) and parts.kind == "llava" and parts.special == 1
    assert (parts.depth.vit, parts.depth.llm, parts.used_blocks) == (6, 6, 5)
    assert parts.llm is not None and (parts.llm.width, parts.llm.matrices, parts.llm.kv_width) == (16, 3, 8)
    assert parts.projector == (16, 16, 16) and parts.patch_pixels == 48 and parts.encoder.ffn == 24
    assert layout(llava(siglip=True)).special == 0
    words = layout(bert())
    assert (words.kind, words.special, words.llm, words.patch_pixels) == ("text", 2, None, 0)
    assert layout(vit(head=True)).kind == layout(clip()).kind == "vit" and layout(clip()).used_blocks == 6
