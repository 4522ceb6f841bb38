"""XTR's scoring stage beside gathering the candidates' tokens, and both with the search of tokens before them.

    python -m benchmarks.token_retrieval [--passages 100000] [--approximate]

Synthetic vectors of length 1: passages of 55 tokens and 128 numbers, near the direction of one of their topics (167
passages each); queries of 16 tokens of four topics. Each query token returns k' = 100 tokens, some 600 passages in
all, of which a candidate owns 2.5 pairs, as in the paper. Promise: the scoring stage takes at most a thirtieth of
gathering. With the exact search of all tokens, which both need, little of that is left; `--approximate` searches in
inverted lists (faiss, extra `ann`), whose centres are learnt first.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import normalize

from benchmarks.clock import timed
from benchmarks.record import record
from recipes.core.models.nearest import Nearest
from recipes.retrieval.encoders import TokenVectors
from recipes.retrieval.xtr.config import SearchConfig
from recipes.retrieval.xtr.search import TokenIndex, score, score_fully

WIDTH, TOKENS, QUERY_TOKENS, K_PRIME = 128, 55, 16, 100
PER_TOPIC, TOPICS_OF_A_QUERY = 167, 4
NOISE = 1.0  # length of what is drawn for each token, beside that of its topic
PROMISE, PROBES = 30.0, 16


def main(options: argparse.Namespace) -> int:
    """Measure, record; the exit code is 1 if the promise is broken."""
    torch.set_num_threads(options.threads)
    passages, queries = corpus(options.passages, options.queries)
    settings = SearchConfig(k_prime=K_PRIME, sweep=())
    index, built = timed(lambda: TokenIndex(passages, PROBES if options.approximate else None))
    searched = [timed(lambda each=each: index.search(each, K_PRIME)) for each in queries]
    near, search = [result for result, _ in searched], [seconds for _, seconds in searched]
    together = timed(lambda: index.search(np.concatenate(queries), K_PRIME))[1] / len(queries)
    rows = compare(index, settings, queries, near, options.repetitions)
    by_tokens, gathered = (statistics.median(rows[name]) for name in ("by_tokens", "gathered"))
    alone = statistics.median(search)
    result = {
        "passages": options.passages, "tokens": len(passages.values), "width": WIDTH, "k_prime": K_PRIME,
        "queries": len(queries), "query_tokens": QUERY_TOKENS,
        "search": "inverted lists" if options.approximate else "exact",
        "candidates": statistics.mean(rows["candidates"]), "tokens_of_a_candidate": statistics.mean(rows["tokens"]),
        "largest_violation": max(rows["violation"]), "build_seconds": built,
        "seconds": {"search_one_query": alone, "search_together": together, "score_by_returned_tokens": by_tokens,
                    "gather_and_score": gathered},
        "ratios": {
            "scoring": gathered / by_tokens,
            "end_to_end": (alone + gathered) / (alone + by_tokens),
            "end_to_end_together": (together + gathered) / (together + by_tokens),
        },
    }  # fmt: skip
    print(json.dumps(result, indent=2))
    name = "token_retrieval_lists" if options.approximate else "token_retrieval"
    if options.record:
        record(name, "cpu", result)
    return int(gathered / by_tokens < PROMISE)


def corpus(passages: int, queries: int) -> tuple[TokenVectors, list[np.ndarray]]:
    """Vectors of all tokens, and of those of each query."""
    generator = torch.Generator().manual_seed(0)
    topics = normalize(torch.randn(max(passages // PER_TOPIC, TOPICS_OF_A_QUERY), WIDTH, generator=generator), dim=1)
    values = torch.randn(passages * TOKENS, WIDTH, generator=generator).mul_(NOISE / WIDTH**0.5)
    of_passage = torch.randint(len(topics), (passages,), generator=generator)
    for start in range(0, passages, 1000):  # so that no second copy of all of them is made
        rows = values[start * TOKENS : (start + 1000) * TOKENS]
        rows += topics[of_passage[start : start + 1000]].repeat_interleave(TOKENS, 0)
        rows /= rows.norm(dim=1, keepdim=True)
    asked = []
    for _ in range(queries):
        chosen = topics[torch.randint(len(topics), (TOPICS_OF_A_QUERY,), generator=generator)]
        noise = torch.randn(QUERY_TOKENS, WIDTH, generator=generator).mul_(NOISE / WIDTH**0.5)
        asked.append(normalize(chosen.repeat_interleave(QUERY_TOKENS // TOPICS_OF_A_QUERY, 0) + noise, dim=1).numpy())
    return TokenVectors(values.numpy(), np.arange(1, passages + 1, dtype=np.int64) * TOKENS), asked


def compare(
    index: TokenIndex, settings: SearchConfig, queries: Sequence[np.ndarray], near: Sequence[Nearest], repetitions: int
) -> dict[str, list[float]]:
    """Seconds of both ways from what was returned to a score of each candidate, the two taking turns."""
    rows: dict[str, list[float]] = {name: [] for name in ("by_tokens", "gathered", "candidates", "tokens", "violation")}
    for turn in range(repetitions + 1):
        for query, returned in zip(queries, near, strict=True):
            scored, by_tokens = timed(lambda returned=returned: score(returned, index, settings))
            full, gathered = timed(lambda query=query, scored=scored: score_fully(query, index, scored.passages))
            if turn == 0:  # a warm-up, and what is the same in every turn
                bounds = dict(zip(scored.passages.tolist(), scored.scores.tolist(), strict=True))
                pairs = zip(full.passages.tolist(), full.scores.tolist(), strict=True)
                rows["violation"].append(max(value - bounds[passage] for passage, value in pairs))
                rows["candidates"].append(float(len(scored.passages)))
                rows["tokens"].append(float(scored.tokens.double().mean()))
            else:
                rows["by_tokens"].append(by_tokens)
                rows["gathered"].append(gathered)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=100_000, help="3 GB of memory at 100,000")
    parser.add_argument("--queries", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--approximate", action="store_true", help="search in inverted lists; needs faiss")
    parser.add_argument("--no-record", dest="record", action="store_false", help="print only, to try it")
    sys.exit(main(parser.parse_args()))
