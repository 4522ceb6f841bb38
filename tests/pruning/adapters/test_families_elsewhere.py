"""Families of vision-language models in bf16, on another device, and with processors that use torchvision."""

import json
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers.utils import is_torchvision_available

from recipes.core.models.sources import load_processor
from recipes.core.other_device import DEVICE, other_device
from recipes.pruning import options as o
from recipes.pruning.adapters import families, prune
from recipes.pruning.pruners import make
from recipes.pruning.token_pruning.checkpoint import asking
from tests.pruning.adapters.folders import MAKERS, QUESTIONS, batch, picture, saved

kinds = pytest.mark.parametrize("kind", list(MAKERS))
PRUNERS = [o.DivPruneOptions(), o.FastVOptions(), o.SparseVLMOptions(), o.PyramidDropOptions(rates=())]
MEAN: dict[str, Any] = {"query": "mean", "criteria": ("attn", "density")}
INSIDE = {
    "qwen2_vl": [o.FlowCutOptions(**MEAN, vit_share=2.0, llm_layer=2)],
    "qwen2_5_vl": [o.FlowCutOptions(**MEAN)],
    "paligemma": [o.FlowCutOptions(**MEAN), o.ZeroTPruneOptions(layers=(0, 1)), o.ToMeOptions(), o.RandomOptions()],
}
STEPS: dict[str, Any] = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False}


@kinds
@torch.no_grad()
def test_on_another_device_a_pruned_model_answers_as_on_the_cpu(kind: str):
    model, inputs = saved(kind).model, batch(kind)
    here = []
    for options in [*PRUNERS[::2], *INSIDE.get(kind, [])]:
        with prune(model, make(options), 0.5, seeds=range(3)) as trace:
            here.append((trace, model.generate(**inputs, **STEPS)))
    with other_device():
        there = deepcopy(model).to(DEVICE)
        moved = {name: value.to(DEVICE) for name, value in inputs.items()}
        for options, (trace, answers) in zip([*PRUNERS[::2], *INSIDE.get(kind, [])], here, strict=True):
            with prune(there, make(options), 0.5, seeds=range(3)) as away:
                assert there.generate(**moved, **STEPS).cpu().tolist() == answers.tolist()
            assert [each.tolist() for each in away.survivors] == [each.tolist() for each in trace.survivors]
            assert away.encoder_tokens.tolist() == trace.encoder_tokens.tolist()


@kinds
@torch.no_grad()
def test_in_bf16_budgets_are_met_and_a_budget_of_all_changes_no_bit(kind: str):
    model, inputs = deepcopy(saved(kind).model).bfloat16(), batch(kind)
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    plain = model(**inputs).logits
    wanted = [round(0.5 * count) for count in (inputs["input_ids"] == model.config.image_token_id).sum(1).tolist()]
    for options in [*PRUNERS, *INSIDE.get(kind, [])]:
        with prune(model, make(options), 1.0, seeds=range(3)):
            assert torch.equal(model(**inputs).logits, plain)
        with prune(model, make(options), 0.5, seeds=range(3)) as trace:
            logits = model(**inputs).logits
        assert logits.dtype == torch.bfloat16 and logits.isfinite().all()
        if options.name != "sparsevlm":
            assert trace.llm_visual[:, -1].tolist() == wanted


def asked(kind: str, processor: Any) -> dict[str, Tensor]:
    processor.tokenizer.padding_side = "left"
    ask = asking(processor, families()[kind].prompt)
    prompts, images = [ask(question) for question in QUESTIONS], [[picture(row)] for row in range(3)]
    inputs = processor(images=images, text=prompts, padding=True, return_tensors="pt")
    return {name: value for name, value in inputs.items() if name != "labels"}


VIDEOS = {
    "qwen2_vl": "Qwen2VLVideoProcessor",
    "qwen2_5_vl": "Qwen2VLVideoProcessor",
    "llava_onevision": "LlavaOnevisionVideoProcessor",
    "smolvlm": "SmolVLMVideoProcessor",
    "internvl": "InternVLVideoProcessor",
}


@kinds
def test_folders_as_older_versions_of_transformers_wrote_them_are_read(kind: str, tmp_path: Path):
    """The image processor in a file of its own, under the name of the fast one, beside that of videos."""
    folder = tmp_path / "model"
    shutil.copytree(saved(kind).folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    settings = json.loads((folder / "processor_config.json").read_text())
    images = settings.pop("image_processor") | {"processor_class": settings["processor_class"]}
    images["image_processor_type"] += "Fast"
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    (folder / "processor_config.json").write_text(json.dumps(settings))
    if kind in VIDEOS:
        content = {"video_processor_type": VIDEOS[kind], "size": {"shortest_edge": 256, "longest_edge": 4096}}
        (folder / "video_preprocessor_config.json").write_text(json.dumps(content))
    new, old = asked(kind, saved(kind).processor), asked(kind, load_processor(str(folder), "model.path"))
    assert new.keys() == old.keys() and all(torch.equal(value, old[name]) for name, value in new.items())


@pytest.mark.skipif(not is_torchvision_available(), reason="torchvision is not here: pip install -e .[vision]")
@kinds
@torch.no_grad()
def test_processors_that_use_torchvision_give_what_those_give_that_use_pillow(kind: str):
    """Resizing rounds otherwise: by one of 256 levels; tokens, shapes and what is kept are the same."""
    home = saved(kind)
    used = home.processor.image_processor
    assert not type(used).__name__.endswith("Pil")
    plain: Any = getattr(transformers, f"{type(used).__name__}Pil")
    other = deepcopy(home.processor)
    other.image_processor = plain.from_pretrained(home.folder)
    ours, theirs = asked(kind, home.processor), asked(kind, other)
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}
    level = 1 / 255 / min(used.image_std)
    for name, value in ours.items():
        if name == "pixel_values":
            assert (value - theirs[name]).abs().max() <= 2.01 * level
        else:
            assert torch.equal(value, theirs[name])
    traces = []
    for inputs in (ours, theirs):
        with prune(home.model, make(o.DivPruneOptions()), 0.25, seeds=range(3)) as trace:
            home.model(**inputs)
        traces.append(trace)
    assert traces[0].llm_visual.tolist() == traces[1].llm_visual.tolist()
    assert traces[0].survivors[1].tolist() == traces[1].survivors[1].tolist()
