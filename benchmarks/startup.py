"""How soon the command line answers.

    python -m benchmarks.startup

Times `steelyard --help` and a config error from process start to end, median of five. Promises: 0.5 s and 1.5 s.
"""

import json
import statistics
import subprocess
import sys
import time

from benchmarks.record import record
from recipes.core.config.registry import ROOT

REPEATS = 5
COMMANDS = {"help": (["--help"], 0, 0.5), "config_error": (["run", "prior", "trainer.max_step=1"], 2, 1.5)}


def main() -> int:
    """Measure, print and record; the exit code is 1 if a promise is broken."""
    result = {
        name: _measure(words, code) | {"promise_seconds": limit} for name, (words, code, limit) in COMMANDS.items()
    }
    print(json.dumps(result, indent=2))
    record("startup", "cpu", result)
    return int(any(entry["median_seconds"] > entry["promise_seconds"] for entry in result.values()))


def _measure(words: list[str], code: int) -> dict[str, float]:
    """Median and slowest wall time of a command line in processes of its own, one warm-up before."""
    _seconds(words, code)
    seconds = [_seconds(words, code) for _ in range(REPEATS)]
    return {"median_seconds": statistics.median(seconds), "slowest_seconds": max(seconds)}


def _seconds(words: list[str], code: int) -> float:
    began = time.perf_counter()
    ended = subprocess.run([sys.executable, "-m", "cli.app", *words], cwd=ROOT, capture_output=True, encoding="utf-8")
    took = time.perf_counter() - began
    if ended.returncode != code:
        raise RuntimeError(f"steelyard {' '.join(words)} ended with {ended.returncode}: {ended.stderr}")
    return took


if __name__ == "__main__":
    sys.exit(main())
