"""What is measured: rankings by every representation before fine-tuning, after it, by BM25; bags of words."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.models.padded import pool
from recipes.core.search.bm25 import BM25 as Index
from recipes.core.search.collection import Passages, Queries
from recipes.core.search.config import JUDGED
from recipes.core.search.measures import add_measures
from recipes.core.search.pairs import TrainingPairs
from recipes.core.search.rankings import Ranking
from recipes.core.storage.files import write_text
from recipes.pretraining.dupmae.config import (
    AFTER,
    AHEAD,
    BAG,
    BEFORE,
    BM25,
    BOTH,
    CLS,
    MEAN,
    OT,
    RECALL,
    REPRESENTATIONS,
    DupMAEConfig,
)
from recipes.pretraining.dupmae.method import bag_loss, top_terms
from recipes.pretraining.dupmae.retriever import Retriever, Rows, Vectors, encode, fine_tune, search

SWEEP = (4, 16, 64, 260, 384, 768)  # k of the plot
SHOWN, NAMED = 5, 12  # passages of a query in the file, and terms of a text


@dataclass(frozen=True)
class Searched:
    """What is searched, and what it is learnt from.

    Attributes:
        passages: What is searched.
        queries: What everything is measured on.
        passage_rows: Ids of the passages.
        query_rows: Of the queries.
        pairs: Of fine-tuning.
        tokenizer: Of all rows.
        special: bool [V] tokens that are no text.
        device: Where to compute.
    """

    passages: Passages
    queries: Queries
    passage_rows: Rows
    query_rows: Rows
    pairs: TrainingPairs
    tokenizer: Any
    special: Tensor
    device: str

    def add(self, scores: Scores, measures: Sequence[str], rankings: Sequence[Ranking], prefix: str = "") -> None:
        """Add measures of rankings."""
        add_measures(scores, measures, rankings, self.queries, self.passages, prefix)


@dataclass(frozen=True)
class Retrieved:
    """What one representation retrieves.

    Attributes:
        rankings: Of each query.
        query_terms: int64 [queries, n] the largest terms of each, falling; n = 0 where a representation has none.
        passage_terms: int64 [passages, n] the same of the passages.
    """

    rankings: Sequence[Ranking]
    query_terms: Tensor
    passage_terms: Tensor


def add_bags(scores: Scores, config: DupMAEConfig, searched: Searched, lm: Any) -> None:
    """NLL of the distinct tokens of passages under the softmax of mu, and their share among its largest entries."""
    count = min(config.evaluation.bags, len(searched.passages))
    scores.define(BAG, "mean NLL of the distinct tokens of a passage by softmax(mu)", False)
    scores.define(
        RECALL, f"share of the distinct tokens of a passage among the {config.evaluation.terms} largest of mu", True
    )
    reader = Retriever(lm, OT, "none", searched.special, config.seed)
    rows = searched.passage_rows[:count]
    mu = encode(reader, reader, rows, searched.device, config.evaluation.batch_tokens, None).mu
    top = mu.topk(min(config.evaluation.terms, mu.shape[1]), 1).indices
    for number, row in enumerate(rows):
        types = torch.tensor(row).unique()
        types = types[~searched.special[types]]
        if len(types):
            id, weights = searched.passages.ids[number], torch.full((1, len(types)), 1 / len(types))
            scores.add(BAG, id, id, float(bag_loss(mu[number, None], types[None], weights)))
            scores.add(RECALL, id, id, float(torch.isin(types, top[number]).float().mean()))


def measure_before(scores: Scores, config: DupMAEConfig, searched: Searched, lm: Any) -> Plot:
    """Rankings by all representations of an encoder as it is; one pass over the texts serves all of them.

    The map of [CLS] is the one that fine-tuning begins with.

    Returns:
        Reciprocal rank against k.
    """
    reader = Retriever(lm, BOTH, config.fine_tuning.ot_act, searched.special, config.seed)
    d = lm.encoder.config.hidden_size

    def read(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        states = lm.encoder(ids, attention_mask=mask).last_hidden_state
        dense = [states[:, 0].float(), pool(states, mask.bool()), reader.dense(states, mask)]
        return torch.cat(dense, 1), reader.mu(states, ids, mask)

    options = (searched.device, config.evaluation.batch_tokens)
    passages = encode(read, reader, searched.passage_rows, *options, max(SWEEP))
    queries = encode(read, reader, searched.query_rows, *options, None)
    columns = {CLS: slice(0, d), MEAN: slice(d, 2 * d), OT: slice(0, 0)}
    measures = config.data.measures
    for name, (_, k) in REPRESENTATIONS.items():
        part = columns.get(name, slice(2 * d, None))
        rankings = _rankings(config, searched, _part(queries, part, k), _part(passages, part, k))
        searched.add(scores, measures, rankings, f"{BEFORE}/{name}/")
    _add_ahead(scores)
    points = []
    for k in SWEEP:
        swept, none = Scores(), slice(0, 0)
        rankings = _rankings(config, searched, _part(queries, none, k), _part(passages, none, k))
        searched.add(swept, (JUDGED,), rankings)
        points.append((float(k), swept.overall()[JUDGED]))
    return Plot("terms", "Before fine-tuning: terms of mu that are kept", "k (terms)", JUDGED, {config.variant: points})


def measure_after(scores: Scores, config: DupMAEConfig, searched: Searched, lm: Any) -> Retrieved:
    """Rankings by each representation that is fine-tuned, from the same weights and pairs.

    Returns:
        What the judged one retrieves.
    """
    tuning, options = config.fine_tuning, (searched.device, config.evaluation.batch_tokens)
    for name in tuning.representations:
        fresh = Retriever(lm, name, tuning.ot_act, searched.special, config.seed)
        tuned = fine_tune(fresh, searched.pairs, tuning, config.trainer, config.seed)
        passages = encode(tuned, tuned, searched.passage_rows, *options, tuned.terms)
        queries = encode(tuned, tuned, searched.query_rows, *options, None)
        rankings = _rankings(config, searched, queries, passages)
        searched.add(scores, config.data.measures, rankings, f"{AFTER}/{name}/")
        if name == tuning.representation:
            searched.add(scores, config.data.measures, rankings)
            query_terms, _ = top_terms(queries.mu, min(NAMED, tuned.terms))
            retrieved = Retrieved(rankings, query_terms, passages.terms[:, :NAMED].clone())
    return retrieved


def measure_bm25(scores: Scores, config: DupMAEConfig, searched: Searched) -> None:
    """Rankings by BM25: the same in all arms."""
    index = Index(searched.passages)
    rankings = [index.rank(text, config.evaluation.depth) for text in searched.queries.texts]
    searched.add(scores, config.data.measures, rankings, f"{BM25}/")


def write_retrieved(path: Path, searched: Searched, retrieved: Retrieved) -> None:
    """One line a query: its largest terms, those of a passage that answers it, and what was ranked first."""
    names, lines = searched.tokenizer.convert_ids_to_tokens, []
    for number, ranking in enumerate(retrieved.rankings):
        first = [
            {
                "id": searched.passages.ids[int(passage)],
                "score": round(float(score), 4),
                "grade": searched.queries.grades[number].get(int(passage), 0),
                "text": searched.passages.whole(int(passage)),
            }
            for passage, score in zip(ranking.passages[:SHOWN], ranking.scores[:SHOWN], strict=True)
        ]
        line: dict[str, Any] = {"query": searched.queries.ids[number], "text": searched.queries.texts[number]}
        right = retrieved.passage_terms[searched.queries.relevant(number)[0]]
        line |= {"terms": names(retrieved.query_terms[number].tolist())}
        line |= {"terms_of_the_right_passage": names(right.tolist()), "passages": first}
        lines.append(json.dumps(line, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")


def _part(vectors: Vectors, columns: slice, k: int) -> Vectors:
    """Some dense columns and the first k terms."""
    mu = vectors.mu if k else vectors.mu[:, :0]
    return replace(
        vectors, dense=vectors.dense[:, columns], terms=vectors.terms[:, :k], values=vectors.values[:, :k], mu=mu
    )


def _rankings(config: DupMAEConfig, searched: Searched, queries: Vectors, passages: Vectors) -> list[Ranking]:
    return search(queries, passages, config.evaluation.depth, searched.device)


def _add_ahead(scores: Scores) -> None:
    """By how much ordinary tokens rank a query's passage ahead of [CLS]."""
    dense, sparse = (scores.values(f"{BEFORE}/{name}/{JUDGED}") for name in (CLS, OT))
    scores.define(AHEAD, "reciprocal rank by 768 terms of mu less that by [CLS], before fine-tuning", True)
    for id, value in sparse.items():
        scores.add(AHEAD, id, id, value - dense[id])
