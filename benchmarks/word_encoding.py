"""Words of a batch encoded in buckets of about their length, each distinct one once, beside all padded to the longest.

python -m benchmarks.word_encoding [--device cuda] [--windows 16] [--size 1024] [--repeats 5] [--no-record]

The encoder of `hierarchical-transformer` (two blocks of width 96) and running words of English leads of Wikipedia, with
gradients. Both give the same vectors. Promise: at least 3x as fast.
"""

import argparse
import statistics
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks.record import record
from recipes.core.data.text.domains import domain_documents
from recipes.core.process.clock import clock
from recipes.tokenization.words.config import BYTES, WordModelConfig, WordsConfig
from recipes.tokenization.words.corpus import hierarchy_batch, words_of
from recipes.tokenization.words.model import WordModel
from recipes.tokenization.words.units import byte_units

PROMISE = 3.0
LONGEST = 32


def batch_of(windows: int, size: int) -> dict[str, Tensor]:
    """Windows of so many bytes from documents that are read one behind the other."""
    units, words = byte_units(), list[bytes]()
    for document in domain_documents("wiki-en"):
        words += words_of(document.text, WordsConfig(longest=LONGEST))
    ends = np.cumsum([len(word) for word in words])
    stops = np.searchsorted(ends, size * np.arange(1, windows + 1))
    rows = np.split(np.arange(int(stops[-1])), stops[:-1])
    return hierarchy_batch([units.spell([words[number] for number in row]) for row in rows], units)


def padded(model: WordModel, batch: dict[str, Tensor], end: int) -> Tensor:
    """All running words, padded to the longest word there may be."""
    running = batch["sequence"][batch["sequence"] >= 0]
    words = torch.nn.functional.pad(batch["words"], (0, LONGEST - batch["words"].shape[1]), value=end)[running]
    return model.to_word(model.pooled(words, batch["lengths"][running]))


def bucketed(model: WordModel, batch: dict[str, Tensor]) -> Tensor:
    """Distinct words in buckets, then one for each running word."""
    return model.encode(batch["words"], batch["lengths"])[batch["sequence"][batch["sequence"] >= 0]]


def seconds(call: Callable[[], Tensor]) -> float:
    """Of a forward and its backward."""
    start = clock()
    call().square().mean().backward()  # type: ignore[no-untyped-call]
    return clock() - start


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-record", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    units = byte_units()
    model = WordModel(WordModelConfig(units=BYTES, unit_width=96), units, 8, 0).to(options.device)
    batch = {name: value.to(options.device) for name, value in batch_of(options.windows, options.size).items()}
    ways = {"padded": lambda: padded(model, batch, units.end), "bucketed": lambda: bucketed(model, batch)}
    with torch.no_grad():
        difference = float((ways["padded"]() - ways["bucketed"]()).abs().max())
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(options.repeats + 1):
        for name, call in ways.items():
            taken = seconds(call)
            times[name] += [taken] if turn else []
    ratios = [one / other for one, other in zip(times["padded"], times["bucketed"], strict=True)]
    result = {
        "windows": options.windows,
        "size": options.size,
        "words": int((batch["sequence"] >= 0).sum()),
        "distinct": len(batch["words"]),
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "ratio": statistics.median(ratios),
        "promise": PROMISE,
        "difference": difference,
    }
    print(result)
    if not options.no_record:
        record("word_encoding", options.device, result)


if __name__ == "__main__":
    main()
