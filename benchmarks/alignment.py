"""Preference training beside `trl.DPOTrainer`, and what a SparsePO step costs beside a DPO step.

    python -m benchmarks.alignment --threads 2 [--peer-python PYTHON]

Both trainers run the whole way that users run, each in a process of its own: SmolLM2-135M, the same pairs in the same
global batches, reference log-probs precomputed, AdamW with the same settings, no dropout. Both run with gradient
checkpointing, the default of `trl`, and without, the default here. For time they take turns step by step, the others
waiting. Memory is the peak of a step above what lies there before it (model and optimizer state), in processes of
their own whose allocator gives all memory back. Pairs are of mixed or of equal length (in words); those of `short` have
equal answers behind short prompts. The targets stand in benchmarks/README.md.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.alignment_trainer import OURS, PEERS, SYSTEMS, prepare_run, run_keys
from benchmarks.record import record
from recipes.core.process.clock import clock

WARM_UP = 1  # steps that are not counted: the optimizer's state is made in the first
LONGEST = 75  # words of a prompt and of an answer, about 100 tokens
SHORT = 8
# Words of the shortest prompt, the longest prompt, the shortest and the longest answer.
LENGTHS = {
    "mixed": (SHORT, LONGEST, SHORT, LONGEST),
    "equal": (LONGEST, LONGEST, LONGEST, LONGEST),
    "short": (SHORT, SHORT, LONGEST, LONGEST),
}


def main(options: argparse.Namespace) -> None:
    """Measure the chosen parts, print and record each."""
    with tempfile.TemporaryDirectory() as name:
        folders = {lengths: Path(name) / lengths for lengths in options.lengths.split(",")}
        for lengths, folder in folders.items():
            folder.mkdir()
            _write_pairs(folder / "pairs.jsonl", options.steps * options.batch, *LENGTHS[lengths])
        for part in options.parts.split(","):
            result = {"threads": options.threads, "setting": _setting(options), **PARTS[part](folders, options)}
            print(json.dumps(result, indent=2))
            record(NAMES[part], options.device, result)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=4, help="pairs per step")
    parser.add_argument("--arm-steps", type=int, default=6, help="steps of SparsePO and DPO in turn")
    parser.add_argument("--lengths", default="mixed,equal,short", help="of the pairs")
    parser.add_argument("--parts", default="memory,time,arms", help="which to measure, each written to its own file")
    parser.add_argument("--peer-python", default=sys.executable, help="a Python that has Steelyard and trl")
    return parser.parse_args()


def _setting(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("threads", "steps", "batch", "arm_steps")}


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


class _Child:
    """A process that trains one step at a time, each on request."""

    def __init__(self, system: str, folder: Path, options: argparse.Namespace, environment: dict[str, str]) -> None:
        python = options.peer_python if system in PEERS else sys.executable
        arguments = [f"--{name}={getattr(options, name)}" for name in ("device", "threads", "steps", "batch")]
        command = [python, "-m", "benchmarks.alignment_trainer", f"--system={system}", f"--folder={folder}", *arguments]
        variables = {"OMP_NUM_THREADS": str(options.threads), "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", **environment}
        self.process = subprocess.Popen(
            command,
            cwd=Path(__file__).resolve().parents[1],
            env={**os.environ, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        self.steps: list[dict[str, float]] = []
        self._read()  # until it is ready

    def step(self) -> None:
        """Have one step done."""
        print("go", file=self.process.stdin, flush=True)
        self.steps.append(self._read())

    def finish(self) -> dict[str, Any]:
        """What it sends at its end, beside its counted steps."""
        outcome = self._read()
        self.process.wait()
        return {**outcome, "steps": self.steps[WARM_UP:]}

    def stop(self) -> None:
        """End it if it still runs."""
        self.process.kill()
        self.process.wait()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a trainer ended with {self.process.wait()}")
        return dict(json.loads(line))


def _alone(system: str, folder: Path, options: argparse.Namespace) -> float:
    """Bytes of the largest step beyond model and optimizer state."""
    give_back = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    few = argparse.Namespace(**{**vars(options), "steps": min(options.steps, WARM_UP + 4)})
    child = _Child(system, folder, few, give_back)
    try:
        for _ in range(few.steps):
            child.step()
        return max(step["bytes"] for step in child.finish()["steps"])
    finally:
        child.stop()


def _memory(folders: dict[str, Path], options: argparse.Namespace) -> dict[str, Any]:
    """Peaks of a step in MiB, and Steelyard's over those of its peers."""
    peaks: dict[str, dict[str, float]] = {}
    for lengths in options.lengths.split(","):
        peaks[lengths] = {}
        for system in SYSTEMS:
            peaks[lengths][system] = _alone(system, folders[lengths], options) / 2**20
            print(f"pairs of {lengths} length, {system}: {peaks[lengths][system]:,.0f} MiB", flush=True)
    ratios = {
        lengths: {peer: {system: mib[system] / mib[peer] for system in OURS} for peer in PEERS}
        for lengths, mib in peaks.items()
    }
    return {"activation_mib": peaks, "memory_ratio": ratios}


def _time(folders: dict[str, Path], options: argparse.Namespace) -> dict[str, Any]:
    """Pairs per second in turn, and how far apart the losses are, on pairs of each length."""
    results = {}
    for lengths, folder in folders.items():
        results[lengths] = _compared(_taking_turns(folder, options), options)
        print(f"pairs of {lengths} length: {results[lengths]['speed_ratio']}", flush=True)
    return results


def _taking_turns(folder: Path, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    with ExitStack() as stack:
        children = {}
        for system in SYSTEMS:
            children[system] = _Child(system, folder, options, {})
            stack.callback(children[system].stop)
        for number in range(options.steps):
            for system in sorted(SYSTEMS, reverse=bool(number % 2)):
                children[system].step()
        return {system: child.finish() for system, child in children.items()}


def _compared(outcomes: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Speed and losses beside those of each peer."""
    batches = {tuple(outcome["batches"][: options.steps]) for outcome in outcomes.values()}
    if len(batches) > 1:
        raise SystemExit("the trainers saw different batches")
    seconds = {system: [step["seconds"] for step in outcomes[system]["steps"]] for system in SYSTEMS}
    losses = {system: outcomes[system]["losses"] for system in SYSTEMS}
    gaps = [abs(a - b) for other in SYSTEMS for a, b in zip(losses["steelyard"], losses[other], strict=True)]
    return {
        "pairs_per_second": {system: options.batch / statistics.median(steps) for system, steps in seconds.items()},
        "speed_ratio": {
            peer: {
                system: _spread([b / a for a, b in zip(seconds[system], seconds[peer], strict=True)]) for system in OURS
            }
            for peer in PEERS
        },
        "largest_loss_gap": max(gaps),
        "losses": losses,
        "step_seconds": seconds,
        "trl": outcomes["trl"]["version"],
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
    main(_options())
