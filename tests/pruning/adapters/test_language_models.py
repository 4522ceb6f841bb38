"""Pruning in front of and inside language models beside forwards built by hand; generation with and without a cache."""

from typing import Any

import pytest
import torch
from torch import Tensor

from recipes.pruning import options as o
from recipes.pruning.adapters import Trace, prune
from recipes.pruning.adapters.columns import Columns
from recipes.pruning.pruners import make
from recipes.pruning.tokens import Kept, Point
from tests.pruning.adapters.models import DECODERS, IMAGE, PATCHES, Chosen, batch, llava, one

KEPT = [[0, 3, 4, 9, 15], [1, 2, 8], [5]]
POLICIES = ("compact", "original")
policies = pytest.mark.parametrize("positions", POLICIES)


def spliced(model: Any, inputs: dict[str, Tensor], kept: list[int]) -> tuple[Tensor, Tensor]:
    """[1, R, d] embeddings of one prompt with only some patches, and where each stood."""
    tower = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True)
    features = model.model.multi_modal_projector(tower.hidden_states[-2][:, 1:][:, kept])
    ids = inputs["input_ids"]
    embeds = model.get_input_embeddings()(ids)
    start = int((ids[0] == IMAGE).long().argmax())
    end = start + PATCHES
    place = [*range(start), *(start + patch for patch in kept), *range(end, ids.shape[1])]
    return torch.cat([embeds[:, :start], features, embeds[:, end:]], 1), torch.tensor([place])


def hand_built(model: Any, inputs: dict[str, Tensor], kept: list[int], positions: str) -> Tensor:
    embeds, place = spliced(model, inputs, kept)
    position_ids = place if positions == "original" else torch.arange(embeds.shape[1])[None]
    llm = model.model.language_model
    ones = torch.ones(embeds.shape[:2], dtype=torch.long)
    states = llm(inputs_embeds=embeds, attention_mask=ones, position_ids=position_ids).last_hidden_state
    return model.lm_head(states)


@policies
@pytest.mark.parametrize("decoder", list(DECODERS))
@pytest.mark.parametrize("place", ["encoder", "projector"])
@torch.no_grad()
def test_pruned_features_equal_a_forward_on_the_kept_tokens(decoder: str, place: str, positions: str):
    model, inputs = llava(decoder), batch()
    with prune(model, Chosen({Point(place): KEPT}), 5, seeds=range(3), positions=positions) as trace:
        logits = model(**inputs).logits
    for row, kept in enumerate(KEPT):
        expected = hand_built(model, one(inputs, row), kept, positions)
        torch.testing.assert_close(logits[row, -expected.shape[1] :], expected[0], atol=1e-5, rtol=1e-4)
        assert trace.entering[row].tolist() == trace.survivors[row].tolist() == kept
    assert trace.llm_visual.tolist() == [[len(kept)] * 6 for kept in KEPT]
    assert trace.projected.tolist() == ([5, 3, 1] if place == "encoder" else [PATCHES] * 3)


def layered(model: Any, inputs: dict[str, Tensor], kept: list[int], layer: int, how: str) -> Tensor:
    """Logits of one prompt, dropping patches on entering a layer: masked, or gathered with positions counted anew."""
    embeds, _ = spliced(model, inputs, list(range(PATCHES)))
    llm, length = model.model.language_model, embeds.shape[1]
    start = int((inputs["input_ids"][0] == IMAGE).long().argmax())
    gone = [start + patch for patch in range(PATCHES) if patch not in kept]
    left = [column for column in range(length) if column not in gone]
    causal = torch.full((length, length), -torch.inf).triu(1)
    masked = causal.clone()
    masked[:, gone] = -torch.inf
    masked[gone, gone] = 0  # a dropped row sees itself, or its softmax would be NaN
    hidden, places = embeds, torch.arange(length)[None]
    for index, block in enumerate(llm.layers):
        mask = (masked if how == "masked" and index >= layer else causal)[None, None]
        if how == "compact" and index >= layer:
            hidden = hidden[:, left] if index == layer else hidden
            places = torch.arange(len(left))[None]
            mask = mask[..., : len(left), : len(left)]
        rotary = llm.rotary_emb(hidden, position_ids=places)
        hidden = block(hidden, attention_mask=mask, position_ids=places, position_embeddings=rotary)
    logits = model.lm_head(llm.norm(hidden))
    return logits[:, left] if how == "masked" else logits


