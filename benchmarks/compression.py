"""What it takes to quantise a model beside one plain forward of the same calibration text.

    python -m benchmarks.compression [--device cuda] [--threads 1] [--sequences 32] [--length 512] [--random]

SmolLM2-135M is rounded to 3 bits on 32 x 512 tokens of Wikipedia: weights of tokens, Hessians of four groups of layers
in each block and outputs for the next block, the solver's seconds apart; its layers collected together and group by
group, weighted and not. The plain forward computes logits of the same sequences in the same batches. Promise: weighted,
with the inputs of a block's layers collected together, a pass takes at most 3 times the plain forward besides the
solver; on a GPU, from a model that rests on the CPU, its memory holds one block (weights of no second one). --random
tries the script with random weights of a small shape, and records nothing.
"""

import argparse
import json
import sys
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.clock import timed
from benchmarks.record import record
from recipes.compression.calibration import Corpora
from recipes.compression.config import CalibrationConfig
from recipes.compression.rsq import quantise
from recipes.compression.walk import Walk
from recipes.core.config import compose
from recipes.core.data.config import DomainsConfig
from recipes.core.models.config import SmolLM2TextConfig
from recipes.core.models.text import build_language_model, build_text_tokenizer

MOST, BATCH = 3.0, 4
WAYS = {
    "weighted, together": ("attention", False),
    "weighted, group by group": ("attention", True),
    "equal, together": ("uniform", False),
    "equal, group by group": ("uniform", True),
}


def main(options: argparse.Namespace) -> int:
    """Measure and record; the exit code is 1 if the promise is broken."""
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    tokenizer = build_text_tokenizer(SmolLM2TextConfig(), (), "")
    calibration = CalibrationConfig(sequences=options.sequences, length=options.length)
    rows = Corpora(DomainsConfig(domains=("wiki-en",)), tokenizer).calibration("wiki-en", calibration, 0)
    model = _model(options, len(tokenizer)).to(options.device)
    _, plain = timed(lambda: [model(input_ids=part.to(options.device), use_cache=False) for part in rows.split(BATCH)])
    result: dict[str, Any] = {"tokens": rows.numel(), "plain_seconds": plain, "ways": {}}
    for name, (strategy, one_by_one) in WAYS.items():
        whole, solving = _quantise(options, len(tokenizer), rows, strategy, one_by_one)
        row = {"seconds": whole, "solver_seconds": solving, "ratio": (whole - solving) / plain}
        result["ways"][name] = row
        print(f"{name}: {json.dumps(row)}", file=sys.stderr)
    if options.device == "cuda":
        result["memory"] = _memory(options, len(tokenizer), rows)
    print(json.dumps(result, indent=2))
    if options.random:
        return 0
    record("compression", options.device, result)
    return int(result["ways"]["weighted, together"]["ratio"] > MOST)


def _quantise(
    options: argparse.Namespace, vocabulary: int, rows: Tensor, strategy: str, one_by_one: bool
) -> tuple[float, float]:
    """Seconds in all, and of the solver."""
    words = [f"importance.strategy={strategy}", f"quantise.true_sequential={one_by_one}", "label=benchmark"]
    config: Any = compose.compose("rsq", [*words, f"calibration.batch={BATCH}"])
    model, solving, solve = _model(options, vocabulary).to(options.device), [0.0], quantise.round_layer

    def timed_solver(*arguments: Any) -> quantise.Rounded:
        rounded, seconds = timed(lambda: solve(*arguments))
        solving[0] += seconds
        return rounded

    with mock.patch.object(quantise, "round_layer", timed_solver):
        _, whole = timed(lambda: quantise.quantise(model, rows, config, "the model", options.device))
    return whole, solving[0]


def _memory(options: argparse.Namespace, vocabulary: int, rows: Tensor) -> dict[str, int]:
    """Bytes on the GPU at most while blocks of a model on the CPU go there one by one, and those of one block."""
    walk = Walk(_model(options, vocabulary), rows, "the model", batch=1, device=options.device)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    held = max(torch.cuda.memory_allocated() - before for _ in walk.steps())
    block = sum(weight.nbytes for weight in walk.blocks[0].module.parameters())
    return {"block_bytes": block, "held_bytes": held, "peak_bytes": torch.cuda.max_memory_allocated() - before}


def _model(options: argparse.Namespace, vocabulary: int) -> Any:
    if not options.random:
        model: Any = build_language_model(SmolLM2TextConfig(), None, 0).language_model
    else:
        shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **shape))
    return model.eval().requires_grad_(False)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--random", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main(_options()))
