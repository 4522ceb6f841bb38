"""What a re-ranking did, for people: each query with its passages before and after."""

import json
from collections.abc import Sequence
from pathlib import Path

from recipes.core.storage.files import write_text
from recipes.retrieval.collection import Passages
from recipes.retrieval.first_stage import Candidates
from recipes.retrieval.rankings import Ranking

RERANKED = "reranked.jsonl"


def write_reranked(path: Path, chosen: Candidates, passages: Passages, rankings: Sequence[Ranking]) -> None:
    """One JSON object a query: its text, and the passages in their new order with score, place before and grade."""
    lines = []
    for number, ranking in enumerate(rankings):
        before = {int(passage): place for place, passage in enumerate(chosen.given[number].passages, 1)}
        rows = [
            {
                "id": passages.ids[passage],
                "before": before[int(passage)],
                "score": round(float(score), 6),
                "grade": chosen.queries.grades[number].get(int(passage), 0),
                "text": passages.whole(int(passage)),
            }
            for passage, score in zip(ranking.passages, ranking.scores, strict=True)
        ]
        line = {"query": chosen.queries.ids[number], "text": chosen.queries.texts[number], "passages": rows}
        lines.append(json.dumps(line, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")
