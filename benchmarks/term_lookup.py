"""A query of TILDEv2, which looks weights up, beside its encoding by a bi-encoder; and passages encoded by length.

    python -m benchmarks.term_lookup [--passages 100000] [--queries 200] [--texts 512] [--threads 1]

An index of random passages, 150 terms each, drawn by Zipf's law from the vocabulary of MiniLM. Each query has five
words of the tokenizer, drawn likewise, and 1,000 candidates among the passages. Both begin at the text: TILDEv2
tokenises it and sums the weights of its terms in the candidates; the bi-encoder tokenises it and encodes it with
all-MiniLM-L6-v2, and its products with the candidates' vectors come on top (`bi_encoder`). They take turns, query by
query. Promises: the 95th percentile of TILDEv2 below 20 ms, and its median at most a tenth of that of the encoding.

Then texts of different lengths are encoded: as they come in batches of 32, sorted by length as the family does it, and
by `sentence-transformers`, if that is installed (which sorts by length as well). Promise: at least 1.0x its speed.
"""

import argparse
import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from benchmarks.clock import timed
from benchmarks.record import record
from recipes.core.models.padded import BATCH_TOKENS
from recipes.core.models.sentences import SentenceEncoder, load_sentence_encoder
from recipes.core.search.collection import Passages
from recipes.core.storage.assets import asset_path
from recipes.retrieval.tildev2.expansion import Texts
from recipes.retrieval.tildev2.index import TermIndex
from recipes.retrieval.tildev2.rankers import ByEncoder, LookUp
from recipes.retrieval.tildev2.stopwords import stop_ids

TERMS, WORDS, CANDIDATES, BATCH, TURNS = 150, 5, 1000, 32, 3
MOST_MS, LEAST_RATIO, LEAST_SPEED = 20.0, 10.0, 1.0


def main(options: argparse.Namespace) -> int:
    """Measure, compare, record; the exit code is 1 if a promise is broken."""
    torch.set_num_threads(options.threads)
    rng, encoder = np.random.default_rng(0), load_sentence_encoder(None, "model")
    words = plain_words(encoder.tokenizer)
    queries = queries_of(options, rng, encoder, words)
    texts = [" ".join(draw(rng, words, length)) for length in rng.integers(5, 200, options.texts)]
    result = {"passages": options.passages, "candidates": CANDIDATES, **queries, "encoding": encodings(encoder, texts)}
    kept = queries["tildev2_ms"]["p95"] < MOST_MS and queries["ratio"] >= LEAST_RATIO
    peer = result["encoding"].get("beside_sentence_transformers")
    print(json.dumps(result, indent=2))
    if options.record:
        record("term_lookup", "cpu", result)
    return int(not kept or (peer is not None and peer < LEAST_SPEED))


def plain_words(tokenizer: Any) -> list[str]:
    """Whole words of a vocabulary that count as terms."""
    stop = stop_ids(tokenizer)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return [piece for piece, number in vocabulary if number not in stop and piece.isalpha()]


def draw(rng: np.random.Generator, words: list[str], count: int) -> list[str]:
    """Words by Zipf's law."""
    return [words[rank] for rank in ranks(rng, len(words), count)]


def ranks(rng: np.random.Generator, total: int, count: int) -> np.ndarray:
    """Ranks below `total`, rank r with a probability like 1 / (r + 1), by the inverse of its sum."""
    return np.minimum(np.exp(rng.random(count) * np.log(total + 1)).astype(np.int64) - 1, total - 1)


def queries_of(
    options: argparse.Namespace, rng: np.random.Generator, encoder: SentenceEncoder, words: list[str]
) -> dict[str, Any]:
    """Milliseconds a query of both, in turn."""
    numbers = np.array(encoder.tokenizer.convert_tokens_to_ids(words))
    rows = (numbers[np.unique(ranks(rng, len(numbers), TERMS))] for _ in range(options.passages))
    stop = stop_ids(encoder.tokenizer)
    index = TermIndex.build(((row, rng.random(len(row)) * 3) for row in rows), stop)
    look_up = LookUp(index, Texts(encoder.tokenizer, [], [], stop, stop), 16, options.passages)
    by_encoder = ByEncoder(Passages(["a"], [""], ["a text"]), [0], "cpu")
    vectors = rng.normal(size=(CANDIDATES, by_encoder.vectors.shape[1])).astype(np.float32)
    milliseconds: dict[str, list[float]] = {"tildev2": [], "query_encoding": [], "bi_encoder": []}
    for _ in range(options.queries + 1):  # the first one warms up
        text = " ".join(draw(rng, words, WORDS))
        candidates = rng.choice(options.passages, CANDIDATES, replace=False)
        looked_up = timed(lambda t=text, c=candidates: look_up.score(t, c))[1]
        vector, encoding = timed(lambda t=text: by_encoder.encode(t))
        products = timed(lambda v=vector: vectors @ v)[1]
        for name, each in (("tildev2", looked_up), ("query_encoding", encoding), ("bi_encoder", encoding + products)):
            milliseconds[name].append(1000 * each)
    spread = {f"{name}_ms": quantiles(each[1:]) for name, each in milliseconds.items()}
    ratio = spread["query_encoding_ms"]["median"] / spread["tildev2_ms"]["median"]
    return {**spread, "ratio": ratio, "index_bytes_a_passage": index.nbytes / options.passages}


def quantiles(values: list[float]) -> dict[str, float]:
    """Median and 95th percentile."""
    return {"median": float(np.median(values)), "p95": float(np.percentile(values, 95))}


def encodings(encoder: SentenceEncoder, texts: list[str]) -> dict[str, Any]:
    """Texts a second: as they come, by length, by the package of others; medians of some turns."""
    ways: dict[str, Callable[[], object]] = {
        "as_they_come": lambda: [encoder.embed(texts[at : at + BATCH]) for at in range(0, len(texts), BATCH)],
        "by_length": lambda: encoder.embed(texts, BATCH_TOKENS),
    }
    if find_spec("sentence_transformers"):
        from sentence_transformers import SentenceTransformer

        peer = SentenceTransformer(str(asset_path("all-minilm-l6-v2")), device="cpu")
        ways["sentence_transformers"] = lambda: peer.encode(texts, batch_size=BATCH, normalize_embeddings=True)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TURNS):
        for name, work in ways.items():
            seconds[name].append(timed(work)[1])
    speeds = {name: len(texts) / float(np.median(each)) for name, each in seconds.items()}
    result: dict[str, Any] = {"texts_a_second": speeds}
    if "sentence_transformers" in speeds:
        result["beside_sentence_transformers"] = speeds["by_length"] / speeds["sentence_transformers"]
    else:
        print("sentence-transformers is not installed: nothing to compare with", file=sys.stderr)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=100_000, help="of the index")
    parser.add_argument("--queries", type=int, default=200, help="that are timed")
    parser.add_argument("--texts", type=int, default=512, help="that are encoded")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--no-record", dest="record", action="store_false", help="leave the stored result alone")
    sys.exit(main(parser.parse_args()))
