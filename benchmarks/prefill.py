"""How much of the multiply-adds that pruning saves is saved in time: a LLaVA's prefill, whole and pruned.

    python -m benchmarks.prefill [--device cuda] [--threads 1]

A LLaVA with random weights and 576 image tokens (336 pixels, patches of 14), pruned to a tenth by DivPrune through the
same adapters as in a run. Whole and pruned prefills take turns; selection is part of the pruned one. The share is the
speed-up over the ratio of multiply-adds. Promise: at least 0.8.
"""

import argparse
import dataclasses
import json
import statistics
import sys
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from benchmarks.record import record
from recipes.core.process.clock import clock
from recipes.pruning.adapters import Trace, layout, prune
from recipes.pruning.options import DivPruneOptions, FullOptions
from recipes.pruning.pruners import make
from recipes.pruning.token_pruning.measuring import sample_costs

SIDE, PATCH, TEXT, IMAGE_TOKEN = 336, 14, 40, 7
PATCHES = (SIDE // PATCH) ** 2
SHAPES = {
    "cpu": {"vision": (384, 6), "text": (1024, 12)},  # width, layers
    "cuda": {"vision": (1024, 24), "text": (4096, 32)},
}


def main(options: argparse.Namespace) -> int:
    """Measure, compare and record."""
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    model = _model(options.device)
    parts = layout(model)
    # The last block is counted, too: it runs, though nobody reads what it makes.
    shape = dataclasses.replace(parts, used_blocks=parts.depth.vit)
    inputs = _inputs(options.device)
    with prune(model, make(FullOptions()), 1.0, seeds=[0]) as whole_trace:
        model(**inputs, logits_to_keep=1)
    seconds: dict[str, list[float]] = {"whole": [], "pruned": [], "selection": []}
    for turn in range(options.repeats + 1):
        whole, _ = _timed(model, inputs, None, options)
        short, trace = _timed(model, inputs, options.keep, options)
        if turn:
            for name, value in (("whole", whole), ("pruned", short), ("selection", trace.selection_seconds)):
                seconds[name].append(value)
    macs = {name: sample_costs(shape, each)[0].macs for name, each in (("whole", whole_trace), ("pruned", trace))}
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    speed_up, allowed = medians["whole"] / medians["pruned"], macs["whole"] / macs["pruned"]
    result = {
        "image_tokens": PATCHES,
        "kept": int(trace.llm_visual[0, 0]),
        "shape": SHAPES[options.device],
        "repeats": options.repeats,
        "seconds": medians,
        "gmacs": {name: value / 1e9 for name, value in macs.items()},
        "speed_up": speed_up,
        "macs_ratio": allowed,
        "share": speed_up / allowed,
        "selection_of_saved": medians["selection"] / (medians["whole"] - medians["pruned"]),
    }
    print(json.dumps(result, indent=2))
    record("prefill", options.device, result)
    return 0


def _timed(
    model: Any, inputs: dict[str, Tensor], keep: float | None, options: argparse.Namespace
) -> tuple[float, Trace]:
    """Seconds of a prefill, and what happened if it was pruned."""
    block = nullcontext() if keep is None else prune(model, make(DivPruneOptions()), keep, seeds=[0])
    start = clock()
    with block as trace:
        model(**inputs, logits_to_keep=1)
    return clock() - start, trace


def _model(device: str) -> Any:
    (seen, blocks), (width, layers) = SHAPES[device]["vision"], SHAPES[device]["text"]
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=seen,
        intermediate_size=4 * seen,
        num_hidden_layers=blocks,
        num_attention_heads=seen // 64,
        image_size=SIDE,
        patch_size=PATCH,
    )
    text = LlamaConfig(
        vocab_size=1000,
        hidden_size=width,
        intermediate_size=11 * width // 4,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
    )
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    with torch.device(device):
        model = LlavaForConditionalGeneration(
            LlavaConfig(vision_config=vision, text_config=text, image_token_id=IMAGE_TOKEN)
        )
    return model.to(dtype).eval()


def _inputs(device: str) -> dict[str, Tensor]:
    """One prompt: text, the image, text."""
    draw = torch.Generator().manual_seed(0)
    words = torch.randint(10, 1000, (1, TEXT), generator=draw)
    image = torch.full((1, PATCHES), IMAGE_TOKEN)
    ids = torch.cat([words[:, :5], image, words[:, 5:]], 1).to(device)
    pixels = torch.randn(1, 3, SIDE, SIDE, generator=draw).to(device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=tuple(SHAPES), default="cpu")
    parser.add_argument("--keep", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main(_options()))
