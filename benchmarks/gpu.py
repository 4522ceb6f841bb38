"""All that a GPU is asked once: the tests marked `gpu`, then the benchmarks beside others, in at most eight minutes.

    python -m benchmarks.gpu [--device cpu] [--parts tests,cross_entropy]

Tests run in several processes, benchmarks alone behind them. A part is cut off where its time is up: what it has
written until then stays, and says what is missing. One summary stands at the end, in `results/gpu-<device>.json`, too;
the exit code is 1 if any part failed or was cut off. Models and data that ship are fetched before the time is counted;
where they cannot be had, what needs them fails by itself. `--device cpu` rehearses the same on the CPU with small
sizes, and leaves no results.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS
from recipes.core.errors import UserError
from recipes.core.storage.assets import ASSETS, fetch
from recipes.core.storage.cache import home
from recipes.core.storage.files import write_json

ROOT = Path(__file__).resolve().parents[1]
PYTEST = ("pytest", "-m", "gpu", "-p", "no:cacheprovider", "-p", "benchmarks.gpu_outcomes", "--dist", "worksteal")
PYTEST += ("--durations", "5")
OUTCOMES = "gpu_tests"  # what the plugin writes


@dataclass(frozen=True)
class Part:
    """A step: what is called after `python -m`, and the seconds it may take on a GPU and on a CPU."""

    name: str
    words: tuple[str, ...]
    seconds: int
    rehearsal: tuple[str, ...] = ()
    rehearsal_seconds: int = 5400


# The limits of CUDA add up to 470 seconds.
PARTS = (
    Part("tests", (*PYTEST, "-n", "12", "--timeout", "150"), 260, (*PYTEST, "-n", "2")),
    Part(
        "cross_entropy",
        ("benchmarks.cross_entropy", "--dtype", "bfloat16", "--repetitions", "7"),
        80,
        ("benchmarks.cross_entropy", "--vocabulary", "512", "--length", "32", "--width", "32", "--repetitions", "2"),
    ),
    Part(
        "alignment",
        ("benchmarks.alignment", "--parts", "time", "--precision", "bf16", "--lengths", "mixed", "--steps", "12"),
        130,
        ("benchmarks.alignment", "--parts", "time,memory", "--lengths", "mixed", "--steps", "3", "--batch", "1"),
    ),
)


def main(device: str, names: list[str], results: Path) -> int:
    """Run the parts one after another and say how each ended.

    Args:
        device: "cuda" or "cpu".
        names: Of the parts; none means all.
        results: Where they write what they measure.
    """
    _fetch_assets()
    outcomes = results / f"{OUTCOMES}-{device}.json"
    outcomes.unlink(missing_ok=True)
    began, ends = time.monotonic(), list[dict[str, Any]]()
    for part in PARTS:
        if names and part.name not in names:
            continue
        print(f"== {part.name}", flush=True)
        start, before = time.monotonic(), _written(results)
        code = _run(part, device, results)
        files = sorted(path.name for path, when in _written(results).items() if before.get(path) != when)
        ending = "ok" if code == 0 else "out of time" if code is None else f"failed ({code})"
        ends.append({"part": part.name, "ended": ending, "seconds": time.monotonic() - start, "files": files})
        write_json(results / f"gpu-{device}.json", {"device": device, "parts": ends})
    lines = [f"{end['part']:16}{end['ended']:14}{end['seconds']:6.0f} s  {', '.join(end['files'])}" for end in ends]
    print("\n" + "\n".join([*lines, f"{'all':16}{'':14}{time.monotonic() - began:6.0f} s  on {device}"]))
    _print_outcomes(outcomes)
    return int(any(end["ended"] != "ok" for end in ends))


def _fetch_assets() -> None:
    """Have what ships; behind the first that cannot be had nothing waits for a network any more."""
    for name in ASSETS:
        try:
            fetch(name)
        except UserError as error:
            print(f"left out: {error}", file=sys.stderr)
            os.environ["STEELYARD_OFFLINE"] = "1"


def _run(part: Part, device: str, results: Path) -> int | None:
    """The exit code of a part, None if its time was up."""
    is_cpu = device == "cpu"
    words = part.rehearsal if is_cpu else part.words
    words += ("--device", device) if words[0].startswith("benchmarks.") else tuple(marked_files())
    # One cache for all processes of the tests.
    variables = {"STEELYARD_TEST_DEVICE": device, "STEELYARD_TEST_HOME": str(home())}
    variables["STEELYARD_BENCHMARK_RESULTS"] = str(results)
    child = subprocess.Popen(
        [sys.executable, "-m", *words], cwd=ROOT, env={**os.environ, **variables}, start_new_session=True
    )
    try:
        return child.wait(part.rehearsal_seconds if is_cpu else part.seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _end(child)


def marked_files() -> list[str]:
    """Files with tests marked `gpu`: to collect all others takes each process longer than these tests."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(path.relative_to(ROOT)) for path in files if "mark.gpu" in path.read_text(encoding="utf-8")]


def _end(child: "subprocess.Popen[bytes]") -> None:
    """End what is left of a part with its children: the next one is to have the device alone."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _print_outcomes(path: Path) -> None:
    """How many tests ended how, and what each that failed said."""
    if not path.exists():
        return
    known = json.loads(path.read_text(encoding="utf-8"))
    counts = {name: len(known[name]) for name in ("passed", "failed", "skipped", "not_run")}
    print("tests: " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()))
    for name, why in known["failed"].items():
        print(f"  {name}: {why}")


def _written(results: Path) -> dict[Path, float]:
    return {path: path.stat().st_mtime for path in results.glob("*.json")}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--parts", default="", help="only these, of: " + ", ".join(part.name for part in PARTS))
    chosen = parser.parse_args()
    some = chosen.parts.split(",") if chosen.parts else []
    if unknown := set(some) - {part.name for part in PARTS}:
        parser.error(f"unknown part {min(unknown)}; choose from {', '.join(part.name for part in PARTS)}")
    if chosen.device == "cuda":
        sys.exit(main("cuda", some, RESULTS))
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(main("cpu", some, Path(folder)))
