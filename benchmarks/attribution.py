"""ReAGent's probes of all tokens of a text beside those of `inseq`, on the same model with the same sampler.

    python -m benchmarks.attribution [--device cuda] [--threads 1] [--tokens 24] [--steps 10] [--repeats 3] [--quick]

An opening of a document that ships; each of its later tokens is a prediction with all tokens before it as context, as a
person asks for it who wants to know where a text came from. Ours: probes of all positions side by side in a forward,
logits of the last token of each alone. Theirs: `inseq.attr.feat.ops.reagent_core`, version 0.7.1, one prediction after
the other, as its rationalizer is called, logits of all tokens, sorted; its own sampler wants a download, so that both
draw other tokens of the same surface class. Where `inseq` is not installed its code path stands in (`theirs` says
which): the forwards, softmaxes, sort and updates that it makes, and nothing that it does besides. Measured twice:
`stopping`, where a probe stops as it is meant to (theirs reads all probes until the last has stopped), and `full`,
where none does, so that both make the same forwards. They take turns; of each the median over the turns behind the
first, which warms up.
Promise: at least 3 times as fast per token, stopping.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.record import record
from recipes.attribution.reagent.attributions import Attributer
from recipes.attribution.reagent.config import ReagentRunConfig
from recipes.attribution.reagent.probes import probe
from recipes.attribution.reagent.reader import Reader
from recipes.attribution.reagent.samplers import Classes, vocabulary_classes
from recipes.attribution.reagent.targets import Target
from recipes.core.config import compose
from recipes.core.data.tasks.prompt_rows import load_prompts
from recipes.core.data.tasks.prompts_config import OpeningsConfig
from recipes.core.models.config import SmolLM2TextConfig
from recipes.core.models.text import build_language_model, build_text_tokenizer
from recipes.core.process.clock import clock

LEAST, PROBES, FIRST = 3.0, 5, 4
QUICK = {"tokens": 6, "steps": 1, "repeats": 1}


def main(options: argparse.Namespace) -> int:
    """Measure, compare and record."""
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    config = SmolLM2TextConfig()
    tokenizer = build_text_tokenizer(config, (), "")
    model = build_language_model(config, tokenizer, 0).eval().to(options.device).language_model
    prompt = load_prompts(OpeningsConfig(domains=("wiki-en",), tokens=options.tokens, limit=1), tokenizer)[0]
    ids = [int(token) for token in prompt.ids]
    classes = vocabulary_classes(tokenizer, len(model.get_input_embeddings().weight), False, options.device)
    result: dict[str, Any] = {
        "tokens": len(ids) - FIRST,
        "context": len(ids),
        "steps": options.steps,
        "probes": PROBES,
        "threads": options.threads,
    }
    for mode in ("stopping", "full"):
        ours = _ours(model, tokenizer, ids, options, mode == "stopping")
        result["theirs"], theirs = _theirs(model, tokenizer, classes, ids, options.steps, mode == "stopping")
        result[mode] = _turns(ours, theirs, len(ids) - FIRST, options)
    print(json.dumps(result, indent=2))
    if options.quick:
        return 0
    record("attribution", options.device, result)
    return int(result["stopping"]["speed_up"] < LEAST)


def _turns(ours: Callable[[], object], theirs: Callable[[], object], tokens: int, options: argparse.Namespace) -> Any:
    """Seconds a token of both."""
    turns: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(options.repeats + 1):
        for who, run in (("ours", ours), ("theirs", theirs)):
            start = clock()
            run()
            if options.device == "cuda":
                torch.cuda.synchronize()
            turns[who].append((clock() - start) / tokens)
    medians = {who: statistics.median(each[1:]) for who, each in turns.items()}
    return {
        "seconds_per_token": medians,
        "seconds_of_turns": {who: each[1:] for who, each in turns.items()},
        "speed_up": medians["theirs"] / medians["ours"],
    }


class Unstopped(Reader):
    """A reader for which no probe passes a stop test, though each is made."""

    def ranks(self, ids: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
        """Beyond all that pass."""
        return super().ranks(ids, lengths, targets) + self.head.vocabulary


def _ours(model: Any, tokenizer: Any, ids: list[int], options: argparse.Namespace, stops: bool) -> Callable[[], object]:
    """All positions in one call."""
    words = [f"reagent.max_steps={options.steps}", f"reagent.probes={PROBES}"]
    config = compose.compose("reagent", [*words, "data=openings"])
    assert isinstance(config, ReagentRunConfig)
    reader = (Reader if stops else Unstopped)(model, "model=smollm2-135m", options.batch_tokens)
    attributer = Attributer(reader, tokenizer, config)
    targets = [Target(f"token {at}", "text", tuple(ids[:at]), (True,) * at, ids[at]) for at in range(FIRST, len(ids))]
    groups = [[targets[number] for number in numbers] for numbers in attributer.batches(targets)]

    def run() -> None:
        for group in groups:
            batch = attributer.batch(group)
            probe(reader, batch, attributer.sampler(batch), config.reagent, 0)

    return run


def _theirs(
    model: Any, tokenizer: Any, classes: Classes, ids: list[int], steps: int, stops: bool
) -> tuple[str, Callable[[], object]]:
    """One position after the other."""
    text = torch.tensor(ids, device=model.device)
    try:
        explain = _inseq(model, tokenizer, classes, steps, stops)
        name = "inseq 0.7.1, reagent_core"
    except ImportError:
        explain, name = _like_inseq(model, classes, steps, stops), "its code path, as inseq is not installed"

    def run() -> None:
        torch.manual_seed(0)
        for at in range(FIRST, len(ids)):
            explain(text[None, :at], text[at : at + 1])

    return name, run


def _inseq(model: Any, tokenizer: Any, classes: Classes, steps: int, stops: bool) -> Callable[[Tensor, Tensor], object]:
    """The rationalizer of `inseq` as its attribution method makes it, with another sampler and without a stop."""
    from inseq.attr.feat.ops import reagent_core
    from inseq.attr.feat.ops.reagent_core.token_sampler import TokenSampler

    class ByClass(TokenSampler):  # type: ignore[misc]
        def __call__(self, input: Tensor, **kwargs: Any) -> Tensor:
            return classes.draw(input, torch.rand(input.shape, device=input.device))

    class Stop(reagent_core.TopKStoppingConditionEvaluator):  # type: ignore[misc]
        def __call__(self, *arguments: Any, **options: Any) -> Tensor:
            return super().__call__(*arguments, **options) & stops

    sampler = ByClass()
    stop = Stop(model=model, sampler=sampler, top_k=3, keep_top_n=0, keep_ratio=0.3)
    replacer = reagent_core.UniformTokenReplacer(sampler=sampler, ratio=0.3)
    score = reagent_core.DeltaProbImportanceScoreEvaluator(model, tokenizer, replacer, stop, max_steps=steps)
    return reagent_core.AggregateRationalizer(score, PROBES, 0, True, keep_top_n=0, keep_ratio=0.3)


def _like_inseq(model: Any, classes: Classes, steps: int, stops: bool) -> Callable[[Tensor, Tensor], object]:
    """The forwards and updates that the rationalizer of `inseq` makes for one prediction."""

    def explain(text: Tensor, target: Tensor) -> Tensor:
        ids = text.repeat(PROBES, 1)
        whole = model(ids)["logits"][:, -1, :].softmax(-1)[:, target[0]]
        scores, keep = torch.rand(ids.shape, device=ids.device), -(-3 * ids.shape[1] // 10)
        stopped = torch.zeros(PROBES, dtype=torch.bool, device=ids.device)
        for _ in range(steps):
            subset = torch.rand(ids.shape, device=ids.device) < 0.3
            drawn = classes.draw(ids, torch.rand(ids.shape, device=ids.device))
            read = model(input_ids=torch.where(subset, drawn, ids))["logits"][:, -1, :].softmax(-1)[:, target[0]]
            drop = (whole - read)[:, None]
            change = torch.logit((torch.where(subset, drop, -drop) * 0.5 + 0.5).clamp(1e-6, 1 - 1e-6))
            scores = scores + change * ~stopped[:, None]
            least = torch.ones_like(subset).scatter(-1, scores.argsort(descending=True)[:, :keep], False)
            drawn = classes.draw(ids, torch.rand(ids.shape, device=ids.device))
            alone = model(input_ids=torch.where(least, drawn, ids))["logits"][:, -1, :]
            stopped = stopped | ((alone.argsort(descending=True)[:, :3] == target).any(-1) & stops)
            if stopped.all():
                break
        return scores.softmax(-1).mean(0)

    return explain


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=20, help="of the text")
    parser.add_argument("--steps", type=int, default=20, help="most subsets of a probe")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--quick", action="store_true", help="see that it runs; nothing is recorded")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK)
    return options


if __name__ == "__main__":
    sys.exit(main(_options()))
