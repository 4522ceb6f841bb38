"""Every pruner in every kind of model: nothing changes at keep=1, samples do not see each other, hooks go away."""

from typing import Any

import pytest
import torch
from torch import Tensor

from recipes.pruning import options as o
from recipes.pruning.adapters import Trace, prune
from recipes.pruning.pruners import PRUNERS, make
from tests.pruning.adapters.models import PATCHES, batch, bert, clip, guide, images, llava, one, vit
from tests.pruning.test_every_pruner import DEFAULTS, label

LANGUAGE = ("fastv", "sparsevlm", "pyramiddrop", "vtw")
VARIANTS = [
    *DEFAULTS,
    o.DivPruneOptions(feature="encoder"),
    o.DivPruneOptions(layer=2, protect_newline=True),
    o.RandomOptions(place="projector"),
    o.FlowCutOptions(llm_layer=3, vit_share=1.5),
    o.FlowCutOptions(query="mean", criteria=("attn", "density")),
    o.ZeroTPruneOptions(rates=(0.9, 0.8, 0.7)),
    o.EViTOptions(rate=0.8),
    o.ToMeOptions(proportional=False),
    o.PruMergeOptions(count="budget"),
    o.TrimOptions(count="budget"),
    o.RecoverableOptions(threshold="topk"),
    o.FastVOptions(layer=0),
    o.PyramidDropOptions(rates=()),
]
every = pytest.mark.parametrize("options", VARIANTS, ids=label)
KEEP, SPARSE = 4, 6  # SparseVLM's mean over layers cannot be less than 5
EXACT = ("random", "grid", "pool", "cls_topk", "divprune", "visionzip", "tome", "zero_tprune", "evit", "flowcut")


@pytest.fixture(scope="module")
def model() -> Any:
    return llava()


def run(model: Any, options: Any, inputs: dict[str, Tensor], keep: float | int, **kwargs: Any) -> tuple[Tensor, Trace]:
    count = len(inputs["pixel_values"])
    seeds, question = kwargs.pop("seeds", range(count)), kwargs.pop("guide", guide(count))
    with torch.no_grad(), prune(model, make(options), keep, seeds=seeds, guide=question, **kwargs) as trace:
        return model(**inputs).logits, trace


def keep_of(options: Any) -> int:
    return SPARSE if options.name == "sparsevlm" else KEEP


def test_the_variants_hold_every_pruner():
    assert {each.name for each in VARIANTS} == set(PRUNERS)


@every
@torch.no_grad()
def test_keeping_all_changes_no_bit_of_llava(model: Any, options: Any):
    inputs = batch()
    for keep in (1.0, PATCHES):
        logits, trace = run(model, options, inputs, keep)
        assert torch.equal(logits, model(**inputs).logits)
        assert trace.llm_visual.eq(PATCHES).all() and trace.survivors[0].tolist() == list(range(PATCHES))
    fewer, _ = run(model, o.FullOptions(), inputs, 0.25)
    assert torch.equal(fewer, model(**inputs).logits)


@every
@torch.no_grad()
def test_samples_do_not_see_each_other_and_hooks_go_away(model: Any, options: Any):
    inputs = batch()
    before = model(**inputs).logits
    logits, trace = run(model, options, inputs, keep_of(options), seeds=(7, 8, 9))
    assert torch.equal(model(**inputs).logits, before)
    question = guide(3)
    for row in range(3):
        asked = type(question)(question.text[row : row + 1], question.project)
        alone, single = run(model, options, one(inputs, row), keep_of(options), seeds=(7 + row,), guide=asked)
        torch.testing.assert_close(logits[row, -2:], alone[0, -2:], atol=1e-4, rtol=1e-4)
        assert single.entering[0].tolist() == trace.entering[row].tolist()
        assert single.survivors[0].tolist() == trace.survivors[row].tolist()
        assert single.llm_visual[0].tolist() == trace.llm_visual[row].tolist()
        assert single.encoder_tokens[0].tolist() == trace.encoder_tokens[row].tolist()
        assert single.text_tokens[0] == trace.text_tokens[row] == inputs["attention_mask"][row].sum() - PATCHES
        assert single.made[0] == trace.made[row]
    assert not torch.allclose(logits[:, -1], before[:, -1], atol=1e-3) or options.name == "full"


