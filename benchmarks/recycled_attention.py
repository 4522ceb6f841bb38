"""A decoding step with recycled attention beside one with full attention, at long context.

    python -m benchmarks.recycled_attention [--device cuda] [--threads 2] [--context 8192] [--keys 1024] [--stride 10]

SmolLM2-135M, fp32 (bf16 on CUDA), one text, static caches of both. A step is everything that a token costs: the model's
forward, the head, the likeliest token. Full attention is SDPA over the static cache of all keys, the query heads of a
group packed into one, so that no key is repeated. Keys and values of the prompt are random numbers: how long a step
takes does not depend on what they say, and nobody has to wait for a prompt of 8,192 tokens. Both take turns, stride by
stride; of each the median over strides. The share of attention is that of a full step: what its time is more than
that of a step behind 16 tokens. Promise: at least 1.15x.
"""

import argparse
import json
import statistics
import sys
from typing import Any

import torch

from benchmarks.record import record
from recipes.core.models.config import SmolLM2TextConfig
from recipes.core.models.head import output_head
from recipes.core.models.text import build_language_model, build_text_tokenizer
from recipes.core.process.clock import clock
from recipes.decoding.recycled_attention.config import FULL, RECYCLED, CacheConfig
from recipes.decoding.recycled_attention.stepping import Stepper

LEAST = 1.15
SHORT = 16


def main(options: argparse.Namespace) -> int:
    """Measure, compare and record."""
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    config = SmolLM2TextConfig()
    model = build_language_model(config, build_text_tokenizer(config, (), ""), 0).eval().to(options.device)
    lm = model.language_model.to(torch.bfloat16) if options.device == "cuda" else model.language_model
    caches = {
        "full": CacheConfig(name=FULL),
        "recycled": CacheConfig(name=RECYCLED, k=options.keys, stride=options.stride),
    }
    steps = options.stride * (options.rounds + 1)
    steppers = {name: _stepper(lm, cache, options.context - steps, steps) for name, cache in caches.items()}
    steppers["short"] = _stepper(lm, caches["full"], SHORT, steps)
    seconds: dict[str, list[float]] = {name: [] for name in steppers}
    for _ in range(options.rounds + 1):  # the first warms up
        for name, stepper in steppers.items():
            seconds[name].append(_stride(lm, stepper, options))
    medians = {name: 1000 * statistics.median(each[1:]) / options.stride for name, each in seconds.items()}
    reads = [float(options.keys + 1)] * (options.stride - 1) + [float(options.context)]
    result = {
        "context": options.context,
        "keys": options.keys,
        "stride": options.stride,
        "ms_per_step": medians,
        "speed_up": medians["full"] / medians["recycled"],
        "attention_share": 1 - medians["short"] / medians["full"],
        "keys_read": statistics.mean(reads),
        "cache_bytes": {name: steppers[name].cache_bytes for name in caches},
    }
    print(json.dumps(result, indent=2))
    record("recycled_attention", options.device, result)
    return int(result["speed_up"] < LEAST)


def _stepper(model: Any, cache: CacheConfig, prompt: int, steps: int) -> Stepper:
    """A text whose prompt has random keys and values."""
    shape, draw = model.config, torch.Generator().manual_seed(0)
    size = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    stepper = Stepper(model, cache, prompt + steps)

    def random(heads: int) -> torch.Tensor:
        return torch.randn(1, heads, prompt, size, generator=draw).to(model.device, model.dtype)

    parts = [random(shape.num_attention_heads), *(random(shape.num_key_value_heads) for _ in range(2))]
    stepper.begin(*parts, scale=size**-0.5)
    return stepper


def _stride(model: Any, stepper: Stepper, options: argparse.Namespace) -> float:
    """Seconds of as many steps as lie between two full ones."""
    head, token, start = output_head(model), 1000, clock()
    for _ in range(options.stride):
        token = int(head.logits(stepper.step(token)).argmax())
    return clock() - start


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--keys", type=int, default=1024)
    parser.add_argument("--stride", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=6)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main(_options()))
