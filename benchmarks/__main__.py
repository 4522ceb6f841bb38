"""`python -m benchmarks [NAME ...]`: run all benchmarks, or the named ones, one process each."""

import subprocess
import sys
from pathlib import Path

HELPERS = (
    *("__init__", "__main__", "record", "clock", "gpu", "gpu_outcomes"),
    *("alignment_trainer", "contenders", "cross_entropy_steps"),
)
NAMES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in HELPERS)


def main(names: list[str]) -> int:
    """Run the named benchmarks one after another; the exit code is the worst of theirs."""
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        print(f"unknown benchmark {unknown[0]!r}; choose from {', '.join(NAMES)}", file=sys.stderr)
        return 2
    return max(subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode for name in names or NAMES)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
