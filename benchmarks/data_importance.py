"""Weights of data sources: time and memory of 50 steps by the number of retrieved items.

    python -m benchmarks.data_importance [--items 100000 1000000] [--large]

Lists of 50 items of 1,000 sources, K = 10, form A, one core; each size in a process of its own, whose peak memory is
given, imports and the data included. Promise, measured with `--large`: 10,000,000 items in at most 180 CPU-seconds and
1.5 GiB. `line` is where the slope of the largest two sizes leads at 100,000,000, which the paper does in ten minutes.
"""

import argparse
import json
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

from benchmarks.record import record
from recipes.retrieval.rag_importance.method import Sources, ascend

LENGTH, SOURCES, K, STEPS = 50, 1000, 10, 50
LARGE, FAR = 10_000_000, 100_000_000
MOST_SECONDS, MOST_BYTES = 180.0, 1.5 * 2**30


def main(options: argparse.Namespace) -> int:
    """Measure all sizes and record them; the exit code is 1 if the promise is broken."""
    sizes = sorted({*options.items, *([LARGE] if options.large else [])})
    rows = {}
    for size in sizes:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            rows[size] = pool.submit(measure, size).result()
        print(f"{size:,} items: {rows[size]}", file=sys.stderr)
    result: dict[str, object] = {"length": LENGTH, "k": K, "steps": STEPS, "sizes": rows}
    if len(sizes) > 1:
        (small, large) = sizes[-2:]
        slope = (rows[large]["cpu_seconds"] - rows[small]["cpu_seconds"]) / (large - small)
        result["line"] = {FAR: rows[large]["cpu_seconds"] + slope * (FAR - large)}
    print(json.dumps(result, indent=2))
    record("data_importance", "cpu", result)
    kept = LARGE not in rows or (rows[LARGE]["cpu_seconds"] <= MOST_SECONDS and rows[LARGE]["bytes"] <= MOST_BYTES)
    return int(not kept)


def measure(items: int) -> dict[str, float]:
    """CPU-seconds and peak bytes of learning the weights from so many retrieved items, and how well they do."""
    questions, rng = items // LENGTH, np.random.default_rng(0)
    passages = max(items // 10, LENGTH)
    of_passage = rng.integers(SOURCES, size=passages)
    accuracy = rng.random(SOURCES)
    passage = rng.integers(passages, size=(questions, LENGTH))
    right = (rng.random(passage.shape, np.float32) < accuracy[of_passage[passage]]).astype(np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    learnt = ascend(right, Sources(passage, of_passage, SOURCES), K, steps=STEPS)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "seconds": time.perf_counter() - start,
        "bytes": after.ru_maxrss * 1024,
        "correlation": float(np.corrcoef(learnt.weights, accuracy)[0, 1]),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[100_000, 1_000_000], help="retrieved items")
    parser.add_argument("--large", action="store_true", help=f"{LARGE:,} as well")
    sys.exit(main(parser.parse_args()))
