"""What people look at: rankings with the terms that made them, and passages shaded by the weights of their tokens."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from recipes.core.evaluation.heatmaps import heatmap_example
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.search.rankings import Ranking
from recipes.retrieval.first_stage import Candidates
from recipes.retrieval.tildev2.expansion import Texts
from recipes.retrieval.tildev2.rankers import LookUp

WRITTEN = 20  # passages of a query that are written
HINT = "What a token weighs, over the mean of its passage. Behind the passage stand the terms that it was expanded by."


def matched_terms(ranker: LookUp, text: str) -> Callable[[int], dict[str, Any]]:
    """From the number of a passage to the terms of a query that it has, with what they weigh there."""
    terms = ranker.terms(text)[0].tolist()
    pieces = ranker.texts.tokenizer.convert_ids_to_tokens(terms)

    def of_passage(passage: int) -> dict[str, Any]:
        weights, pairs = ranker.index.of(passage), zip(pieces, terms, strict=True)
        return {"terms": {piece: round(weights[term], 4) for piece, term in pairs if term in weights}}

    return of_passage


def learning(curve: Mapping[int, Scores]) -> list[Plot]:
    """The learning curve, where there is one."""
    points = [(float(step), scores.overall()["watch/loss"]) for step, scores in sorted(curve.items())]
    title = "Cross-entropy of held-out queries during training"
    return [Plot("watch", title, "steps", "nats", {"held-out queries": points})] if points else []


def shaded(
    count: int, texts: Texts, chosen: Candidates, rankings: Sequence[Ranking], weights: Mapping[int, np.ndarray]
) -> dict[str, Any] | None:
    """Content of `heatmap.json`: the first passage of some queries, shaded by the weights of its tokens.

    Args:
        count: How many.
        texts: Passages as ids.
        chosen: Queries and candidates.
        rankings: Their order.
        weights: Of the tokens of passages.
    """
    examples = list[dict[str, Any]]()
    for number in range(len(rankings)):
        if len(examples) == count:
            break
        first = [int(passage) for passage in rankings[number].passages[:1] if int(passage) in weights]
        for passage in first:
            row, values = texts.rows[passage], weights[passage]
            counts = np.array([term not in texts.stop for term in row])
            values = np.where(counts, values, 0)
            mean = float(values[counts].mean()) if counts.any() else 1.0
            edge = len(texts.plain[passage])
            kinds = [None if not counted else "expansion" if place >= edge else "term"
                     for place, counted in enumerate(counts)]  # fmt: skip
            grade = " (relevant)" if chosen.queries.grades[number].get(passage, 0) > 0 else ""
            pieces = texts.tokenizer.convert_ids_to_tokens(row)
            words = [piece[2:] if piece.startswith("##") else f" {piece}" for piece in pieces]
            name = f"{chosen.queries.texts[number]}{grade}"
            nlls = np.zeros(len(row))
            examples.append(heatmap_example(name, words, values / (mean or 1.0), nlls, kinds))
    return {"hint": HINT, "examples": examples} if examples else None
