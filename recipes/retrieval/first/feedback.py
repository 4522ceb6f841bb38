"""Searches again with queries that were moved by an order of their candidates."""

from collections.abc import Sequence

import numpy as np
import torch

from recipes.core.evaluation.scores import Scores
from recipes.core.models.nearest import nearest
from recipes.core.models.sentences import load_sentence_encoder
from recipes.core.scoring.vectors import sentence_vectors
from recipes.core.search.measures import add_measures
from recipes.core.search.rankings import Ranking, by_scores
from recipes.retrieval.first.config import ORDER, TEACHER, FirstConfig
from recipes.retrieval.first.method import refine
from recipes.retrieval.letters.experiment import Prepared
from recipes.retrieval.letters.lists import teach

DEPTH = 100
MEASURES = ("R@100", "RR@10")
PREFIX = "feedback/"


def add_feedback(config: FirstConfig, prepared: Prepared, scores: Scores, rankings: Sequence[Ranking]) -> None:
    """Measure what the whole collection gives for the moved queries.

    Args:
        config: Of the run; its feedback is on.
        prepared: Of the run.
        scores: Where to.
        rankings: Candidates of each query in the order that the run has found.
    """
    feedback, passages, queries = config.feedback, prepared.collection.passages, prepared.candidates.queries
    encoder = load_sentence_encoder(config.first_stage.encoder, "first_stage.encoder", prepared.device)
    keys = sentence_vectors(encoder, [passages.whole(number) for number in range(len(passages))])
    asked = torch.tensor(np.array(sentence_vectors(encoder, list(queries.texts))))
    orders = _orders(config, prepared, rankings)
    if feedback.by in (ORDER, TEACHER):
        for number, order in enumerate(orders):
            vectors = torch.tensor(np.array(keys[order]))
            ranks = torch.arange(1, len(order) + 1)
            if len(order) > 1:
                asked[number] = refine(asked[number], vectors, ranks, feedback.steps, feedback.rate)
    hits = nearest(asked, keys, min(DEPTH, len(passages)), device=prepared.device)
    results = [by_scores(row, values) for row, values in zip(hits.indices.numpy(), hits.scores.numpy(), strict=True)]
    add_measures(scores, MEASURES, results, queries, passages, PREFIX)


def _orders(config: FirstConfig, prepared: Prepared, rankings: Sequence[Ranking]) -> list[np.ndarray]:
    """Numbers of the passages of each query, the best first, by the run or by the teacher."""
    if config.feedback.by != TEACHER:
        return [ranking.passages for ranking in rankings]
    chosen, orders = prepared.candidates, [ranking.passages for ranking in rankings]
    number_of = {id: number for number, id in enumerate(chosen.queries.ids)}
    for each in teach(config.tuning, chosen.queries, prepared.collection.passages, chosen.given, prepared.device):
        number = number_of[each.id]
        orders[number] = chosen.given[number].passages[each.order]
    return orders
