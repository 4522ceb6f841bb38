"""What a run says: held-out text before and after, what tokens weighed, and what became of each layer."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from recipes.compression.perplexity import perplexities, score_domains
from recipes.compression.rsq.config import (
    BITS,
    EFFECTIVE,
    ERROR,
    GAP,
    GPTQ,
    INCREASE,
    NLL,
    NONE,
    PERPLEXITY,
    RsqConfig,
)
from recipes.compression.rsq.quantise import Quantised, bits_per_weight
from recipes.core.data.text.text_ids import token_texts
from recipes.core.evaluation.importance import Importance, WeighedText, importance_heatmap
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.models.vision_language import TextModel
from recipes.core.storage.files import write_text

LAYERS = "layers.jsonl"
SHOWN = 4  # calibration sequences in the heatmap
HINT = "A token weighs what errors at its place count in calibration: the mean over all blocks, and some of them."
TITLES = {
    NLL: ("nats per token of held-out text", False),
    INCREASE: ("nats per token more than before quantisation", False),
    EFFECTIVE: ("effective number of calibration tokens, (sum w)^2 / sum w^2, by block", True),
    ERROR: ("share of a layer's weighted output that is lost, by layer", False),
}
OF_RUN = {
    PERPLEXITY: ("perplexity of held-out text", False),
    BITS: ("bits of a weight in the blocks' linear layers, scales included", False),
    GAP: ("largest change of a logit by the rotation, over the largest logit", False),
}


@dataclass(frozen=True)
class Prepared:
    """What a run needs.

    Attributes:
        model: Frozen, rotated if the run rotates, not rounded yet.
        tokenizer: Its tokenizer.
        where: Key and value that named it.
        device: Where to compute.
        rows: int64 [N, T] calibration sequences.
        held_out: Domain -> int64 [n, T] sequences that are measured.
        before: Domain -> [n] their NLL in full precision, before the rotation.
        gap: What the rotation does to logits; None without one.
    """

    model: TextModel
    tokenizer: Any
    where: str
    device: str
    rows: Tensor
    held_out: Mapping[str, Tensor]
    before: Mapping[str, np.ndarray]
    gap: float | None


def score_run(
    config: RsqConfig, prepared: Prepared, done: Quantised, after: Mapping[str, np.ndarray]
) -> tuple[Scores, dict[str, float]]:
    """All metrics of a run, and those of them that are of sequences, blocks and layers."""
    scores = Scores()
    for name, meaning in (TITLES | OF_RUN).items():
        scores.define(name, *meaning)
    score_domains(scores, after)
    for domain, values in after.items():
        for number, (value, old) in enumerate(zip(values, prepared.before[domain], strict=True)):
            for name, score in ((NLL, value), (INCREASE, value - old)):
                scores.add(name, f"{domain}/{number}", f"{domain}/{number}", score)
    for number, size in enumerate(done.effective_tokens(prepared.rows.numel())):
        scores.add(EFFECTIVE, f"block {number}", f"block {number}", size)
    for layer in done.layers:
        if layer.error is not None:
            scores.add(ERROR, layer.name, layer.name, layer.error)
    whole = perplexities(after) | {PERPLEXITY: float(np.exp(scores.overall()[NLL])), BITS: 32.0}
    for domain in after:
        scores.define(f"{PERPLEXITY}/{domain}", f"perplexity of held-out text: {domain}", False)
    if config.quantise.solver != NONE:
        whole[BITS] = bits_per_weight(prepared.model.language_model, config.quantise, prepared.where)
    if prepared.gap is not None:
        whole[GAP] = prepared.gap
    return scores, scores.overall() | whole


def weighed_texts(method: str, prepared: Prepared, done: Quantised) -> list[WeighedText]:
    """The first calibration sequences and what their tokens weigh, on average and by block; none if all weigh 1."""
    weights = {number: each[:SHOWN].numpy() for number, each in enumerate(done.weights) if each is not None}
    if not weights:
        return []
    texts, mean = token_texts(prepared.tokenizer), np.mean([*weights.values()], 0)
    return [
        WeighedText(
            f"calibration {row}",
            [texts[token] for token in ids],
            [Importance(method, mean[row]), *(Importance(method, each[row], at) for at, each in weights.items())],
        )
        for row, ids in enumerate(prepared.rows[:SHOWN].tolist())
    ]


def heatmap(texts: list[WeighedText]) -> dict[str, Any] | None:
    """Content of `heatmap.json`: the mean of all blocks, the first, the middle and the last."""
    if not texts:
        return None
    return importance_heatmap([replace(text, rows=_some(text.rows)) for text in texts], HINT)


def _some(rows: Sequence[Importance]) -> list[Importance]:
    blocks = rows[1:]
    return [rows[0], *(blocks[at] for at in sorted({0, len(blocks) // 2, len(blocks) - 1}))]


def plots(prepared: Prepared, done: Quantised) -> list[Plot]:
    """Effective tokens of each block; weights by place."""
    if not any(each is not None for each in done.weights):
        return []
    sizes = done.effective_tokens(prepared.rows.numel())
    tokens = [(float(number), size) for number, size in enumerate(sizes)]
    places = {
        f"block {number}": [(float(place), float(value)) for place, value in enumerate(weights.mean(0))]
        for number, weights in enumerate(done.weights)
        if weights is not None and number in {0, len(done.weights) // 2, len(done.weights) - 1}
    }
    return [
        Plot("effective-tokens", "Effective calibration tokens", "block", "tokens", {"tokens": tokens}),
        Plot("weight-by-place", "What a token weighs by its place", "place in the sequence", "mean weight", places),
    ]


def write_layers(path: Path, config: RsqConfig, prepared: Prepared, done: Quantised) -> None:
    """One line a linear layer: what it lost, and how many effective tokens it was fitted on."""
    sizes = done.effective_tokens(prepared.rows.numel())
    each = len(done.layers) // max(1, len(sizes))
    lines = []
    for number, layer in enumerate(done.layers):
        line: dict[str, Any] = {"layer": layer.name, "bits": config.quantise.bits}
        if config.quantise.solver == GPTQ:
            line |= {ERROR: layer.error, EFFECTIVE: sizes[number // each]}
        lines.append(json.dumps(line) + "\n")
    write_text(path, "".join(lines))
