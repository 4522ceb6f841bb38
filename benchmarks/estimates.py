"""The memory that a dry run announces beside the memory that the run takes.

    python -m benchmarks.estimates [--cases sparsepo,sparsepo+lora,...] [--steps 3] [--tokens 512]

Runs of a few steps at SmolLM2-135M (and `prior` beside them), each a process of its own with one thread: with gradient
checkpointing and without, with adapters and without. Memory is what no file backs ("RssAnon"), the peak of the process
from its start to its end. Promise: an estimate within 25% of it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.record import record
from recipes.core.config.compose import compose
from recipes.core.config.registry import ROOT
from recipes.core.models.memory import Memory
from recipes.core.training.needs import process_memory, training_estimate

PROMISE = 0.25
MIB = 2**20
EVERY = 0.05  # seconds between two looks at a process
LENGTH = 128
COMMON = ("budget=smoke", "tracker=none", "trainer.threads=1", "evaluation.watch_every=1000")
RECIPES = {
    "sparsepo": ("arm=dpo", "model=smollm2-135m", "data=preferences", "reference.steps=0", "evaluation.samples=1")
    + (f"data.max_tokens={LENGTH}", "data.max_new_tokens=4", "data.test_prompts=1", "evaluation.heatmap=0"),
    "rho-1": ("model=smollm2-135m", f"data.length={LENGTH}", "data.characters=20000", "evaluation.test_sequences=1")
    + ("evaluation.probe_batches=1", "evaluation.heatmap=0"),
    "prior": ("model=smollm2-135m", "evaluation.examples=2", "evaluation.candidates=2", "evaluation.captions=0")
    + ("evaluation.heatmap=0", "evaluation.watch_examples=2", "data=easy-vqa", "data.max_tokens=53"),
}
OPTIONS = {"checkpointing": "trainer.gradient_checkpointing=true", "lora": "lora.rank=8"}
CASES = [
    "+".join((recipe, *options))
    for recipe in RECIPES
    for options in ((), ("checkpointing",), ("lora",), ("lora", "checkpointing"))
]


def main(options: argparse.Namespace) -> int:
    """Measure, print and record; the exit code is 1 if the promise is broken."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        rows = list(_rows(options, Path(name)))
    record("estimates", "cpu", {"steps": options.steps, "tokens": options.tokens, "runs": rows})
    return int(any(abs(row["estimate_to_peak"] - 1) > PROMISE for row in rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=CASES, type=lambda text: text.split(","), help="which of the runs")
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps of a run")
    parser.add_argument("--tokens", type=int, default=512, help="most tokens of a forward")
    options = parser.parse_args()
    if unknown := next((case for case in options.cases if case not in CASES), None):
        parser.error(f"there is no run {unknown!r}; choose from {', '.join(CASES)}")
    return options


def _rows(options: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    for number, case in enumerate(options.cases):
        words = _words(case, options, folder)
        estimate = training_estimate(compose(words[0], words[1:]), "cpu")
        assert estimate is not None
        peak = _peak([*words, f"outputs={folder / str(number)}"])
        row = {"run": case, **_mib(estimate), "peak_mib": round(peak / MIB)}
        row["estimate_to_peak"] = round(process_memory(estimate, "cpu") / peak, 3)
        print(json.dumps(row), flush=True)
        yield row


def _words(case: str, options: argparse.Namespace, folder: Path) -> list[str]:
    recipe, *more = case.split("+")
    words = [recipe, *COMMON, *RECIPES[recipe], *(OPTIONS[name] for name in more)]
    tokens = {"sparsepo": 2 * LENGTH, "rho-1": LENGTH, "prior": LENGTH // 2}[recipe]
    words += [f"trainer.max_steps={options.steps}", f"trainer.batch_size={options.tokens // tokens}"]
    if recipe == "sparsepo":
        words.append(f"data.path={_write_pairs(folder / 'pairs.jsonl')}")
    if recipe == "rho-1":
        words.append(f"reference.path={_model_folder()}")
    return words


def _write_pairs(path: Path) -> Path:
    """Pairs whose answers are cut at the longest length."""
    rows = [{"prompt": f"Count {n}", "chosen": " yes" * 999, "rejected": " no" * 999} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _model_folder() -> str:
    """SmolLM2-135M: a reference that is not trained in the run."""
    from recipes.core.models.config import SmolLM2TextConfig
    from recipes.core.models.smollm2 import backbone_folder

    return backbone_folder(SmolLM2TextConfig())


def _mib(estimate: Memory) -> dict[str, int]:
    parts = ("weights", "frozen", "gradients", "optimizer", "activations")
    whole = {"estimate_mib": round(process_memory(estimate, "cpu") / MIB)}
    return {f"{name}_mib": round(getattr(estimate, name) / MIB) for name in parts} | whole


def _peak(words: list[str]) -> int:
    """Run a recipe; the most anonymous memory that its process had at a time, in bytes."""
    command = [sys.executable, "-m", "cli.app", "run", *words]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=log)
        peak = 0
        while process.poll() is None:
            peak = max(peak, _anonymous(process.pid))
            time.sleep(EVERY)
        if process.returncode:
            log.seek(0)
            raise RuntimeError(f"{' '.join(words)} ended with {process.returncode}:\n{log.read()[-2000:]}")
    return peak


def _anonymous(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:  # it has ended
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


if __name__ == "__main__":
    sys.exit(main(_options()))
