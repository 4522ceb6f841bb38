"""All that a GPU is asked once: the tests marked `gpu`, then the benchmarks beside others, in at most eight minutes.

    python -m benchmarks.gpu [--device cpu] [--parts tests,cross_entropy]

Tests run in several processes, benchmarks alone behind them. A part is cut off where its time is up; one summary stands
at the end, and the exit code is 1 if any part failed. Models and data that ship are fetched before the time is counted.
`--device cpu` rehearses the same on the CPU with small sizes, and leaves no results.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.record import RESULTS
from recipes.core.storage.assets import ASSETS
from recipes.core.storage.cache import home

ROOT = Path(__file__).resolve().parents[1]
PYTEST = ("pytest", "-m", "gpu", "-p", "no:cacheprovider", "--dist", "worksteal", "--durations", "5")


@dataclass(frozen=True)
class Part:
    """A step: what is called after `python -m`, and the seconds it may take on a GPU and on a CPU."""

    name: str
    words: tuple[str, ...]
    seconds: int
    rehearsal: tuple[str, ...] = ()
    rehearsal_seconds: int = 1800


# The limits of CUDA add up to 470 seconds.
PARTS = (
    Part("tests", (*PYTEST, "-n", "8", "--timeout", "150"), 260, (*PYTEST, "-n", "2")),
    Part(
        "cross_entropy",
        ("benchmarks.cross_entropy", "--dtype", "bfloat16", "--repetitions", "7"),
        70,
        ("benchmarks.cross_entropy", "--vocabulary", "512", "--length", "32", "--width", "32", "--repetitions", "2"),
    ),
    Part(
        "alignment",
        ("benchmarks.alignment", "--parts", "time,memory", "--lengths", "mixed", "--steps", "12"),
        140,
        ("benchmarks.alignment", "--parts", "time", "--lengths", "mixed", "--steps", "2", "--batch", "1"),
    ),
)


def main(device: str, names: list[str]) -> int:
    """Run the parts one after another and say how each ended."""
    if device == "cuda":
        subprocess.run([sys.executable, "-m", "cli.app", "assets", "fetch", *ASSETS], cwd=ROOT, check=True)
    began, lines, failed = time.monotonic(), list[str](), False
    for part in PARTS:
        if names and part.name not in names:
            continue
        print(f"== {part.name}", flush=True)
        start, before = time.monotonic(), _written()
        code = _run(part, device)
        files = sorted(path.name for path, when in _written().items() if before.get(path) != when)
        ending = "ok" if code == 0 else "out of time" if code is None else f"failed ({code})"
        lines.append(f"{part.name:16}{ending:14}{time.monotonic() - start:6.0f} s  {', '.join(files)}")
        failed |= code != 0
    print("\n" + "\n".join([*lines, f"{'all':16}{'':14}{time.monotonic() - began:6.0f} s  on {device}"]))
    return int(failed)


def _run(part: Part, device: str) -> int | None:
    """The exit code of a part, None if its time was up."""
    is_cpu = device == "cpu"
    words = part.rehearsal if is_cpu else part.words
    if words[0].startswith("benchmarks."):
        words = (*words, "--device", device)
    # One cache for all processes of the tests, and results of a rehearsal where nobody takes them for any.
    variables = {"STEELYARD_TEST_DEVICE": device, "STEELYARD_TEST_HOME": str(home())}
    if is_cpu:
        variables["STEELYARD_BENCHMARK_RESULTS"] = tempfile.gettempdir()
    child = subprocess.Popen(
        [sys.executable, "-m", *words], cwd=ROOT, env={**os.environ, **variables}, start_new_session=True
    )
    try:
        return child.wait(part.rehearsal_seconds if is_cpu else part.seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _end(child)


def _end(child: "subprocess.Popen[bytes]") -> None:
    """End what is left of a part with its children: the next one is to have the device alone."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _written() -> dict[Path, float]:
    return {path: path.stat().st_mtime for path in RESULTS.glob("*.json")}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--parts", default="", help="only these, of: " + ", ".join(part.name for part in PARTS))
    chosen = parser.parse_args()
    sys.exit(main(chosen.device, chosen.parts.split(",") if chosen.parts else []))
