"""Weighted cross-entropy in chunks beside full logits: peak extra memory, time, largest relative difference.

    python -m benchmarks.cross_entropy --device cpu --threads 2

Also `F.linear_cross_entropy(reduction="none")`, in chunks of its own choice, where torch has it (2.13 and later), and
the fused losses of Liger and of Cut Cross-Entropy (bf16 only), where they are installed (`.[gpu]`) and the device
runs them. A peer that fails or is not ready in time is left out, and the result says why.
Time is measured in one process, the variants taking turns: median over the repetitions, and of the ratios to full
logits in the same repetition. Liger and Cut Cross-Entropy, which Triton compiles, join when all others are written
down. Memory of a CUDA device is read there, too; on the CPU it is the growth of the peak resident set of a process for
each variant.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.cross_entropy_steps import PEERS, measure_memory, measure_time
from benchmarks.record import record

TITLES = {
    "full": "full logits",
    "weighted": "weighted_cross_entropy",
    "chunked": "the same, chunks of {chunk:,}",
    "recomputing": "token_nll",
    "torch": "F.linear_cross_entropy",
    "liger": "Liger",
    "cce": "Cut Cross-Entropy",
}


def main() -> None:
    """Measure every variant, print the table and write it down, on CUDA also before the compiled peers join."""
    options = _options()
    # Before anything large is loaded here: a child's peak resident set starts at its parent's size.
    measured: dict[str, Any] = {}
    for measured in _children_lines(options, "time", "full"):
        if options.device == "cuda":
            _write(options, measured)
    if options.device == "cpu":
        measured["memory"] = _memory_by_variant(options, measured)
        _write(options, measured)


def _memory_by_variant(options: argparse.Namespace, measured: dict[str, Any]) -> dict[str, int]:
    """Bytes of each variant, each in a process of its own; a peer that fails there becomes absent."""
    memory = {}
    for variant in list(measured["seconds"]):
        try:
            [line] = _children_lines(options, "memory", variant)
        except subprocess.CalledProcessError:
            if variant not in PEERS:
                raise
            del measured["seconds"][variant]
            measured["absent"][variant] = "it failed where its memory was measured"
            continue
        memory[variant] = line["bytes"]
    return memory


def _write(options: argparse.Namespace, measured: dict[str, Any]) -> None:
    """Print and record what is known so far."""
    memory, seconds = measured["memory"], measured["seconds"]
    rows = [
        {
            "variant": TITLES[variant].format(chunk=options.chunk),
            "peak_extra_mib": memory[variant] / 2**20,
            "memory_ratio": memory[variant] / (memory["full"] or 1),
            **_speed(seconds[variant], seconds["full"]),
            **measured["differences"][variant],
        }
        for variant in seconds
    ]
    setting = {name: value for name, value in vars(options).items() if name not in ("measure", "variant")}
    result = {"threads": options.threads, "setting": setting, "rows": rows, "absent": measured["absent"]}
    print(_table(result))
    for peer, why in measured["absent"].items():
        print(f"{TITLES[peer]}: {why}")
    name = f"cross_entropy-threads{options.threads}" if options.device == "cpu" else "cross_entropy"
    record(name, options.device, result)


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
    parser.add_argument("--variant", choices=tuple(TITLES), help=argparse.SUPPRESS)
    return parser.parse_args()


def _children_lines(options: argparse.Namespace, measure: str, variant: str) -> Iterator[dict[str, Any]]:
    """What a process of its own measures, line by line as it comes. Raises CalledProcessError if it fails."""
    settings = {**vars(options), "measure": measure, "variant": variant}
    arguments = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    command = [sys.executable, "-m", "benchmarks.cross_entropy", *arguments]
    root = Path(__file__).resolve().parents[1]
    with subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout
        for line in process.stdout:
            yield json.loads(line)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


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
        for line in [measure_memory(chosen)] if chosen.measure == "memory" else measure_time(chosen):
            print(json.dumps(line), flush=True)
    else:
        main()
