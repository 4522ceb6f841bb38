"""What people look at: passages with the tokens that were returned of them, curves, the learnt map."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from recipes.core.evaluation.heatmaps import heatmap_example
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.search.collection import Passages, Queries
from recipes.core.search.config import JUDGED
from recipes.core.search.rankings import Ranking
from recipes.core.storage.files import write_text
from recipes.retrieval.xtr.config import GOLD_TOKENS, RECALL, SearchConfig
from recipes.retrieval.xtr.tokens import TokenResults

RETRIEVED = "retrieved.jsonl"
HINT = (
    "A token of a passage weighs the more, up to 16, the nearer it is to the query token that returned it; 1: no "
    "query token returned it, and nothing of it was read."
)
OCTAVES = 4
FIRST = 10  # passages of each query in the file


def write_retrieved(
    path: Path, rankings: Sequence[Ranking], results: TokenResults, queries: Queries, passages: Passages
) -> None:
    """One JSON object a query: what its tokens returned, and its first passages with score, grade and tokens."""
    lines, candidates = [], next(iter(results.scored.values()))
    for number, ranking in enumerate(rankings):
        scored = candidates[number]
        tokens = dict(zip(scored.passages.tolist(), scored.tokens.tolist(), strict=True))
        rows = [
            {
                "id": passages.ids[passage],
                "score": round(float(score), 6),
                "tokens": tokens.get(int(passage), 0),
                "grade": queries.grades[number].get(int(passage), 0),
                "text": passages.whole(int(passage)),
            }
            for passage, score in zip(ranking.passages[:FIRST], ranking.scores[:FIRST], strict=True)
        ]
        lowest = [round(float(value), 6) for value in results.near[number].scores[:, -1]]
        line = {"query": queries.ids[number], "text": queries.texts[number], "candidates": len(tokens)}
        lines.append(json.dumps(line | {"lowest": lowest, "passages": rows}, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")


def write_projection(path: Path, weights: Tensor) -> None:
    """The map behind the encoder, [width, d]."""
    save_file({"weight": weights.detach().cpu().contiguous()}, path)


def heatmap(count: int, prepared: Any, rankings: Sequence[Ranking], results: TokenResults) -> dict[str, Any] | None:
    """Content of `heatmap.json`: of some queries the first passage and a right one, their returned tokens shaded."""
    examples = []
    for number in range(min(count, len(rankings))):
        places = {int(passage): place for place, passage in enumerate(rankings[number].passages, 1)}
        relevant = prepared.queries.relevant(number)
        right = next((passage for passage in places if passage in relevant), None)
        for passage in dict.fromkeys([*list(places)[:1], *([] if right is None else [right])]):
            texts = [prepared.tokenizer.decode([token]) for token in prepared.passage_rows[passage]]
            grade = " (relevant)" if passage in relevant else ""
            name = f"{prepared.queries.texts[number]}: rank {places[passage]}{grade}"
            weights = 2.0 ** (OCTAVES * _returned(results, number, passage))
            examples.append(heatmap_example(name, texts, weights, np.zeros(len(texts))))
    return {"hint": HINT, "examples": examples} if examples else None


def sweep_plots(config: SearchConfig, scores: Scores) -> list[Plot]:
    """What is ranked right, and what is among the candidates, against k'."""
    overall, plots = scores.overall(), []
    for metric, label in ((JUDGED, JUDGED), (RECALL, "share of relevant passages"), (GOLD_TOKENS, "pairs of tokens")):
        names = {k: metric if k == config.k_prime else f"k{k}/{metric}" for k in (config.k_prime, *config.sweep)}
        points = [(float(k), overall[name]) for k, name in sorted(names.items()) if name in overall]
        if len(points) > 1:
            title = f"{label} by how many tokens each query token returns"
            slug = metric.lower().replace("@", "-").replace("_", "-")
            plots.append(Plot(f"sweep-{slug}", title, "k' (tokens)", label, {metric: points}))
    return plots


def curve_plots(curve: dict[int, Scores]) -> list[Plot]:
    """How well few passages are ranked during training."""
    points = [(float(step), scores.overall()[f"watch/{JUDGED}"]) for step, scores in sorted(curve.items())]
    if not points:
        return []
    return [Plot("watch", f"{JUDGED} among few passages during training", "steps", JUDGED, {JUDGED: points})]


def _returned(results: TokenResults, number: int, passage: int) -> np.ndarray:
    """[tokens] the highest similarity of each token of a passage to a query token that returned it, 0 if none did."""
    ends, near = results.index.vectors.ends, results.near[number]
    start, stop = int(ends[passage - 1]) if passage else 0, int(ends[passage])
    inside = (near.indices >= start) & (near.indices < stop)
    values = torch.zeros(stop - start)
    values = values.scatter_reduce(0, near.indices[inside] - start, near.scores[inside], "amax")
    return np.asarray(values.clamp(0, 1).numpy())
