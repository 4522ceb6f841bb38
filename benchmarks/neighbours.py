"""The search of neighbours beside the blocked matrix product alone.

    python -m benchmarks.neighbours [--keys 100000] [--queries 4096] [--k 3] [--threads 1]

Keys of 384 numbers, about the directions of 2,000 subjects, lie in documents of 20; queries are such keys with some
noise. For each query the k keys with the largest cosine are searched that are not of its document. Alone, the same
blocks of products are computed into one buffer and nothing is made of them. Both take turns. Promise: the search
takes at most 1.3x the time.
"""

import argparse
import json
import sys

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.clock import timed
from benchmarks.record import record
from recipes.core.models.nearest import BLOCK, nearest

WIDTH, SUBJECTS, DOCUMENT, TURNS, MOST_RATIO = 384, 2000, 20, 3, 1.3


def main(options: argparse.Namespace) -> int:
    """Measure, compare, record; the exit code is 1 if the promise is broken."""
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    subjects = torch.randn(SUBJECTS, WIDTH, generator=generator)
    of_key = torch.randint(SUBJECTS, (options.keys,), generator=generator)
    keys = subjects[of_key] + torch.randn(options.keys, WIDTH, generator=generator)
    chosen = torch.arange(options.queries) * (options.keys // options.queries)
    queries = keys[chosen] + 0.5 * torch.randn(options.queries, WIDTH, generator=generator)
    documents = torch.arange(options.keys) // DOCUMENT
    exclude = (documents[chosen], documents)
    seconds: dict[str, list[float]] = {"search": [], "product": []}
    for _ in range(TURNS):
        seconds["product"].append(timed(lambda: product(queries, keys))[1])
        best, took = timed(lambda: nearest(queries, keys, options.k, cosine=True, exclude=exclude))
        seconds["search"].append(took)
    assert not bool((documents[best.indices] == documents[chosen][:, None]).any())
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    ratio = medians["search"] / medians["product"]
    result = {"keys": options.keys, "queries": options.queries, "k": options.k, "seconds": medians, "ratio": ratio}
    print(json.dumps(result, indent=2))
    if options.record:
        record("neighbours", "cpu", result)
    return int(ratio > MOST_RATIO)


def product(queries: Tensor, keys: Tensor) -> None:
    """All blocks of cosines, into one buffer."""
    asked, tried = normalize(queries, dim=1), normalize(keys, dim=1)
    buffer = torch.empty(BLOCK, BLOCK)
    for start in range(0, len(tried), BLOCK):
        part = tried[start : start + BLOCK]
        for at in range(0, len(asked), BLOCK):
            rows = asked[at : at + BLOCK]
            torch.mm(rows, part.T, out=buffer[: len(rows), : len(part)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=100_000, help="that are searched")
    parser.add_argument("--queries", type=int, default=4096, help="that are asked")
    parser.add_argument("--k", type=int, default=3, help="neighbours of each")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--no-record", dest="record", action="store_false", help="leave the stored result alone")
    sys.exit(main(parser.parse_args()))
