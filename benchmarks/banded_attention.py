"""Banded attention in blocks beside full attention and beside the Longformer of `transformers`, forward and backward.

    python -m benchmarks.banded_attention [--device cuda --dtype bfloat16] [--threads 1] [--window 128] [--repeats 5]

On queries, keys and values of one text (8 heads of 64): the fused kernel over all tokens ("full"), all scores with a
mask of the band ("eager"), ours ("banded"). From hidden states, projections included: ours and Longformer's. Lengths
of 256 to 4,096 show where the band begins to gain. Promises at 4,096 tokens: at most 0.25x the time of full and 4x its
memory, at most 0.1x the time of eager, at least 1.5x as fast as Longformer. Variants take turns (medians); memory
beyond the inputs comes from a process for each. `--quick` sees that it runs and records nothing.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.cross_entropy_steps import MAXRSS_BYTES
from benchmarks.record import record
from recipes.core.process.clock import clock

TENSORS, HIDDEN = ("full", "banded", "eager"), ("ours", "longformer")
LENGTHS = (256, 512, 1024, 2048, 4096)
HEADS, WIDTH = 8, 64
TIME, MEMORY, EAGER, PEER = 0.25, 4.0, 0.1, 1.5  # promised


def main() -> int:
    """Measure, print and record; the exit code is 1 if a promise is broken."""
    options = _options()
    lengths = (64, 128) if options.quick else LENGTHS
    memory = {
        f"{variant} {length}": _child(options, variant, length)
        for length in lengths
        for variant in ((*TENSORS, *HIDDEN) if length == lengths[-1] else TENSORS[:2])
    }
    seconds = {length: _seconds(options, length, length == lengths[-1]) for length in lengths}
    rows = [
        {
            "length": length,
            **{f"{name}_seconds": statistics.median(times) for name, times in of_length.items()},
            **{f"{name}_mib": memory[f"{name} {length}"] / 2**20 for name in of_length},
        }
        for length, of_length in seconds.items()
    ]
    longest, last = seconds[lengths[-1]], lengths[-1]
    promises = {
        f"time, of full (at most {TIME})": (ratio := _ratio(longest, "banded", "full"), ratio <= TIME),
        f"memory, of full (at most {MEMORY:g})": (
            held := memory[f"banded {last}"] / max(memory[f"full {last}"], 1),
            held <= MEMORY,
        ),
        f"time, of eager (at most {EAGER})": (eager := _ratio(longest, "banded", "eager"), eager <= EAGER),
        f"speed, of Longformer's (at least {PEER})": (peer := _ratio(longest, "longformer", "ours"), peer >= PEER),
    }
    crossover = next((row["length"] for row in rows if row["banded_seconds"] < row["full_seconds"]), None)
    for name, (value, kept) in promises.items():
        print(f"{name}: {value:.3g}, {'kept' if kept else 'NOT KEPT'}")
    print(f"faster than full from {crossover} tokens on")
    result = {
        "setting": {"window": options.window, "heads": HEADS, "width": WIDTH, "dtype": options.dtype},
        "repeats": options.repeats,
        "rows": rows,
        "crossover": crossover,
        "promises": {name: {"measured": value, "kept": kept} for name, (value, kept) in promises.items()},
    }
    print(json.dumps(result, indent=2))
    if options.quick:
        return 0
    record("banded_attention", options.device, result)
    return int(not all(kept for _, kept in promises.values()))


def _ratio(seconds: dict[str, list[float]], one: str, other: str) -> float:
    """Median of the ratios of the same turns."""
    return statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))


def _seconds(options: argparse.Namespace, length: int, everything: bool) -> dict[str, list[float]]:
    """Seconds of every turn of every variant, behind one that warms up."""
    import torch

    torch.set_num_threads(options.threads)
    names = (*TENSORS, *HIDDEN) if everything else TENSORS[:2]
    steps = {name: _step(options, name, length) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(options.repeats + 1):
        for name in names if turn % 2 else names[::-1]:
            start = clock()
            steps[name]()
            if turn:
                seconds[name].append(clock() - start)
    return seconds


def _step(options: argparse.Namespace, variant: str, length: int) -> Callable[[], None]:
    """Forward and backward of a variant; gradients are thrown away."""
    import torch

    dtype = getattr(torch, options.dtype)
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Any:
        return torch.randn(*shape, generator=generator).to(options.device, dtype).requires_grad_()

    if variant in HIDDEN:
        inputs = [random(1, length, HEADS * WIDTH)]
        attend, parameters = _module(options, variant, length)
    else:
        inputs, parameters = [random(1, HEADS, length, WIDTH) for _ in range(3)], []
        attend = _attention(options, variant, length)

    def step() -> None:
        torch.autograd.grad(attend(*inputs).sum(), [*inputs, *parameters], allow_unused=True)

    return step


def _attention(options: argparse.Namespace, variant: str, length: int) -> Callable[..., Any]:
    """A function of queries, keys and values."""
    import torch

    from recipes.core.models.banded import banded_attention

    if variant == "full":
        return torch.nn.functional.scaled_dot_product_attention
    if variant == "banded":
        return lambda q, k, v: banded_attention(q, k, v, options.window)
    places = torch.arange(length, device=options.device)
    far = (places[:, None] - places).abs() > options.window // 2
    return lambda q, k, v: (q @ k.mT * WIDTH**-0.5).masked_fill(far, -torch.inf).softmax(-1) @ v


def _module(options: argparse.Namespace, variant: str, length: int) -> tuple[Callable[..., Any], list[Any]]:
    """Self-attention from hidden states to what it says, and its parameters."""
    import torch
    from transformers import BertConfig, BertModel, LongformerConfig
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    from recipes.core.models.banded import use_banded_attention

    shape: dict[str, Any] = {"hidden_size": HEADS * WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": 1}
    shape["attention_probs_dropout_prob"] = 0.0
    extra: dict[str, Any] = {}
    if variant == "ours":
        model = BertModel(BertConfig(vocab_size=2, **shape), add_pooling_layer=False)
        use_banded_attention(model, options.window)
        block: Any = model.encoder.layer[0]
        attention: Any = block.attention.self
    else:
        attention = LongformerSelfAttention(LongformerConfig(**shape, attention_window=[options.window]), 0)
        nothing = torch.zeros(1, length, device=options.device)
        extra = {"attention_mask": nothing, "is_index_masked": nothing < 0, "is_index_global_attn": nothing > 0}
        extra["is_global_attn"] = False
    attention.to(options.device, getattr(torch, options.dtype))
    return lambda hidden: attention(hidden, **extra)[0], list(attention.parameters())


def _child(options: argparse.Namespace, variant: str, length: int) -> int:
    """Bytes that one step of a variant needs beyond its inputs, in a process of its own."""
    settings = {**vars(options), "variant": variant, "length": length}
    settings.pop("quick")
    arguments = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    root = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    command = [sys.executable, "-m", "benchmarks.banded_attention", *arguments]
    done = subprocess.run(command, cwd=root, env=environment, stdout=subprocess.PIPE, encoding="utf-8", check=True)
    return int(done.stdout)


def _measure_memory(options: argparse.Namespace) -> int:
    import torch

    torch.set_num_threads(options.threads)
    _step(options, options.variant, options.window)()  # libraries make their own buffers on first use
    step = _step(options, options.variant, options.length)
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    before = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * resource.getpagesize()
    step()
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_BYTES - before)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--variant", choices=(*TENSORS, *HIDDEN), help=argparse.SUPPRESS)
    parser.add_argument("--length", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    chosen = _options()
    if chosen.variant:
        print(_measure_memory(chosen))
    else:
        sys.exit(main())
