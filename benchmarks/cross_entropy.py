"""Weighted cross-entropy in chunks beside full logits: peak extra memory, time, largest relative difference.

    python -m benchmarks.cross_entropy --device cpu --threads 2

Also `F.linear_cross_entropy(reduction="none")`, in chunks of its own choice, where torch has it (2.13 and later), and
on CUDA the fused losses of Liger and of Cut Cross-Entropy (bf16 only), where they are installed (`.[gpu]`). A peer that
fails is left out, and the result says how it failed.
Memory is measured in a process of its own for each variant (on the CPU it is the growth of the peak resident set), time
in one process with the variants taking turns: median over the repetitions, and of the ratios to full logits in the same
repetition.
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

from benchmarks.record import record
from recipes.core.process.clock import clock

TITLES = {
    "full": "full logits",
    "weighted": "weighted_cross_entropy",
    "chunked": "the same, chunks of {chunk:,}",
    "recomputing": "token_nll",
    "torch": "F.linear_cross_entropy",
    "liger": "Liger",
    "cce": "Cut Cross-Entropy",
}
VARIANTS = tuple(TITLES)
PEERS = ("torch", "liger", "cce")
MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024


def main() -> None:
    """Measure every variant, print the table and write it down."""
    options = _options()
    # Before anything large is loaded here: a child's peak resident set starts at its parent's size.
    timed = _child(options, "time", "full")
    variants = list(timed["seconds"])
    memory = {variant: _child(options, "memory", variant)["bytes"] for variant in variants}
    rows = [
        {
            "variant": TITLES[variant].format(chunk=options.chunk),
            "peak_extra_mib": memory[variant] / 2**20,
            "memory_ratio": memory[variant] / memory["full"],
            **_speed(timed["seconds"][variant], timed["seconds"]["full"]),
            **timed["differences"][variant],
        }
        for variant in variants
    ]
    setting = {name: value for name, value in vars(options).items() if name not in ("measure", "variant")}
    result = {"threads": options.threads, "setting": setting, "rows": rows, "absent": timed["absent"]}
    print(_table(result))
    for peer, why in timed["absent"].items():
        print(f"{TITLES[peer]}: {why}")
    record(
        f"cross_entropy-threads{options.threads}" if options.device == "cpu" else "cross_entropy",
        options.device,
        result,
    )


def _speed(seconds: list[float], full: list[float]) -> dict[str, Any]:
    """Seconds of a variant beside those of full logits, repetition by repetition."""
    ratios = [mine / theirs for mine, theirs in zip(seconds, full, strict=True)]
    lower, middle, upper = statistics.quantiles(ratios, n=4, method="inclusive")
    return {
        "seconds": statistics.median(seconds),
        "time_ratio": middle,
        "time_ratio_quartiles": [lower, upper],
        "seconds_all": seconds,
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--vocabulary", type=int, default=49_152)
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--length", type=int, default=2048, help="tokens of a sequence")
    parser.add_argument("--width", type=int, default=576, help="hidden size")
    parser.add_argument("--chunk", type=int, default=1024, help="the larger chunks, in tokens")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", choices=("memory", "time"), help=argparse.SUPPRESS)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def _child(options: argparse.Namespace, measure: str, variant: str) -> dict[str, Any]:
    settings = {**vars(options), "measure": measure, "variant": variant}
    arguments = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    command = [sys.executable, "-m", "benchmarks.cross_entropy", *arguments]
    root = Path(__file__).resolve().parents[1]
    process = subprocess.run(command, cwd=root, env=environment, stdout=subprocess.PIPE, encoding="utf-8", check=True)
    return dict(json.loads(process.stdout))


def _inputs(options: argparse.Namespace) -> tuple[Any, ...]:
    import torch

    tokens, dtype = options.sequences * options.length, getattr(torch, options.dtype)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, options.width, generator=generator)
    head = torch.randn(options.vocabulary, options.width, generator=generator) * options.width**-0.5
    targets = torch.randint(0, options.vocabulary, (tokens,), generator=generator)
    weights = torch.rand(tokens, generator=generator) * 2
    hidden, head = (tensor.to(options.device, dtype).requires_grad_() for tensor in (hidden, head))
    return hidden, head, targets.to(options.device), weights.to(options.device)


def _step(variant: str, hidden: Any, head: Any, targets: Any, weights: Any, chunk: int) -> Any:
    """One loss and its gradients in `.grad`."""
    from torch.nn.functional import cross_entropy

    from recipes.core.losses.kernels import token_nll, weighted_cross_entropy
    from recipes.core.models.head import OutputHead

    if variant in PEERS:
        total = (weights * _peer_losses(variant, hidden, head, targets)).sum()
    elif variant == "full":
        total = (weights * cross_entropy((hidden @ head.t()).float(), targets, reduction="none")).sum()
    elif variant == "recomputing":
        total = (weights * token_nll(hidden, OutputHead(head), targets)).sum()
    else:
        rows = chunk if variant == "chunked" else None
        total, _ = weighted_cross_entropy(hidden, OutputHead(head), targets, weights, rows)
    loss = total / len(targets)
    loss.backward()
    return loss.detach()


def _peer_losses(peer: str, hidden: Any, head: Any, targets: Any) -> Any:
    """[tokens] losses as others compute them."""
    if peer == "torch":
        from torch.nn import LinearCrossEntropyOptions
        from torch.nn.functional import linear_cross_entropy

        options = LinearCrossEntropyOptions()
        return linear_cross_entropy(hidden, head, targets, reduction="none", options=options)
    if peer == "liger":
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

        return liger_fused_linear_cross_entropy(hidden, head, targets, reduction="none")
    from cut_cross_entropy import linear_cross_entropy as cut_cross_entropy

    return cut_cross_entropy(hidden, head, targets, reduction="none")


def _measure_memory(options: argparse.Namespace) -> dict[str, Any]:
    """Bytes that one step needs beyond its inputs, the gradients it leaves included."""
    import torch

    torch.set_num_threads(options.threads)
    inputs = _inputs(options)
    small = [tensor[:8].detach().requires_grad_(tensor.is_floating_point()) for tensor in inputs]
    small[2] = small[2] % 8
    _step(options.variant, *small, options.chunk)  # libraries make their own buffers on first use
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        _step(options.variant, *inputs, options.chunk)
        return {"bytes": torch.cuda.max_memory_allocated() - before}
    before = _resident()
    _step(options.variant, *inputs, options.chunk)
    return {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_BYTES - before}


def _resident() -> int:
    """Bytes resident now (Linux), or the peak so far where only that is known."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text(encoding="utf-8").split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_BYTES


