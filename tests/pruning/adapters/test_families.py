"""Families of vision-language models beside LLaVA: forwards built by hand, decode steps, budgets, costs, refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from recipes.core import runner
from recipes.core.config import compose
from recipes.core.errors import UserError
from recipes.core.evaluation.strips import read_strips
from recipes.pruning import options as o
from recipes.pruning.adapters import Trace, check, families, layout, prune
from recipes.pruning.adapters.family import Call
from recipes.pruning.pruners import PRUNERS, make
from recipes.pruning.token_pruning.measuring import sample_costs
from recipes.pruning.tokens import Point
from tests.pruning.adapters.folders import MAKERS, batch, picture, saved
from tests.pruning.adapters.models import Chosen

kinds = pytest.mark.parametrize("kind", list(MAKERS))
GRIDS = ("qwen2_vl", "qwen2_5_vl")  # whose positions are places in the image
POLICIES = [(kind, how) for kind in MAKERS for how in ("compact", "original") if how == "original" or kind not in GRIDS]
policies = pytest.mark.parametrize("kind, positions", POLICIES)
PREFIX = ("paligemma",)  # whose prompts see both ways, and begin at position 1
WHOLE_TOWER = ("paligemma",)  # each of whose patches is a token, so that what prunes a LLaVA's encoder prunes it
WHOLE_LAST = ("idefics3", "smolvlm", "internvl")  # whose crops come first
KEPT = [[0, 3, 4, 9, 11], [1, 2, 8], [5]]
CLOSE: dict[str, float] = {"atol": 1e-5, "rtol": 1e-4}
STEPS = 4


def image_token(kind: str) -> int:
    return int(saved(kind).model.config.image_token_id)


def alone(kind: str, row: int) -> dict[str, Tensor]:
    return batch(kind, (row,))


def unpruned(kind: str, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """[1, L, d] embeddings of a prompt with its image, and [1, L] or [3, 1, L] where each stands."""
    model = saved(kind).model
    embeds, ids = model.get_input_embeddings()(inputs["input_ids"]), inputs["input_ids"][0]
    [features] = families()[kind].features(model.model, inputs)
    embeds = embeds.clone()
    embeds[0, ids == image_token(kind)] = features
    if kind in GRIDS:
        grid = {name: inputs[name] for name in ("mm_token_type_ids", "image_grid_thw")}
        return embeds, model.model.get_rope_index(inputs["input_ids"], **grid)[0]
    return embeds, torch.arange(len(ids))[None] + (kind in PREFIX)


def spliced(kind: str, inputs: dict[str, Tensor], kept: list[int], positions: str) -> tuple[Tensor, Tensor]:
    """The same without the visual tokens that are not kept."""
    embeds, places = unpruned(kind, inputs)
    image = (inputs["input_ids"][0] == image_token(kind)).nonzero().squeeze(1)
    gone = set(image.tolist()) - {int(image[each]) for each in kept}
    left = [column for column in range(embeds.shape[1]) if column not in gone]
    places = torch.arange(len(left))[None] + (kind in PREFIX) if positions == "compact" else places[..., left]
    return embeds[:, left], places


def language(kind: str) -> Any:
    core = saved(kind).model.model
    return core.text_model if hasattr(core, "text_model") else core.language_model


def seen(kind: str, length: int, answer: int = 0) -> Tensor:
    """[1, 1, length, length] what is added to attention: causal, or both ways within the prompt before an answer."""
    mask = torch.full((length, length), -torch.inf).triu(1)
    if kind in PREFIX:
        mask[: length - answer, : length - answer] = 0
    return mask[None, None]


def forward(kind: str, embeds: Tensor, places: Tensor, answer: int = 0) -> Tensor:
    """[R, vocabulary] logits of one prompt without padding, and of an answer of some tokens."""
    mask = seen(kind, embeds.shape[1], answer)
    states = language(kind)(inputs_embeds=embeds, attention_mask=mask, position_ids=places).last_hidden_state
    logits: Tensor = saved(kind).model.lm_head(states)[0]
    return logits


@policies
@torch.no_grad()
def test_a_pruned_forward_equals_one_on_the_kept_tokens(kind: str, positions: str):
    for place in ("projector", "encoder"):
        pruner = Chosen({Point(place): KEPT})
        with prune(saved(kind).model, pruner, 5, seeds=range(3), positions=positions) as trace:
            logits = saved(kind).model(**batch(kind)).logits
        for row, kept in enumerate(KEPT):
            expected = forward(kind, *spliced(kind, alone(kind, row), kept, positions))
            torch.testing.assert_close(logits[row, -len(expected) :], expected, **CLOSE)
            assert trace.entering[row].tolist() == trace.survivors[row].tolist() == kept
        assert trace.llm_visual.tolist() == [[len(kept)] * 4 for kept in KEPT]


@kinds
@torch.no_grad()
def test_dropping_inside_equals_masking_from_there_on(kind: str):
    model, llm, layer = saved(kind).model, language(kind), 2
    with prune(model, Chosen({Point("llm", layer): KEPT}), 5, seeds=range(3), positions="original") as trace:
        logits = model(**batch(kind)).logits
    for row, kept in enumerate(KEPT):
        inputs = alone(kind, row)
        hidden, places = unpruned(kind, inputs)
        image = (inputs["input_ids"][0] == image_token(kind)).nonzero().squeeze(1)
        gone = [int(column) for number, column in enumerate(image) if number not in kept]
        length = hidden.shape[1]
        causal = seen(kind, length)[0, 0]
        masked = causal.clone()
        masked[:, gone] = -torch.inf
        masked[gone, gone] = 0
        rotary = llm.rotary_emb(hidden, position_ids=places)
        for index, block in enumerate(llm.layers):
            mask = (masked if index >= layer else causal)[None, None]
            hidden = block(hidden, attention_mask=mask, position_embeddings=rotary)
        left = [column for column in range(length) if column not in gone]
        expected = model.lm_head(llm.norm(hidden))[0, left]
        torch.testing.assert_close(logits[row, -len(left) :], expected, atol=1e-4, rtol=1e-4)
    assert trace.llm_visual[:, layer:].eq(torch.tensor([5, 3, 1])[:, None]).all()


PLANS = {"behind": {Point("projector"): KEPT}, "inside": {Point("llm", 2): KEPT}}


def generated(kind: str, inputs: dict[str, Tensor], plan: Any, positions: str, cache: bool) -> tuple[Any, Trace]:
    model = saved(kind).model
    with prune(model, Chosen(plan), 5, seeds=range(len(inputs["input_ids"])), positions=positions) as trace:
        out = model.generate(
            **inputs,
            max_new_tokens=STEPS,
            min_new_tokens=STEPS,
            do_sample=False,
            use_cache=cache,
            suppress_tokens=[image_token(kind)],
            return_dict_in_generate=True,
            output_logits=True,
        )
    return out, trace


@policies
@pytest.mark.parametrize("plan", list(PLANS))
@torch.no_grad()
def test_every_decode_step_has_the_logits_and_positions_of_a_forward_without_a_cache(
    kind: str, plan: str, positions: str
):
    fast, cached = generated(kind, batch(kind), PLANS[plan], positions, True)
    slow, whole = generated(kind, batch(kind), PLANS[plan], positions, False)
    assert torch.equal(fast.sequences, slow.sequences) and len(cached.position_ids) == len(whole.position_ids) == STEPS
    for step, (one, other) in enumerate(zip(fast.logits, slow.logits, strict=True)):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
        assert torch.equal(cached.position_ids[step][:, -1], whole.position_ids[step][:, -1])
    for row, kept in enumerate(KEPT):
        embeds, places = spliced(kind, alone(kind, row), kept, positions)
        # The first token of the answer stands one behind the largest position of the prompt, on every axis.
        behind = int(places.max()) + torch.arange(STEPS)
        steps = torch.stack([each[row, -1] for each in cached.position_ids])
        assert torch.equal(steps, behind if steps.ndim == 1 else behind[:, None].expand(-1, 3))
        if plan == "behind":
            answer = fast.sequences[row : row + 1, -STEPS:]
            later = (int(places.max()) + torch.arange(1, STEPS + 1)).expand(*places.shape[:-1], -1)
            embeds = torch.cat([embeds, saved(kind).model.get_input_embeddings()(answer)], 1)
            expected = forward(kind, embeds, torch.cat([places, later], -1), STEPS)[-STEPS - 1 : -1]
            torch.testing.assert_close(torch.stack([step[row] for step in fast.logits]), expected, atol=1e-4, rtol=1e-4)


@kinds
@torch.no_grad()
def test_samples_do_not_see_each_other(kind: str):
    model, pruner = saved(kind).model, make(o.FastVOptions())
    with prune(model, pruner, 0.4, seeds=range(3)) as trace:
        logits = model(**batch(kind)).logits
    for row in range(3):
        with prune(model, pruner, 0.4, seeds=[row]) as single:
            expected = model(**alone(kind, row)).logits
        torch.testing.assert_close(logits[row, -2:], expected[0, -2:], atol=1e-4, rtol=1e-4)
        assert single.survivors[0].tolist() == trace.survivors[row].tolist()
        assert single.encoder_tokens.tolist() == trace.encoder_tokens.split(trace.crops)[row].tolist()


WORKING = [
    o.FullOptions(),
    o.RandomOptions(),
    o.GridOptions(place="projector"),
    o.DivPruneOptions(),
    o.DivPruneOptions(layer=2),
    o.FastVOptions(),
    o.SparseVLMOptions(),
    o.PyramidDropOptions(rates=()),
    o.VTWOptions(),
]


@kinds
@torch.no_grad()
def test_pruners_meet_the_budget_and_a_budget_of_all_changes_no_bit(kind: str):
    model, inputs = saved(kind).model, batch(kind)
    plain, hooks = model(**inputs).logits, hooks_of(model)
    totals = (inputs["input_ids"] == image_token(kind)).sum(1)
    for options in WORKING:
        with prune(model, make(options), 1.0, seeds=range(3)):
            assert torch.equal(model(**inputs).logits, plain)
        with prune(model, make(options), 0.5, seeds=range(3)) as trace:
            model(**inputs)
        wanted = torch.tensor([round(0.5 * total) for total in totals.tolist()])
        if options.name == "sparsevlm":
            assert (trace.llm_visual.float().mean(1) <= wanted).all()
        elif options.name not in ("vtw", "full"):
            assert torch.equal(trace.llm_visual[:, -1], wanted)
        assert hooks_of(model) == hooks and torch.equal(model(**inputs).logits, plain)


def hooks_of(model: Any) -> list[Any]:
    return [
        (name, len(part._forward_hooks), len(part._forward_pre_hooks), "get_image_features" in vars(part))
        for name, part in model.named_modules()
    ]


@kinds
def test_what_has_no_meaning_there_is_refused_by_name_without_weights(kind: str):
    model = saved(kind).model
    with torch.device("meta"):
        skeleton = type(model)(model.config)
    working = {each.name for each in WORKING} | {"pool", *families()[kind].inside}
    if kind in WHOLE_TOWER:  # beside them what needs neither CLS nor the question
        working |= {"zero_tprune", "tome"}
    for name in sorted(set(PRUNERS) - working):
        options = next(each for each in vars(o).values() if getattr(each, "name", None) == name)()
        with pytest.raises(UserError, match=rf"pruner: {name} (reads|prunes|compares)(.|\n)*{kind}(.|\n)*random, grid"):
            check(skeleton, make(options), 0.5, guided=True)
    if kind not in WHOLE_TOWER:
        with pytest.raises(UserError, match="divprune reads features of the encoder"):
            check(skeleton, make(o.DivPruneOptions(feature="encoder")), 0.5)
    if kind in GRIDS:
        with pytest.raises(UserError, match=rf"positions: rotary positions of {kind} are places(.|\n)*=original"):
            check(skeleton, make(o.DivPruneOptions()), 0.5, positions="compact")


@pytest.mark.parametrize("kind, strategy", [("llava_onevision", "default"), ("internvl", "full")])
def test_features_that_the_encoder_does_not_have_are_refused(
    kind: str, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved(kind).model
    for layer in (-4, 0, 4):
        with monkeypatch.context() as changed:
            changed.setattr(model.config, "vision_feature_layer", layer)
            with pytest.raises(UserError, match=f"feature layer {layer} is behind none of 3 blocks"):
                layout(model)
    monkeypatch.setattr(model.config, "vision_feature_select_strategy", strategy)
    with pytest.raises(UserError, match=f"{strategy} would (take a patch from|leave CLS among) the features"):
        layout(model)


@kinds
@torch.no_grad()
def test_costs_are_those_that_torch_counts(kind: str):
    model, inputs = saved(kind).model, alone(kind, 2)
    for options, keep in ((o.FullOptions(), 1.0), (o.RandomOptions(place="projector"), 0.5), (o.FastVOptions(), 0.25)):
        counter = FlopCounterMode(display=False)
        with prune(model, make(options), keep, seeds=[0]) as trace, sdpa_kernel(SDPBackend.MATH), counter:
            model(**inputs, logits_to_keep=1)
        [cost] = sample_costs(layout(model), trace)
        counted = counter.get_total_flops() - 2 * model.lm_head.weight.numel()
        # What a pruner reads is computed anew, and stands beside the prefill.
        assert counted == cost.metrics()["flops"] or (options.name == "fastv" and counted > cost.metrics()["flops"])


@kinds
def test_pictures_show_each_token_where_it_stands(kind: str):
    """The mean brightness of a token's part of the picture is that of its pixels in the image."""
    for row in range(3):
        inputs = alone(kind, row)
        config = saved(kind).model.config
        views = families()[kind].views(config, inputs)
        numbers = sorted(int(number) for view in views for number in view.cells.flatten())
        total = int((inputs["input_ids"] == image_token(kind)).sum())
        [lines] = families()[kind].newline(saved(kind).model.model, Call(inputs)) or [torch.zeros(total) > 0]
        assert numbers == (~lines).nonzero().flatten().tolist()
        view = views[-1 if kind in WHOLE_LAST else 0]
        height, width = view.pixels.shape[1:]
        pixels = torch.from_numpy(np.array(picture(row).resize((width, height), Image.Resampling.BICUBIC))).double()
        blocks = pixels.mean(2).unfold(0, height // len(view.cells), height // len(view.cells))
        blocks = blocks.unfold(1, width // view.cells.shape[1], width // view.cells.shape[1]).mean((2, 3))
        seen = view.pixels.double().mean(0)
        seen = seen.unfold(0, height // len(view.cells), height // len(view.cells))
        seen = seen.unfold(1, width // view.cells.shape[1], width // view.cells.shape[1]).mean((2, 3))
        assert torch.corrcoef(torch.stack([blocks.flatten(), seen.flatten()]))[0, 1] > 0.9


@kinds
@torch.no_grad()
def test_several_images_in_a_prompt_are_refused_or_share_a_budget(kind: str):
    home = saved(kind)
    prompt = f"{home.processor.image_token} and {home.processor.image_token} why"
    inputs = dict(home.processor(images=[[picture(0), picture(1)]], text=[prompt], return_tensors="pt"))
    inputs.pop("labels", None)
    if families()[kind].scattered:  # they share one budget
        total = int((inputs["input_ids"] == image_token(kind)).sum())
        with prune(home.model, make(o.DivPruneOptions()), 0.5, seeds=[0]) as trace:
            logits = home.model(**inputs).logits[0]
        assert trace.llm_visual.tolist() == [[total // 2] * 4] and trace.crops == [10]
        expected = forward(kind, *spliced(kind, inputs, trace.survivors[0].tolist(), "compact"))
        torch.testing.assert_close(logits, expected, **CLOSE)
        return
    with (
        pytest.raises(UserError, match="pruning takes one image for each prompt"),
        prune(home.model, make(o.GridOptions()), 0.5, seeds=[0]),
    ):
        home.model(**inputs)


@kinds
def test_a_folder_and_a_file_of_questions_are_enough(kind: str, tmp_path: Path):
    records = []
    for row in range(3):
        picture(row).save(tmp_path / f"{row}.png")
        records.append({"image": f"{row}.png", "question": "what is it <|im_end|> ?", "answer": "one"})
    (tmp_path / "vqa.json").write_text(json.dumps(records))
    words = [f"model={saved(kind).folder}", f"data.path={tmp_path / 'vqa.json'}", f"outputs={tmp_path / 'runs'}"]
    options = ["budget=smoke", "tracker=none", "trainer.threads=1", "keep=0.5", "evaluation.max_new_tokens=2"]
    outcome = runner.run(compose.compose("token-pruning", [*options, *words]), False, "steelyard run token-pruning")
    totals = [int((alone(kind, row)["input_ids"] == image_token(kind)).sum()) for row in range(3)]
    assert outcome.metrics["tokens@1"] == pytest.approx(sum(totals) / 3)
    assert outcome.metrics["tokens@0.5"] == pytest.approx(sum(round(0.5 * total) for total in totals) / 3)
    assert 0 < outcome.metrics["macs_ratio@0.5"] < 1 and 0 < outcome.metrics["min_distance@0.5"] < 2
    full, kept = read_strips(outcome.folder)
    assert full.label.startswith("all ") and kept.label.endswith("tokens") and len(kept.shots) == 2
    with pytest.raises(UserError, match="cls_topk reads"):
        config = compose.compose("token-pruning", [*options, *words, "pruner=cls_topk"])
        (saved(kind).folder / "model.safetensors").rename(tmp_path / "model.safetensors")
        try:
            runner.run(config, False, "steelyard run token-pruning")  # its weights are not even there
        finally:
            (tmp_path / "model.safetensors").rename(saved(kind).folder / "model.safetensors")