@pytest.mark.parametrize("how, positions", [("masked", "original"), ("compact", "compact")])
@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("decoder", list(DECODERS))
@torch.no_grad()
def test_dropping_inside_equals_masking_or_gathering_by_hand(decoder: str, layer: int, how: str, positions: str):
    model, inputs = llava(decoder), batch()
    with prune(model, Chosen({Point("llm", layer): KEPT}), 5, seeds=range(3), positions=positions) as trace:
        logits = model(**inputs).logits
    for row, kept in enumerate(KEPT):
        expected = layered(model, one(inputs, row), kept, layer, how)
        torch.testing.assert_close(logits[row, -expected.shape[1] :], expected[0], atol=1e-4, rtol=1e-4)
    full = [PATCHES] * layer
    assert trace.llm_visual.tolist() == [full + [len(kept)] * (6 - layer) for kept in KEPT]


READS = ("last_row", "next_row", "text_rows", "text_states", "text_valid", "queries", "keys", "values")


@torch.no_grad()
def test_what_is_read_is_what_eager_attention_gives():
    model, inputs, point = llava(), batch(), Point("llm", 2)
    probe = Chosen({point: KEPT}, reads=(*READS, "last_query", "last_value"))
    with prune(model, probe, 5, seeds=range(3)):
        model(**inputs)
    seen = probe.seen[point]
    model.set_attn_implementation("eager")
    close: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-4}
    assert seen.text_valid is not None and seen.text_valid.sum(1).tolist() == [5, 3, 4]
    assert seen.keys.shape == seen.values.shape == (3, 2, PATCHES, 4) and seen.queries.shape == (3, 4, PATCHES, 4)
    for row in range(3):
        alone = one(inputs, row)
        states = model(**alone, output_attentions=True, output_hidden_states=True)
        image = (alone["input_ids"][0] == IMAGE).nonzero().squeeze(1)
        behind = int(image[-1]) + 1
        words = states.hidden_states[2][0, behind:]
        before, about = states.attentions[1][0], states.attentions[2][0]
        torch.testing.assert_close(seen.x[row], states.hidden_states[2][0, image], **close)
        torch.testing.assert_close(seen.text_states[row, : len(words)], words, **close)
        torch.testing.assert_close(seen.last_row[row], before[:, -1, image], **close)
        torch.testing.assert_close(seen.next_row[row], about[:, -1, image], **close)
        torch.testing.assert_close(seen.text_rows[row, :, : len(words)], before[:, behind:, image], **close)
        # Queries and keys give the model's own attention, up to the softmax over other columns.
        keys = seen.keys[row].repeat_interleave(2, 0)
        shares = (torch.einsum("hc,hnc->hn", seen.last_query[row], keys) * 4**-0.5).softmax(1)
        rescaled = before[:, -1, image] / before[:, -1, image].sum(1, keepdim=True)
        torch.testing.assert_close(shares, rescaled, **close)
        again = (torch.einsum("hnc,hmc->hnm", seen.queries[row], keys) * 4**-0.5).tril()
        torch.testing.assert_close(again[:, -1].softmax(1), _renormed(before[:, image[-1]][:, image]), **close)
        entering = model.model.language_model.layers[1].input_layernorm(states.hidden_states[1])
        values = model.model.language_model.layers[1].self_attn.v_proj(entering)[0].unflatten(1, (2, 4))
        torch.testing.assert_close(seen.values[row], values[image].transpose(0, 1), **close)
        torch.testing.assert_close(seen.last_value[row], values[-1], **close)


def _renormed(rows: Tensor) -> Tensor:
    return rows / rows.sum(1, keepdim=True)


STEPS = 5
PLANS = {
    "encoder": {Point("encoder"): KEPT},
    "projector": {Point("projector"): KEPT},
    "layer 0": {Point("llm", 0): KEPT},
    "inside": {Point("llm", 2): KEPT},
    "twice": {Point("llm", 1): [[0, 1, 3, 4, 9, 15], [1, 2, 8, 9], [5, 6]], Point("llm", 4): [[0, 9], [1, 2, 8], [6]]},
    "both": {Point("encoder"): [[0, 3, 4, 9, 15], [1, 2, 8], [5, 7]], Point("llm", 3): [[3, 4], [1], [7]]},
}


