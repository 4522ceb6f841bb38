"""What a re-ranking did, for people: each query with its passages before and after."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recipes.core.search.collection import Passages
from recipes.core.search.rankings import Ranking
from recipes.core.storage.files import write_text
from recipes.retrieval.first_stage import Candidates

RERANKED = "reranked.jsonl"


def write_reranked(
    path: Path,
    chosen: Candidates,
    passages: Passages,
    rankings: Sequence[Ranking],
    first: int | None = None,
    more: Callable[[str], Callable[[int], dict[str, Any]]] | None = None,
) -> None:
    """One JSON object a query: its text, and the passages in their new order with score, place before and grade.

    Args:
        path: The file.
        chosen: Queries and candidates.
        passages: What is searched.
        rankings: The new order of each.
        first: How many passages of a query are written; None: all.
        more: From the text of a query to what else is written of a passage, by its number.
    """
    lines = []
    for number, ranking in enumerate(rankings):
        before = {int(passage): place for place, passage in enumerate(chosen.given[number].passages, 1)}
        text, grades, rows = chosen.queries.texts[number], chosen.queries.grades[number], []
        of_passage = more(text) if more else None
        for passage, score in zip(ranking.passages[:first].tolist(), ranking.scores[:first], strict=True):
            row = {"id": passages.ids[passage], "before": before[passage], "score": round(float(score), 6)}
            row |= {"grade": grades.get(passage, 0), "text": passages.whole(passage)}
            rows.append(row | of_passage(passage) if of_passage else row)
        line = {"query": chosen.queries.ids[number], "text": text, "passages": rows}
        lines.append(json.dumps(line, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")
