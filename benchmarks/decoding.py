"""Speculative decoding beside `transformers` on the same model and prompts: tokens per forward, and time.

    python -m benchmarks.decoding [--device cuda] [--threads 2] [--prompts 6] [--tokens 48]

SmolLM2-135M and the first instructions that ship, greedy, prompt by prompt. All take turns at each prompt: plain
decoding of `transformers` and of Steelyard, prompt lookup of both, Token Recycling with trees of several sizes. Outputs
are compared token for token. Besides, the time of one forward behind 128 tokens by the number of tokens that it reads:
where a tree yields more tokens per step than a forward of its size costs plain ones, it saves time (`break_even`).
`memory_bound` is arithmetic, not measured: what forwards of these sizes would cost where weights, read once a forward,
or multiply-adds are all that takes time. Promise: drafting and bookkeeping take at most 10% of a step.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.record import record
from recipes.core.data.tasks.prompt_rows import load_prompts
from recipes.core.data.tasks.prompts import Prompt
from recipes.core.data.tasks.prompts_config import PromptsConfig
from recipes.core.models.config import SmolLM2TextConfig
from recipes.core.models.kv_cache import KVCache
from recipes.core.models.text import build_language_model, build_text_tokenizer
from recipes.core.process.clock import clock
from recipes.core.scoring.sampling import end_ids
from recipes.decoding.speculation import Drafter, Nothing, Speculation, verify_with
from recipes.decoding.token_recycling.drafters import Matrix, PromptLookup
from recipes.decoding.token_recycling.method import Template, published_paths, smaller

SIZES = (8, 16, 40, 80)
LOOKED_UP, NGRAM, K = 10, 3, 8
CONTEXT, REPEATS = 128, 5
LARGEST_SHARE = 0.1
GPU: dict[str, Any] = {
    "name": "H200, bf16",
    "bytes_per_second": 4.8e12,
    "operations_per_second": 9.89e14,
}  # of its data sheet, dense
Result = tuple[list[int], int, float, float]  # new tokens, forwards, seconds, seconds of drafting


def main(options: argparse.Namespace) -> int:
    """Measure, compare and record."""
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    config = SmolLM2TextConfig()
    tokenizer = build_text_tokenizer(config, (), "")
    model = build_language_model(config, tokenizer, 0).eval().to(options.device)
    prompts = load_prompts(PromptsConfig(limit=options.prompts), tokenizer)
    ways = _ways(model, tokenizer, options)
    results: dict[str, list[Result]] = {name: [] for name in ways}
    for prompt in prompts:
        for name, way in ways.items():
            results[name].append(way(prompt))
            print(f"{prompt.id} {name}: {results[name][-1][2]:.2f} s", file=sys.stderr)
    table = {name: _row(rows, results["plain"]) for name, rows in results.items()}
    forwards = {size: _forward_seconds(model, size, options.device) for size in (1, *(size + 1 for size in SIZES))}
    share = max(row["drafting_share"] for name, row in table.items() if name.startswith("recycling"))
    result = {
        "prompts": len(prompts),
        "tokens": options.tokens,
        "threads": options.threads,
        "ways": table,
        "forward_seconds": forwards,
        "break_even": {size - 1: seconds / forwards[1] for size, seconds in forwards.items() if size > 1},
        "memory_bound": memory_bound(sum(each.numel() for each in model.parameters()), tuple(forwards)),
        "drafting_share": share,
    }
    print(json.dumps(result, indent=2))
    record("decoding", options.device, result)
    return int(share > LARGEST_SHARE)


def _ways(model: Any, tokenizer: Any, options: argparse.Namespace) -> dict[str, Callable[[Prompt], Result]]:
    """Name -> what continues a prompt."""
    ends = {*end_ids(model.language_model), tokenizer.eos_token_id}

    def ours(drafter: Drafter) -> Callable[[Prompt], Result]:
        run = Speculation(model, drafter, verify_with(0.0, torch.Generator()), ends, options.tokens)

        def generate(prompt: Prompt) -> Result:
            one = run.generate(prompt)
            return one.ids, len(one.steps), one.seconds, one.drafting

        return generate

    def matrix(nodes: int) -> Drafter:
        paths = published_paths() if nodes == len(published_paths()) else smaller(published_paths(), nodes)
        return Matrix(Template(paths, K), K, len(tokenizer), options.device)

    theirs = {"transformers": {}, "transformers prompt lookup": {"prompt_lookup_num_tokens": LOOKED_UP}}
    return {
        **{name: _library(model.language_model, tokenizer, options, **more) for name, more in theirs.items()},
        "plain": ours(Nothing()),
        "prompt lookup": ours(PromptLookup(NGRAM, LOOKED_UP)),
        **{f"recycling {nodes}": ours(matrix(nodes)) for nodes in SIZES},
    }


def _library(model: Any, tokenizer: Any, options: argparse.Namespace, **more: Any) -> Callable[[Prompt], Result]:
    """The library's own decoding; its prompt is read once before, so that both measure what follows it."""

    def generate(prompt: Prompt) -> Result:
        ids = torch.tensor([prompt.ids.tolist()], device=options.device)
        calls, forward = 0, model.forward

        def counted(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            return forward(*arguments, **named)

        start = clock()
        model(input_ids=ids[:, :-1], logits_to_keep=1)
        read = clock() - start
        model.forward = counted
        try:
            start = clock()
            output = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=options.tokens, do_sample=False,
                pad_token_id=tokenizer.eos_token_id, **more,
            )  # fmt: skip
            seconds = clock() - start - read
        finally:
            del model.forward
        return output[0, ids.shape[1] :].tolist(), calls, seconds, 0.0

    return generate


