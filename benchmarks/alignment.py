"""Preference training beside `trl.DPOTrainer`, and what a SparsePO step costs beside a DPO step.

    python -m benchmarks.alignment --threads 2 [--peer-python PYTHON]

Both trainers run the whole way that users run, each in a process of its own: SmolLM2-135M, the same pairs in the same
global batches, reference log-probs precomputed, AdamW with the same settings, no dropout. Both run with gradient
checkpointing, the default of `trl`, and without, the default here; on CUDA `trl` runs with the kernels of Liger, too.
For time they take turns step by step, the others waiting. Memory is the peak of a step above what lies there before it
(model and optimizer state): on the CPU in processes of their own whose allocator gives all memory back, on CUDA in the
same steps as time (`--parts time`). A trainer that fails is left out, and the result says why. Pairs are of mixed or of
equal length (in words); those of `short` have equal answers behind short prompts. The targets stand in
benchmarks/README.md.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.alignment_trainer import OURS, PEERS, prepare_run, run_keys, systems
from benchmarks.contenders import WARM_UP, Contender, ContenderFailed, taking_turns
from benchmarks.record import record
from recipes.core.process.clock import clock

LONGEST = 75  # words of a prompt and of an answer, about 100 tokens
SHORT = 8
# Words of the shortest prompt, the longest prompt, the shortest and the longest answer.
LENGTHS = {
    "mixed": (SHORT, LONGEST, SHORT, LONGEST),
    "equal": (LONGEST, LONGEST, LONGEST, LONGEST),
    "short": (SHORT, SHORT, LONGEST, LONGEST),
}


def main(options: argparse.Namespace) -> int:
    """Measure the chosen parts, print and record each; the exit code is 1 if one of our own trainers failed."""
    failed: set[str] = set()
    with tempfile.TemporaryDirectory() as name:
        folders = {lengths: Path(name) / lengths for lengths in options.lengths.split(",")}
        for lengths, folder in folders.items():
            folder.mkdir()
            _write_pairs(folder / "pairs.jsonl", options.steps * options.batch, *LENGTHS[lengths])
        for part in options.parts.split(","):
            result = PARTS[part](folders, options)
            print(json.dumps(result, indent=2))
            _write(part, result, options)
            failed |= OURS.keys() & {system for one in (result, *result.values()) for system in one.get("absent", ())}
    for system in sorted(failed):
        print(f"{system} failed", file=sys.stderr)
    return int(bool(failed))


def _write(part: str, result: dict[str, Any], options: argparse.Namespace) -> None:
    record(NAMES[part], options.device, {"threads": options.threads, "setting": _setting(options), **result})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=4, help="pairs per step")
    parser.add_argument("--arm-steps", type=int, default=6, help="steps of SparsePO and DPO in turn")
    parser.add_argument("--lengths", default="mixed,equal,short", help="of the pairs")
    parser.add_argument("--parts", default="memory,time,arms", help="which to measure, each written to its own file")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--peer-python", default=sys.executable, help="a Python that has Steelyard and trl")
    return parser.parse_args()


def _setting(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("threads", "steps", "batch", "arm_steps", "precision")}


def _write_pairs(path: Path, count: int, *words_of: int) -> None:
    """Passages of speeches of so many words: how one goes on is chosen, something else rejected."""
    from recipes.core.storage.assets import asset_path

    words = [
        path.read_text(encoding="utf-8", errors="ignore").split() for path in sorted(asset_path("sotu").rglob("*.txt"))
    ]
    words = [speech for speech in words if len(speech) > 4 * LONGEST]
    draw = random.Random(0)
    prompts, answers = words_of[:2], words_of[2:]

    def passage(lengths: tuple[int, ...]) -> list[str]:
        speech = draw.choice(words)
        at = draw.randrange(len(speech) - sum(lengths))
        ends = [at + sum(lengths[:place]) for place in range(len(lengths) + 1)]
        return [" ".join(speech[start:end]) for start, end in zip(ends, ends[1:], strict=False)]

    with path.open("w", encoding="utf-8") as sink:
        # A tenth of the pairs is kept for testing.
        for _ in range(count + count // 4 + 4):
            lengths = (draw.randint(*prompts), draw.randint(*answers), draw.randint(*answers))
            (prompt, chosen), (rejected,) = passage(lengths[:2]), passage(lengths[2:])
            sink.write(json.dumps({"prompt": prompt, "chosen": f" {chosen}", "rejected": f" {rejected}"}) + "\n")


def _alone(system: str, folder: Path, options: argparse.Namespace) -> float:
    """MiB of the largest step beyond model and optimizer state, on the CPU. Raises ContenderFailed."""
    give_back = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    few = argparse.Namespace(**{**vars(options), "steps": min(options.steps, WARM_UP + 4)})
    contender = Contender(system, folder, few, give_back)
    try:
        for _ in range(few.steps):
            contender.step()
        return _peak(contender.finish())
    finally:
        contender.stop()


def _peak(outcome: dict[str, Any]) -> float:
    """MiB of the largest counted step beyond model and optimizer state."""
    return max(step["bytes"] for step in outcome["steps"][WARM_UP:]) / 2**20


def _memory(folders: dict[str, Path], options: argparse.Namespace) -> dict[str, Any]:
    """Peaks of a step in MiB, and Steelyard's over those of its peers; each alone."""
    peaks: dict[str, dict[str, float]] = {}
    absent: dict[str, str] = {}
    for lengths in options.lengths.split(","):
        peaks[lengths] = {}
        for system in systems(options.device):
            try:
                peaks[lengths][system] = _alone(system, folders[lengths], options)
            except ContenderFailed as error:
                absent[system] = str(error)
                continue
            print(f"pairs of {lengths} length, {system}: {peaks[lengths][system]:,.0f} MiB", flush=True)
    return _peaks(peaks, absent)


