"""What a run of `d-pruner` hands to its folder: scores of each sequence, a plot, a heatmap, sequences to read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from recipes.compression.d_pruner.config import NLL
from recipes.compression.perplexity import of_prefix, perplexities, score_domains
from recipes.core.data.text.text_ids import token_texts
from recipes.core.evaluation.heatmaps import heatmap_example
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores, add_class_mean
from recipes.core.storage.files import write_text

EXAMPLES = "examples.jsonl"
HINT = "How many times less likely pruning makes a token; 1: as likely as before."
Read = Mapping[str, np.ndarray]  # text -> [sequences, tokens - 1] nats


def add_scores(scores: Scores, read: Read, prefix: str = "") -> dict[str, float]:
    """Write the losses of each sequence into scores, and return all metrics of them.

    Args:
        scores: Gets them.
        read: The losses.
        prefix: What the names of the metrics begin with.
    """
    nlls = {text: losses.mean(1, dtype=np.float64) for text, losses in read.items()}
    score_domains(scores, nlls, prefix)
    add_class_mean(
        scores, f"{prefix}{NLL}", f"{prefix}{NLL}/", f"nats per token, mean of both texts{of_prefix(prefix)}", False
    )
    perplexity = perplexities(nlls, prefix)
    for name in perplexity:
        scores.define(name, f"perplexity, held-out text: {name.rpartition('/')[2]}{of_prefix(prefix)}", False)
    overall = scores.overall()
    return {name: overall[name] for name in overall if name.startswith(f"{prefix}{NLL}")} | perplexity


def perplexity_plot(reads: Mapping[float, Read]) -> Plot:
    """Perplexity of both texts over the share of zeros."""
    series: dict[str, list[tuple[float, float]]] = {}
    for share, read in sorted(reads.items()):
        for text, losses in read.items():
            series.setdefault(text, []).append((share, float(np.exp(losses.mean(dtype=np.float64)))))
    return Plot("perplexity", "Held-out text", "share of zeros", "perplexity", series, y_log=True)


def heatmap(rows: Mapping[str, Tensor], before: Read, after: Read, tokenizer: Any, count: int) -> dict[str, Any] | None:
    """Content of `heatmap.json`: the first sequences of each text, shaded by what pruning takes from each token."""
    texts = token_texts(tokenizer)
    examples = [
        heatmap_example(
            f"{text}/{number}",
            [texts[token] for token in rows[text][number, 1:].tolist()],
            np.exp(after[text][number] - before[text][number]),
            after[text][number],
        )
        for text in rows
        for number in range(min(count, len(rows[text])))
    ]
    return {"examples": examples, "hint": HINT} if examples else None


def write_examples(rows: Mapping[str, Tensor], before: Read, after: Read, tokenizer: Any, path: Path) -> None:
    """Each held-out sequence with its loss before and after."""
    lines = [
        {
            "id": f"{text}/{number}",
            "nats_per_token": {"dense": round(float(dense.mean()), 4), "pruned": round(float(pruned.mean()), 4)},
            "text": tokenizer.decode(row, skip_special_tokens=False),
        }
        for text in rows
        for number, (row, dense, pruned) in enumerate(zip(rows[text], before[text], after[text], strict=True))
    ]
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
