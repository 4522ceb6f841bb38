"""What the two questions of in-context re-ranking cost beside reading the passages once.

    python -m benchmarks.passage_attention [--device cuda] [--threads 1] [--passages 24] [--words 90] [--random]

SmolLM2-135M reads a list of leads of Wikipedia, then the question of a query and that of "N/A" behind it on the same
cache, whose attention is looked at in all layers. Turns repeat; the share is that of both questions to the reading of
the list, in the same turn. Promise: at most 0.1 at 2,000 prompt tokens or more. --random tries the script with random
weights of a small shape, and records nothing.
"""

import argparse
import json
import statistics
import sys
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.record import record
from recipes.core.models.config import SmolLM2TextConfig
from recipes.core.models.text import build_language_model, build_text_tokenizer
from recipes.core.process.clock import clock
from recipes.core.search.config import WikiSearchConfig
from recipes.core.search.load import load_collection
from recipes.retrieval.icr.attention import read_lists, tail_attention
from recipes.retrieval.icr.config import PromptConfig
from recipes.retrieval.icr.reading import CONTENT_FREE, Prompts
from recipes.retrieval.letters.prompts import Asked
from recipes.retrieval.listwise import chat_frame

WHERE = "model=smollm2-135m"
MOST, PROMPT_TOKENS = 0.1, 2000  # the promised share, and for how long a list


def main(options: argparse.Namespace) -> int:
    """Measure and record; the exit code is 1 if the promise is broken."""
    torch.set_num_threads(options.threads)
    tokenizer = build_text_tokenizer(SmolLM2TextConfig(), (), "")
    model = _model(options, tokenizer).to(options.device).eval()
    prompts = Prompts(chat_frame(tokenizer), PromptConfig(words=options.words), "full", None, WHERE)
    asked = _asked(options.passages)
    listed, tails = prompts.passages(asked).ids, [prompts.tail(text) for text in (asked.text, CONTENT_FREE)]
    seconds: dict[str, list[float]] = {"list": [], "questions": []}
    for turn in range(options.repeats + 1):
        start = clock()
        cache = read_lists(model, [listed], WHERE)
        middle = clock()
        for ids, span in tails:
            tail_attention(cache, [ids], [span])
        if turn:
            seconds["list"].append(middle - start)
            seconds["questions"].append(clock() - middle)
    shares = [tail / whole for tail, whole in zip(seconds["questions"], seconds["list"], strict=True)]
    result = {
        "model": "random" if options.random else "SmolLM2-135M",
        "passages": options.passages,
        "list_tokens": len(listed),
        "question_tokens": [len(ids) for ids, _ in tails],
        "repeats": options.repeats,
        "seconds": {name: statistics.median(each) for name, each in seconds.items()},
        "share": statistics.median(shares),
        "share_range": [min(shares), max(shares)],
    }
    print(json.dumps(result, indent=2))
    if options.random:
        return 0
    record("passage_attention", options.device, result)
    return int(result["share"] > MOST and len(listed) >= PROMPT_TOKENS)


def _model(options: argparse.Namespace, tokenizer: Any) -> Any:
    if not options.random:
        return build_language_model(SmolLM2TextConfig(), tokenizer, 0).language_model
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=8192, **shape))


def _asked(count: int) -> Asked:
    """A query, its passage and others."""
    collection = load_collection(WikiSearchConfig())
    queries, passages = collection.test, collection.passages
    relevant = queries.relevant(0)
    chosen = [*relevant, *(number for number in range(len(passages)) if number not in relevant)][:count]
    return Asked(queries.texts[0], [passages.titled(number) for number in chosen])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--passages", type=int, default=24)
    parser.add_argument("--words", type=int, default=90)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--random", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main(_options()))
