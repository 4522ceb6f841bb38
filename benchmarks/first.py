"""One step of FIRST beside a written order, with SmolLM2-135M.

    python -m benchmarks.first [--device cuda] [--threads 2] [--passages 5,10,20] [--words 40] [--repeats 5] [--quick]

A prompt of n leads of Wikipedia. One step: a forward over the prompt, the head at its last token, the letters sorted.
Written: the same prompt into a cache, then as many steps as an order of n letters takes, each with the head over the
vocabulary and the likeliest token; the order is a given one, so that every turn writes all of it, whatever the model
would write. Both take turns; of each the median over the turns behind the first, which warms up. Promise: one step is
at least twice as fast on a CPU, where writing is slow, and 1.2 times on a GPU.
"""

import argparse
import json
import statistics
import sys
from typing import Any

import torch

from benchmarks.record import record
from recipes.core.models.config import SmolLM2TextConfig
from recipes.core.models.kv_cache import KVCache
from recipes.core.models.text import build_language_model, build_text_tokenizer
from recipes.core.process.clock import clock
from recipes.core.search.config import WikiSearchConfig
from recipes.core.search.leads import wiki_search
from recipes.retrieval.letters.orders import name_scores, order_of
from recipes.retrieval.letters.prompts import Asked, LetterPrompts
from recipes.retrieval.letters.reading import last_logits
from recipes.retrieval.listwise import chat_frame

LEAST = {"cpu": 2.0, "cuda": 1.2}
QUICK = {"passages": (3,), "words": 10, "repeats": 1}


def main(options: argparse.Namespace) -> int:
    """Measure, compare and record."""
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    config = SmolLM2TextConfig()
    tokenizer = build_text_tokenizer(config, (), "")
    model = build_language_model(config, tokenizer, 0).eval().to(options.device)
    lm = model.language_model.to(torch.bfloat16) if options.device == "cuda" else model.language_model
    prompts = LetterPrompts(chat_frame(tokenizer), options.words, None, "model=smollm2-135m")
    collection = wiki_search(WikiSearchConfig())
    lists = [_list(lm, prompts, collection, count, options) for count in options.passages]
    result = {"words": options.words, "threads": options.threads, "repeats": options.repeats, "lists": lists}
    print(json.dumps(result, indent=2))
    if options.quick:
        return 0
    record("first", options.device, result)
    return int(min(each["speed_up"] for each in lists) < LEAST[options.device])


def _list(model: Any, prompts: LetterPrompts, collection: Any, count: int, options: argparse.Namespace) -> Any:
    """Times of a list of so many passages."""
    asked = Asked(collection.test.texts[0], [("", text) for text in collection.passages.texts[:count]])
    prompt, letters = prompts.prompt(asked), prompts.tokens(count)
    answer = prompts.answer(list(reversed(range(count))))
    turns: dict[str, list[float]] = {"one_step": [], "written": []}
    for _ in range(options.repeats + 1):
        start = clock()
        order_of(name_scores(last_logits(model, [prompt]), [[token] for token in letters])[0])
        middle = clock()
        _write(model, prompt, answer)
        turns["one_step"].append(middle - start)
        turns["written"].append(clock() - middle)
    medians = {name: statistics.median(each[1:]) for name, each in turns.items()}
    return {
        "passages": count,
        "prompt_tokens": len(prompt),
        "decode_steps": len(answer) - 1,
        "seconds": medians,
        "seconds_of_turns": {name: each[1:] for name, each in turns.items()},
        "speed_up": medians["written"] / medians["one_step"],
        "saved": 1 - medians["one_step"] / medians["written"],
    }


def _write(model: Any, prompt: list[int], answer: list[int]) -> None:
    """A given answer behind a cache, a step a token; the last one is not read."""
    cache = KVCache(model)
    hidden, head = cache.catch_up([prompt]), cache.head
    for token in answer[:-1]:
        head.logits(hidden).argmax(-1).item()
        hidden = cache.extend(torch.tensor([[token]], device=model.device))[:, -1]
    head.logits(hidden).argmax(-1).item()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--passages", type=lambda text: tuple(map(int, text.split(","))), default=(5, 10, 20))
    parser.add_argument("--words", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="see that it runs; nothing is recorded")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK)
    return options


if __name__ == "__main__":
    sys.exit(main(_options()))