def _measure_time(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of every repetition of every variant, and largest differences from full logits.

    A difference is relative to the largest element of what full logits give.
    """
    import torch

    torch.set_num_threads(options.threads)
    inputs = _inputs(options)
    differences: dict[str, dict[str, float]] = {}
    absent: dict[str, str] = {}
    expected = _outcome("full", inputs, options.chunk)
    for variant in VARIANTS:  # also warms each variant up
        try:
            measured = _outcome(variant, inputs, options.chunk)
        except Exception as error:
            if variant not in PEERS:
                raise
            absent[variant] = f"{type(error).__name__}: {error}"
            continue
        pairs = zip(measured, expected, strict=True)
        gaps = [((ours - theirs).abs().max() / theirs.abs().max()).item() for ours, theirs in pairs]
        differences[variant] = dict(zip(("loss_gap", "grad_hidden_gap", "grad_head_gap"), gaps, strict=True))
    del expected
    variants = tuple(differences)
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    for repetition in range(options.repetitions):
        order = variants if repetition % 2 == 0 else variants[::-1]
        for variant in order:
            inputs[0].grad = inputs[1].grad = None
            seconds[variant].append(_seconds(lambda v=variant: _step(v, *inputs, options.chunk)))
    return {
        "seconds": seconds,
        "differences": differences,
        "absent": absent,
    }


def _outcome(variant: str, inputs: tuple[Any, ...], chunk: int) -> tuple[Any, Any, Any]:
    hidden, head = inputs[:2]
    hidden.grad = head.grad = None
    return _step(variant, *inputs, chunk), hidden.grad, head.grad


def _seconds(step: Callable[[], Any]) -> float:
    start = clock()
    step()
    return clock() - start


def _table(result: dict[str, Any]) -> str:
    lines = [
        f"{'':26}{'peak MiB':>10}{'ratio':>8}{'seconds':>10}{'ratio':>8}{'quartiles':>14}{'gaps: loss':>11}{'grad':>11}"
    ]
    for row in result["rows"]:
        gap = max(row["grad_hidden_gap"], row["grad_head_gap"])
        quartiles = "{:.2f} to {:.2f}".format(*row["time_ratio_quartiles"])
        lines.append(
            f"{row['variant']:26}{row['peak_extra_mib']:>10,.0f}{row['memory_ratio']:>8.2f}{row['seconds']:>10.3f}"
            f"{row['time_ratio']:>8.2f}{quartiles:>14}{row['loss_gap']:>11.1e}{gap:>11.1e}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    chosen = _options()
    if chosen.measure:
        print(json.dumps(_measure_memory(chosen) if chosen.measure == "memory" else _measure_time(chosen)))
    else:
        main()