@every
def test_the_budget_is_in_the_trace(model: Any, options: Any):
    _, trace = run(model, options, batch(), keep_of(options))
    visual, name = trace.llm_visual, options.name
    assert visual.shape == (3, 6) and trace.encoder_tokens.shape == (3, 6)
    inside = [len(each) + made for each, made in zip(trace.entering, trace.made.tolist(), strict=True)]
    assert visual[:, 0].tolist() == inside
    fixed = not getattr(options, "layer", 0) and not getattr(options, "rate", 0) and not getattr(options, "rates", 0)
    if name in EXACT and fixed and not getattr(options, "llm_layer", 0):
        assert visual.eq(KEEP).all()
    if getattr(options, "count", "") == "budget" or getattr(options, "threshold", "") == "topk":
        assert visual.eq(KEEP).all()
    if name == "full":
        assert visual.eq(PATCHES).all()
    if name == "fastv":
        first = options.layer
        assert visual[:, :first].eq(PATCHES).all() and visual[:, first:].eq(KEEP).all()
    if name == "vtw":
        assert visual[:, :3].eq(PATCHES).all() and visual[:, 3:].eq(0).all() and not trace.survivors[0].numel()
        assert trace.position_ids[0][:, -1].eq(batch()["input_ids"].shape[1] - 1).all()  # the gap stays
    if name == "pyramiddrop":
        assert visual[0].tolist() == ([16, 16, 8, 4, 2, 2] if options.rates else [16, 16, 10, 6, 4, 4])
    if name == "sparsevlm":
        assert visual[:, 0].eq(PATCHES).all() and (visual.diff(dim=1) <= 0).all()
        assert visual.float().mean(1).eq(SPARSE).all()
    if getattr(options, "llm_layer", 0):
        assert visual[:, :3].eq(6).all() and visual[:, 3:].eq(KEEP).all()
    assert trace.selection_seconds > 0 or name == "full"


@pytest.mark.parametrize("make_model", [clip, vit, bert], ids=["clip", "vit", "bert"])
@every
@torch.no_grad()
def test_encoders_alone(make_model: Any, options: Any):
    if options.name in LANGUAGE or getattr(options, "place", "") == "projector" or getattr(options, "llm_layer", 0):
        return
    if options.name == "divprune" and options.feature != "encoder":
        return
    words = make_model is bert
    if words and options.name in ("trim", "recoverable", "pool"):
        return
    model = make_model()
    lengths = [16, 9, 12]
    if words:
        ids = torch.randint(1, 40, (3, 18), generator=torch.Generator().manual_seed(2))
        mask = (torch.arange(18) < torch.tensor(lengths)[:, None] + 2).long()
        inputs = {"input_ids": ids * mask, "attention_mask": mask}
    else:
        inputs = {"pixel_values": images(3)}
    before = model(**inputs)
    question = None if words else guide(3)
    with prune(model, make(options), 1.0, seeds=range(3), guide=question):
        assert torch.equal(model(**inputs).last_hidden_state, before.last_hidden_state)
    with prune(model, make(options), 0.25, seeds=range(3), guide=question) as trace:
        after = model(**inputs).last_hidden_state
    assert torch.equal(model(**inputs).last_hidden_state, before.last_hidden_state)
    mask = trace.output_mask
    assert after.shape[:2] == mask.shape
    special = 2 if words else 1
    left = [len(each) + int(made) for each, made in zip(trace.entering, trace.made, strict=True)]
    assert (mask.sum(1) - special).tolist() == left
    for row in range(3):
        alone = {name: value[row : row + 1] for name, value in inputs.items()}
        if words:
            alone = {name: value[:, : lengths[row] + 2] for name, value in alone.items()}
        asked = None if question is None else type(question)(question.text[row : row + 1], question.project)
        with prune(model, make(options), 0.25, seeds=[row], guide=asked) as single:
            states = model(**alone).last_hidden_state
        assert single.entering[0].tolist() == trace.entering[row].tolist()
        torch.testing.assert_close(after[row, mask[row]], states[0], atol=1e-4, rtol=1e-4)
    fixed = not getattr(options, "rate", 0) and not getattr(options, "rates", 0)
    if options.name in EXACT and fixed:
        assert left == ([4, 2, 3] if words else [4, 4, 4])
