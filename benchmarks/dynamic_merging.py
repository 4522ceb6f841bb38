"""Merging by an index beside recounting; rows of new tokens; and what a shorter prompt saves beside what merging costs.

    python -m benchmarks.dynamic_merging [--parts merging,rows,prefill] [--texts 64] [--length 512] [--quick]

merging: dynamic merges of 64 texts of 512 tokens (documents that ship, cut by SmolLM2's tokenizer), 20, 100 and 400 of
them, by the recipe's index and by the released way, which counts all pairs anew for each merge. Both end with the same
tokens. Promise: at least 20x at 400 merges.
rows: 50,000 new tokens, each spelled by two to four tokens of SmolLM2's vocabulary: the merges that spell them, and
their rows, as the mean of the pieces and by a ridge regression, whose fit is done once for a model and timed apart; no
encoder. Promise: below 5 s each.
prefill: SmolLM2-135M reads prompts of 256 tokens, one by one, whole and merged halfway and all the way to words.
Seconds of the forward, and of merging with rows that nobody has asked for before. No promise: both are reported.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice, pairwise
from typing import Any

import numpy as np
import torch

from benchmarks.clock import timed
from benchmarks.record import record
from recipes.core.data.text.domains import domain_documents
from recipes.core.data.text.text_ids import TextIds
from recipes.core.models.config import SmolLM2TextConfig
from recipes.core.models.head import last_hidden_state
from recipes.core.models.text import build_language_model, build_text_tokenizer
from recipes.tokenization.dynamic_tokenization.config import FVT, RIDGE, RowsConfig
from recipes.tokenization.dynamic_tokenization.merging import Merger, merged_lengths
from recipes.tokenization.dynamic_tokenization.method import absolute, merges_for
from recipes.tokenization.dynamic_tokenization.token_rows import TokenRows, lookup_of, make_predictor
from recipes.tokenization.dynamic_tokenization.vocabulary import BaseVocabulary, Tokens, read_base

Join = Callable[[int, int], int | None]
MERGES, NEW, REDUCTIONS = (20, 100, 400), 50_000, (50, 100)
LEAST_RATIO, MOST_SECONDS = 20.0, 5.0
DOMAINS = ("sotu-modern", "python-reference", "licences")


def recount(texts: Sequence[Sequence[int]], join: Join, merges: int) -> list[list[int]]:
    """The same merges by counting all pairs of the batch anew for each: short, slow, and what the index must equal."""
    rows, joined = [list(text) for text in texts], dict[tuple[int, int], int | None]()
    for _ in range(merges):
        counts: dict[tuple[int, int], int] = {}
        for row in rows:
            for pair in pairwise(row):
                if pair not in joined:
                    joined[pair] = join(*pair)
                if joined[pair] is not None:
                    counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            break
        best = max(counts, key=counts.__getitem__)  # of equal ones the first that was counted
        rows = [_replace(row, best, joined[best]) for row in rows]
    return rows


def _replace(row: list[int], pair: tuple[int, int], token: Any) -> list[int]:
    merged, at = list[int](), 0
    while at < len(row):
        if (row[at], row[at + 1] if at + 1 < len(row) else None) == pair:
            merged.append(token)
            at += 2
        else:
            merged.append(row[at])
            at += 1
    return merged


def by_index(texts: Sequence[Sequence[int]], join: Join, merges: int) -> list[list[int]]:
    """The texts after so many merges."""
    merger = Merger(texts, join)
    for _ in range(merges):
        if merger.step() is None:
            break
    return merger.texts()


def main(options: argparse.Namespace) -> int:
    """Measure the chosen parts, print and record; the exit code is 1 if a promise is broken."""
    torch.set_num_threads(options.threads)
    config = SmolLM2TextConfig()
    tokenizer = build_text_tokenizer(config, (), "")
    base = read_base(tokenizer, len(tokenizer), "model")
    result, broken = dict[str, Any](), False
    if "merging" in options.parts:
        result["merging"] = _merging(base, options)
        broken |= result["merging"][-1]["ratio"] < LEAST_RATIO
    if {"rows", "prefill"} & set(options.parts):
        model = build_language_model(config, tokenizer, 0).language_model.eval()
    if "rows" in options.parts:
        result["rows"] = _rows(base, model, options)
        broken |= max(each["seconds"] for each in result["rows"]) > MOST_SECONDS
    if "prefill" in options.parts:
        result["prefill"] = _prefill(base, model, options)
    print(json.dumps(result, indent=2))
    if not options.quick:
        record("dynamic_merging", "cpu", result)
    return int(broken and not options.quick)


def texts(base: BaseVocabulary, count: int, length: int) -> list[list[int]]:
    """So many texts of so many tokens each, of several domains in turn."""
    ids = TextIds(base.tokenizer)
    documents = (document for group in zip(*map(domain_documents, DOMAINS), strict=False) for document in group)
    rows = (ids.ids(document.text) for document in documents)
    pieces = (row[at : at + length] for row in rows for at in range(0, len(row) - length + 1, length))
    return list(islice(pieces, count))


def _merging(base: BaseVocabulary, options: argparse.Namespace) -> list[dict[str, Any]]:
    batch, lines = texts(base, options.texts, options.length), []
    for merges in MERGES[: 1 if options.quick else None]:
        ours, seconds = timed(partial(by_index, batch, _join(base), merges))
        theirs, slow = timed(partial(recount, batch, _join(base), merges))
        if ours != theirs:
            raise AssertionError(f"the index and the count end with other tokens after {merges} merges")
        shorter = absolute(sum(map(len, ours)), sum(map(len, batch)))
        lines.append({"merges": merges, "index_s": seconds, "recount_s": slow, "ratio": slow / seconds, "abs": shorter})
    return lines


def _join(base: BaseVocabulary) -> Join:
    return Tokens(base).join


def _rows(base: BaseVocabulary, model: Any, options: argparse.Namespace) -> list[dict[str, Any]]:
    draw, lines = np.random.default_rng(0), []
    known = np.array([token for token, data in enumerate(base.table) if data])
    count = NEW // 100 if options.quick else NEW
    for name in (FVT, RIDGE):
        tokens, config = Tokens(base), RowsConfig(name=name, cache=0)
        spelled = [draw.choice(known, size=int(size)).tolist() for size in draw.integers(2, 5, 2 * count)]
        numbers = dict.fromkeys(tokens.number(b"".join(base.table[piece] for piece in row), row) for row in spelled)
        new = [number for number in numbers if not tokens.is_base(number)][:count]
        predictor, fit = timed(partial(make_predictor, config, base, lookup_of(model)))
        rows, seconds = timed(partial(TokenRows(config, tokens, lookup_of(model), predictor.rows), new))
        lines.append({"rows": name, "tokens": len(rows), "seconds": seconds, "fit_s": fit})
    return lines


def _prefill(base: BaseVocabulary, model: Any, options: argparse.Namespace) -> dict[str, Any]:
    prompts = texts(base, 2 if options.quick else options.prompts, options.prompt)
    config, lookup = RowsConfig(name=FVT), lookup_of(model)
    predictor = make_predictor(config, base, lookup)
    seconds: dict[str, list[float]] = {}
    for prompt in prompts:
        lengths = merged_lengths([prompt], _join(base))
        for reduction in (0, *REDUCTIONS):
            tokens = Tokens(base)
            merges = merges_for(lengths, reduction)
            (cut,), merging = timed(partial(by_index, [prompt], tokens.join, merges))
            (rows,), looking = timed(partial(TokenRows(config, tokens, lookup, predictor.rows).of_texts, [cut]))
            _, forward = timed(partial(_read, model, rows))
            for name, value in (("merging", merging), ("rows", looking), ("forward", forward), ("tokens", len(cut))):
                seconds.setdefault(f"{name}@{reduction}", []).append(value)
    medians: dict[str, Any] = {name: statistics.median(values) for name, values in seconds.items()}
    for reduction in REDUCTIONS:
        medians[f"saved@{reduction}"] = medians["forward@0"] - medians[f"forward@{reduction}"]
        medians[f"cost@{reduction}"] = medians[f"merging@{reduction}"] + medians[f"rows@{reduction}"]
    return {"prompts": len(prompts), **medians}


@torch.no_grad()
def _read(model: Any, rows: torch.Tensor) -> torch.Tensor:
    return last_hidden_state(model, inputs_embeds=rows[None])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="merging,rows,prefill", type=lambda text: text.split(","))
    parser.add_argument("--texts", type=int, default=64, help="of a batch that is merged")
    parser.add_argument("--length", type=int, default=512, help="tokens of such a text")
    parser.add_argument("--prompts", type=int, default=20, help="that are read")
    parser.add_argument("--prompt", type=int, default=256, help="tokens of a prompt")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="see that it runs: few of all, nothing recorded")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main(_options()))