def _peaks(peaks: dict[str, dict[str, float]], absent: dict[str, str]) -> dict[str, Any]:
    ratios = {
        lengths: {
            peer: {system: mib[system] / mib[peer] for system in OURS if system in mib} for peer in PEERS if peer in mib
        }
        for lengths, mib in peaks.items()
    }
    return {"activation_mib": peaks, "memory_ratio": ratios, "absent": absent}


def _time(folders: dict[str, Path], options: argparse.Namespace) -> dict[str, Any]:
    """Pairs per second in turn, and how far apart the losses are, on pairs of each length.

    CUDA counts the memory of each process apart, so that there it is that of the same steps.
    """
    results: dict[str, Any] = {}
    peaks: dict[str, dict[str, float]] = {}
    absent: dict[str, str] = {}
    for lengths, folder in folders.items():
        outcomes, failed = taking_turns(systems(options.device), folder, options)
        absent |= failed
        results[lengths] = {**_compared(outcomes, options), "absent": failed}
        print(f"pairs of {lengths} length: {results[lengths]['speed_ratio']}", flush=True)
        if options.device == "cuda":
            peaks[lengths] = {system: _peak(outcome) for system, outcome in outcomes.items()}
            _write("memory", _peaks(peaks, absent), options)
    return results


def _compared(outcomes: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Speed and losses of those that ended, ours beside those of each peer."""
    batches = {tuple(outcome["batches"][: options.steps]) for outcome in outcomes.values()}
    if len(batches) > 1:
        raise SystemExit("the trainers saw different batches")
    seconds = {system: [step["seconds"] for step in outcome["steps"][WARM_UP:]] for system, outcome in outcomes.items()}
    losses = {system: outcome["losses"] for system, outcome in outcomes.items()}
    ours, peers = ([one for one in group if one in outcomes] for group in (OURS, PEERS))
    first = losses[ours[0]] if ours else []
    gaps = [abs(a - b) for other in losses.values() for a, b in zip(first, other, strict=False)]
    return {
        "pairs_per_second": {system: options.batch / statistics.median(steps) for system, steps in seconds.items()},
        "speed_ratio": {
            peer: {
                system: _spread([b / a for a, b in zip(seconds[system], seconds[peer], strict=True)]) for system in ours
            }
            for peer in peers
        },
        "largest_loss_gap": max(gaps, default=None),
        "losses": losses,
        "step_seconds": seconds,
        "trl": next((outcomes[peer]["version"] for peer in peers), None),
    }


def _spread(values: list[float]) -> dict[str, Any]:
    return {"median": statistics.median(values), "quartiles": statistics.quantiles(values, n=4)}


def _arms(folders: dict[str, Path], options: argparse.Namespace) -> dict[str, Any]:
    """What a SparsePO step costs beside a DPO step, on two models."""
    pairs = [f"data.path={folders['mixed'] / 'pairs.jsonl'}", *run_keys(options)]
    return {
        "small-lm": _arms_of(["model.width=64", "budget=smoke"], 10 * options.arm_steps, options),
        "smollm2-135m": _arms_of(pairs, options.arm_steps, options),
    }


def _arms_of(keys: list[str], steps: int, options: argparse.Namespace) -> dict[str, Any]:
    """Steps of SparsePO and of DPO in turn, from the batch to the updated weights."""
    import torch

    torch.set_num_threads(options.threads)
    runs = {arm: prepare_run(arm, keys, options.device) for arm in ("dpo", "sparsepo_common")}
    optimizers = {}
    for arm, (_, _, training) in runs.items():
        training.model.to(options.device).train()
        optimizers[arm] = torch.optim.AdamW(training.model.parameters(), lr=1e-5, fused=True)
    seconds: dict[str, list[float]] = {arm: [] for arm in runs}
    for number in range(WARM_UP + steps):
        for arm in sorted(runs, reverse=bool(number % 2)):
            config, _, training = runs[arm]
            seconds[arm].append(_step(training, optimizers[arm], number, config.trainer.batch_size, options.device))
    counted = {arm: steps[WARM_UP:] for arm, steps in seconds.items()}
    ratios = [sparse / plain for plain, sparse in zip(*counted.values(), strict=True)]
    medians = {arm: statistics.median(steps) for arm, steps in counted.items()}
    return {"step_seconds": medians, "ratio": _spread(ratios)}


def _step(training: Any, optimizer: Any, number: int, size: int, device: str) -> float:

    items = [training.dataset[i % len(training.dataset)] for i in range(number * size, (number + 1) * size)]
    batch = {name: value.to(device) for name, value in training.collate(items).items() if name != "ids"}
    began = clock()
    loss, _ = training.objective(training.model, batch, training.objective.normalizer(batch))
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return clock() - began


PARTS = {"memory": _memory, "time": _time, "arms": _arms}
NAMES = {"memory": "alignment_memory", "time": "alignment", "arms": "sparsepo_step"}


if __name__ == "__main__":
    sys.exit(main(_options()))