def generated(model: Any, inputs: dict[str, Tensor], plan: Any, positions: str, cache: bool) -> tuple[Any, Trace]:
    with prune(model, Chosen(plan), 6, seeds=range(len(inputs["input_ids"])), positions=positions) as trace:
        out = model.generate(
            **inputs,
            max_new_tokens=STEPS,
            min_new_tokens=STEPS,
            do_sample=False,
            use_cache=cache,
            suppress_tokens=[IMAGE],
            return_dict_in_generate=True,
            output_logits=True,
        )
    return out, trace


@policies
@pytest.mark.parametrize("plan", list(PLANS))
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_generation_with_a_cache_equals_generation_without(attention: str, plan: str, positions: str):
    model, inputs = llava(attention=attention), batch()
    fast, cached = generated(model, inputs, PLANS[plan], positions, True)
    slow, whole = generated(model, inputs, PLANS[plan], positions, False)
    assert torch.equal(fast.sequences, slow.sequences)
    for step, (one_step, other) in enumerate(zip(fast.logits, slow.logits, strict=True)):
        torch.testing.assert_close(one_step, other, atol=1e-4, rtol=1e-4)
        assert cached.position_ids[step].shape[1] == (1 if step else whole.position_ids[0].shape[1])
        assert torch.equal(cached.position_ids[step][:, -1], whole.position_ids[step][:, -1])
    assert len(cached.position_ids) == len(whole.position_ids) == STEPS
    steps = torch.stack([each[:, -1] for each in cached.position_ids], 1)
    first = next(iter(PLANS[plan].values())) if plan != "both" else PLANS[plan][Point("encoder")]
    text = torch.tensor([7, 4, 8])
    length = text + (torch.tensor([len(each) for each in first]) if positions == "compact" else PATCHES)
    assert torch.equal(steps, length[:, None] - 1 + torch.arange(STEPS))


@policies
@pytest.mark.parametrize("plan", list(PLANS))
def test_generation_of_a_batch_equals_that_of_its_samples(plan: str, positions: str):
    model, inputs = llava(), batch()
    together, _ = generated(model, inputs, PLANS[plan], positions, True)
    for row in range(3):
        mine = {point: [kept[row]] for point, kept in PLANS[plan].items()}
        alone, _ = generated(model, one(inputs, row), mine, positions, True)
        assert together.sequences[row, -STEPS:].tolist() == alone.sequences[0, -STEPS:].tolist()
        for ours, single in zip(together.logits, alone.logits, strict=True):
            torch.testing.assert_close(ours[row], single[0], atol=1e-4, rtol=1e-4)


@policies
@torch.no_grad()
def test_decode_steps_equal_a_forward_on_the_kept_tokens_and_the_answer(positions: str):
    model, inputs = llava(), batch()
    out, _ = generated(model, inputs, PLANS["encoder"], positions, True)
    llm = model.model.language_model
    for row, kept in enumerate(KEPT):
        embeds, place = spliced(model, one(inputs, row), kept)
        answer = out.sequences[row : row + 1, -STEPS:]
        embeds = torch.cat([embeds, model.get_input_embeddings()(answer)], 1)
        later = torch.arange(1, STEPS + 1)[None]
        place = torch.cat([place, place[:, -1:] + later], 1)
        place = place if positions == "original" else torch.arange(embeds.shape[1])[None]
        ones = torch.ones(embeds.shape[:2], dtype=torch.long)
        states = llm(inputs_embeds=embeds, attention_mask=ones, position_ids=place).last_hidden_state
        expected = model.lm_head(states)[0, -STEPS - 1 : -1]
        logits = torch.stack([step[row] for step in out.logits])
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_dropping_behind_the_block_of_the_features_after_a_plain_run():
    """transformers leaves hooks that collect hidden states in a model that has run; pruning comes before them."""
    model, inputs = llava(), batch()
    model(**inputs)
    with prune(model, Chosen({Point("vit", 4): KEPT}), 5, seeds=range(3)):
        behind = model(**inputs).logits
    with prune(model, Chosen({Point("encoder"): KEPT}), 5, seeds=range(3)):
        torch.testing.assert_close(behind, model(**inputs).logits, atol=1e-5, rtol=1e-4)


