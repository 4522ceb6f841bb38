"""Measures of rankings for each query, by `ir_measures`, so that arms are paired over queries and seeds."""

from collections.abc import Sequence

import ir_measures

from recipes.core.evaluation.scores import Scores
from recipes.core.search.collection import Passages, Queries
from recipes.core.search.rankings import Ranking, falling

_TITLES = {
    "RR": "reciprocal rank of the first relevant passage",
    "R": "share of the relevant passages that are ranked",
    "nDCG": "discounted gain of the ranking over that of the best one",
    "AP": "average precision",
    "P": "share of the ranked passages that are relevant",
    "Success": "queries with a relevant passage",
}


def measure_title(name: str) -> str:
    """What a measure is, for people."""
    base, _, cut = name.partition("@")
    return _TITLES.get(base, f"{base} of the ranking") + (f" (first {cut})" if cut else "")


def add_measures(
    scores: Scores,
    measures: Sequence[str],
    rankings: Sequence[Ranking],
    queries: Queries,
    passages: Passages,
    prefix: str = "",
) -> None:
    """Add the measures of each query; a query without passages counts 0.

    Args:
        scores: Where to.
        measures: Names of `ir_measures`.
        rankings: One for each query. Their order alone counts, never how ties are broken by whoever reads a run.
        queries: What was asked, with its judgements.
        passages: What was ranked.
        prefix: What stands before the names of the metrics.
    """
    judged = {
        id: {passages.ids[number]: grade for number, grade in grades.items()}
        for id, grades in zip(queries.ids, queries.grades, strict=True)
    }
    run = {
        id: {
            passages.ids[number]: float(score)
            for number, score in zip(ranking.passages, falling(ranking.scores), strict=True)
        }
        for id, ranking in zip(queries.ids, rankings, strict=True)
    }
    parsed = {ir_measures.parse_measure(name): name for name in measures}
    values = {(str(each.query_id), each.measure): each.value for each in ir_measures.iter_calc(parsed, judged, run)}
    for measure, name in parsed.items():
        scores.define(f"{prefix}{name}", measure_title(name), True)
        for id in queries.ids:
            scores.add(f"{prefix}{name}", id, id, values.get((id, measure), 0.0))