def _row(rows: list[Result], plain: list[Result]) -> dict[str, float]:
    tokens, steps = sum(len(row[0]) for row in rows), sum(row[1] for row in rows)
    seconds = sum(row[2] for row in rows)
    same = sum(row[0] == other[0] for row, other in zip(rows, plain, strict=True))
    return {
        "tokens_per_step": tokens / steps,
        "tokens_per_second": tokens / seconds,
        "speed_up": (tokens / seconds) / (sum(len(row[0]) for row in plain) / sum(row[2] for row in plain)),
        "same_output": same / len(rows),
        "drafting_share": sum(row[3] for row in rows) / seconds,
    }


def _forward_seconds(model: Any, size: int, device: str) -> float:
    """Median seconds of a forward that reads so many tokens behind a text, logits of all of them included."""
    cache, vocabulary = KVCache(model.language_model), model.language_model.config.vocab_size
    draw = torch.Generator().manual_seed(0)
    cache.extend(torch.randint(vocabulary, (1, CONTEXT), generator=draw).to(device))
    ids = torch.randint(vocabulary, (1, size), generator=draw).to(device)
    seconds = []
    for _ in range(REPEATS + 1):
        fork, start = cache.fork(), clock()
        fork.head.logits(fork.extend(ids)[0])
        seconds.append(clock() - start)
    return statistics.median(seconds[1:])


def memory_bound(parameters: int, sizes: Sequence[int]) -> dict[str, Any]:
    """What forwards of some sizes cost beside one of one token on `GPU`, by arithmetic.

    A forward takes as long as its weights take to be read (2 bytes each) or its multiply-adds to be done (2 operations
    a weight and token), whichever is longer. Nothing is counted for starting kernels, nor for keys and values.

    Args:
        parameters: Weights of the model.
        sizes: Tokens that a forward reads.
    """
    read = 2 * parameters / GPU["bytes_per_second"]
    ratios = {size: max(1.0, 2 * parameters * size / GPU["operations_per_second"] / read) for size in sizes}
    return {
        **GPU,
        "forward_seconds": read,
        "tokens_for_free": int(read / (2 * parameters) * GPU["operations_per_second"]),
        "forward_ratio": ratios,
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=48)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main(_options()))