@policies
def test_the_answer_to_a_prompt_that_ends_with_its_image_stands_where_it_would_have(positions: str):
    model, inputs = llava(), batch([(3, 0), (5, 0)])
    plan = {Point("encoder"): [[0, 1, 2], [4, 7]]}
    _, trace = generated(model, inputs, plan, positions, True)
    first = [3 + 16, 5 + 16] if positions == "original" else [3 + 3, 5 + 2]
    steps = torch.cat(trace.position_ids[1:], 1)
    assert torch.equal(steps, torch.tensor(first)[:, None] + torch.arange(STEPS - 1))


def test_new_tokens_have_the_place_of_the_one_before_them():
    """Text at 0, 1, image at 2 to 5, text at 6; kept are a new token, 2, a new one, 5 and a new one behind."""
    column = torch.arange(7)[None]
    whole = Columns.of_prompt(column >= 0, column, (column >= 2) & (column < 6))
    source = torch.tensor([[-1, 0, -1, 3, -1]])
    kept = Kept(torch.arange(100.0, 105)[None, :, None], source > -2, source, torch.ones(1, 5), source)
    for compact, expected in ((False, [0, 1, 2, 2, 2, 5, 5, 6]), (True, list(range(8)))):
        states, columns = whole.rebuilt(torch.arange(7.0)[None, :, None], kept, compact)
        assert states.flatten().tolist() == [0, 1, 100, 101, 102, 103, 104, 6]
        assert columns.position_ids.tolist() == [expected]
        assert columns.words()[0].tolist() == [[7]] and columns.visual.tolist() == [[2, 3, 4, 5, 6]]


def test_keeping_all_generates_what_the_model_generates():
    model, inputs = llava(), batch()
    plain = model.generate(**inputs, max_new_tokens=STEPS, do_sample=False)
    for options in (o.FullOptions(), o.FastVOptions(), o.DivPruneOptions()):
        with prune(model, make(options), 1.0, seeds=range(3)) as trace:
            assert torch.equal(model.generate(**inputs, max_new_tokens=STEPS, do_sample=False), plain)
        assert torch.equal(trace.position_ids[1][:, 0], inputs["attention_mask"].sum(1))


@torch.no_grad()
def test_prompts_padded_on_the_right_give_the_same_next_token():
    model, inputs = llava(), batch()
    real = inputs["attention_mask"].bool()
    order = torch.argsort(~real, dim=1, stable=True)
    right = {name: inputs[name].gather(1, order) for name in ("input_ids", "attention_mask")}
    with prune(model, make(o.FastVOptions()), 4, seeds=range(3)):
        left_logits = model(**inputs).logits[:, -1]
        right_logits = model(**right, pixel_values=inputs["pixel_values"]).logits[:, -1]
    torch.testing.assert_close(left_logits, right_logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_two_batches_in_one_block_do_not_mix():
    model, first, second = llava(), batch(), batch([(1, 2), (3, 3), (2, 2)], seed=4)
    pruner = make(o.FlowCutOptions(llm_layer=3, vit_share=1.5))
    with prune(model, pruner, 4, seeds=range(3)) as trace:
        model(**first)
        again = model(**second).logits
        mixed = trace.survivors
    with prune(model, make(o.FlowCutOptions(llm_layer=3, vit_share=1.5)), 4, seeds=range(3)) as trace:
        assert torch.equal(model(**second).logits, again)
    assert [each.tolist() for each in mixed] == [each.tolist() for each in trace.survivors]


@torch.no_grad()
def test_hooks_go_away_after_a_failure():
    model, inputs = llava(), batch()
    before = model(**inputs).logits
    hooks = _hooks(model)
    with pytest.raises(RuntimeError, match="halfway"), prune(model, make(o.ToMeOptions()), 4, seeds=range(3)):
        model(**inputs)
        raise RuntimeError("halfway")
    assert _hooks(model) == hooks and torch.equal(model(**inputs).logits, before)
    handle = model.model.language_model.layers[3].mlp.register_forward_pre_hook(_fail)
    with pytest.raises(RuntimeError, match="inside"), prune(model, make(o.FastVOptions()), 4, seeds=range(3)):
        model(**inputs)
    handle.remove()
    assert _hooks(model) == hooks and torch.equal(model(**inputs).logits, before)


def _fail(*_: Any) -> None:
    raise RuntimeError("inside")


def _hooks(model: Any) -> list[Any]:
    return [
        (
            name,
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            "forward" in vars(module),
            "get_image_features" in vars(module),
        )
        for name, module in model.named_modules()
    ]
