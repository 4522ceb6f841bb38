"""XTR as an experiment: an encoder trained to retrieve tokens, passages scored by the tokens that are returned."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from recipes.core.errors import UserError
from recipes.core.evaluation.curves import regular_steps
from recipes.core.evaluation.scores import Scores
from recipes.core.messages import note
from recipes.core.models.hf_folder import DESCRIPTION
from recipes.core.models.nearest import nearest
from recipes.core.models.run_models import describer
from recipes.core.models.sentences import embed_rows
from recipes.core.recipe import Evaluation
from recipes.core.search.bm25 import BM25
from recipes.core.search.collection import Collection, Passages, Queries
from recipes.core.search.config import JUDGED
from recipes.core.search.load import load_collection
from recipes.core.search.measures import add_measures
from recipes.core.search.pairs import TrainingPairs, pair_collate, training_pairs, training_queries
from recipes.core.search.rankings import FILE, Ranking, by_scores, write_run
from recipes.core.storage.places import PROJECTION
from recipes.core.training.task import Training
from recipes.retrieval.encoders import TokenVectors, check_finite, encode, encode_once, load_encoder, text_rows
from recipes.retrieval.xtr import output
from recipes.retrieval.xtr.config import SearchConfig, XTRConfig
from recipes.retrieval.xtr.model import PassageLoss, TokenEncoder
from recipes.retrieval.xtr.tokens import TokenResults, measure_tokens

STORED = np.float16  # vectors of tokens, as an index keeps them
Rows = list[list[int]]


@dataclass(frozen=True)
class Prepared:
    """What a run needs.

    Attributes:
        passages: What is searched.
        queries: What everything is measured on.
        model: The encoder before training; None where nothing reads one.
        tokenizer: Its tokenizer, or None.
        passage_rows: Ids of the tokens of the passages.
        query_rows: Those of the queries.
        pairs: What is trained on, or None.
        device: Where the run computes.
    """

    passages: Passages
    queries: Queries
    model: TokenEncoder | None
    tokenizer: Any
    passage_rows: Rows
    query_rows: Rows
    pairs: TrainingPairs | None
    device: str


class XTRRecipe:
    """Trains an encoder on pairs, searches its tokens, scores passages by what the search returns."""

    def prepare(self, config: XTRConfig, device: str) -> Prepared:
        """Collection, encoder, ids of all texts, training pairs. Raises UserError."""
        collection = load_collection(config.data)
        queries = collection.test.draw(config.data.queries, config.seed)
        passages, queries = collection.part(queries, config.search.passages, config.seed)
        if config.search.infer_score == "bm25":
            return Prepared(passages, queries, None, None, [], [], None, device)
        body, tokenizer = load_encoder(config.model, config.encoder.trainable_layers if config.trains else 0)
        encoder, every = config.encoder, collection.passages if config.trains else passages  # it learns from all
        query_rows = text_rows(body, tokenizer, list(queries.texts), encoder.query_tokens, "queries")
        texts = [every.whole(number) for number in range(len(every))]
        rows = text_rows(body, tokenizer, texts, encoder.passage_tokens, "passages")
        passage_rows = [rows[every.number_of[id]] for id in passages.ids]
        if config.reads_tokens:
            _check_tokens(config, sum(map(len, passage_rows)))
        pairs = _pairs(config, collection, rows, body, tokenizer) if config.trains else None
        width = config.objective.projection if config.trains else None
        model = TokenEncoder(body, width, config.seed)
        return Prepared(passages, queries, model, tokenizer, passage_rows, query_rows, pairs, device)

    def build(self, config: XTRConfig, prepared: Prepared) -> Training | None:
        """The encoder and its loss; None for one that is taken as it is."""
        if prepared.pairs is None or prepared.model is None:
            return None
        dataset: Any = prepared.pairs
        loss = PassageLoss(config.objective)
        rates = {"projection.": config.objective.projection_rate}
        steps = regular_steps(config.trainer.max_steps, config.watch.every)
        describe = partial(_describe, prepared.model, describer(prepared.model, prepared.tokenizer))
        return Training(prepared.model, loss, dataset, pair_collate, rates, steps, loss.before_step, describe)

    def watch(self, config: XTRConfig, prepared: Prepared, model: nn.Module) -> Scores:
        """Reciprocal ranks of some queries among few passages."""
        part = _few(config, prepared)
        if config.search.infer_score == "pooled":
            rankings = _pooled_rankings(config, part, model)
        else:
            vectors = _vectors(config, part, model)
            count = min(config.search.k_prime, len(vectors[1].values))
            fewer = replace(config.search, k_prime=count, sweep=())
            rankings = measure_tokens(fewer, part.queries, *vectors, part.device).rankings
        scores = Scores()
        add_measures(scores, (JUDGED,), rankings, part.queries, part.passages, "watch/")
        return scores

    def evaluate(
        self, config: XTRConfig, prepared: Prepared, model: nn.Module | None, curve: dict[int, Scores]
    ) -> Evaluation:
        """Rank the passages of all queries; measure, write the run, show which tokens were returned."""
        encoder, results = model or prepared.model, None
        if config.search.infer_score == "bm25":
            index = BM25(prepared.passages)
            rankings = [index.rank(text, config.search.depth) for text in prepared.queries.texts]
        elif config.search.infer_score == "pooled":
            rankings = _pooled_rankings(config, prepared, encoder)
        else:
            vectors = _vectors(config, prepared, encoder)
            results = measure_tokens(_fitting(config, vectors[1]), prepared.queries, *vectors, prepared.device)
            rankings = results.rankings
        return _evaluation(config, prepared, rankings, results, encoder if model is not None else None, curve)


def _evaluation(
    config: XTRConfig,
    prepared: Prepared,
    rankings: list[Ranking],
    results: TokenResults | None,
    trained: Any,
    curve: dict[int, Scores],
) -> Evaluation:
    queries, passages = prepared.queries, prepared.passages
    rankings = [each.first(config.search.depth) for each in rankings]
    scores = Scores()
    add_measures(scores, config.data.measures, rankings, queries, passages)
    files: dict[str, Any] = {
        FILE: partial(write_run, rankings=rankings, queries=queries, passages=passages, tag=config.variant),
    }
    shown, plots = None, output.curve_plots(curve)
    if results is not None:
        for prefix, others in results.others.items():
            add_measures(scores, (JUDGED,), others, queries, passages, prefix)
        results.add_counts(scores, queries)
        files[output.RETRIEVED] = partial(
            output.write_retrieved, rankings=rankings, results=results, queries=queries, passages=passages
        )
        shown = output.heatmap(config.search.shown, prepared, rankings, results)
        plots += output.sweep_plots(config.search, scores)
    if trained is not None and config.objective.projection is not None:
        files[PROJECTION] = partial(output.write_projection, weights=trained.projection.weight)
    return Evaluation(scores.overall(), scores, shown, plots=plots, files=files)


def _describe(model: TokenEncoder, describe: Callable[[Path], None], checkpoint: Path) -> None:
    """What is written of an encoder into a checkpoint; its map goes along, without which it gives other vectors."""
    describe(checkpoint)
    if isinstance(model.projection, nn.Linear):
        output.write_projection(checkpoint / DESCRIPTION / PROJECTION, model.projection.weight)


def _pairs(config: XTRConfig, collection: Collection, passage_rows: Rows, body: Any, tokenizer: Any) -> TrainingPairs:
    """Pairs of the whole collection, whatever part of it is searched; `passage_rows` are the ids of its passages."""
    queries = training_queries(config.pairs, collection, config.seed)
    query_rows = text_rows(body, tokenizer, list(queries.texts), config.encoder.query_tokens, "queries")
    pairs = training_pairs(config.pairs, collection, queries, query_rows, passage_rows, config.seed)
    _note_all_returned(config, pairs)
    return pairs


def _note_all_returned(config: XTRConfig, pairs: TrainingPairs) -> None:
    """Say so where a batch has no more tokens than a search of it returns: nothing is then left to choose."""
    shown = [len(pairs.passages[number]) for row in pairs.shown for number in row]
    tokens, k = int(np.mean(shown) * pairs.shown.shape[1] * config.trainer.batch_size), config.objective.k_train
    if config.objective.train_score in ("xtr", "xtr_norm_n") and k >= tokens:
        note(
            f"warning: objective.k_train={k}: a batch has about {tokens:,} tokens, and all are returned, as in colbert"
        )


def _check_tokens(config: XTRConfig, tokens: int) -> None:
    if config.search.k_prime > tokens:
        what = f"the passages that are searched have {tokens:,} tokens"
        raise UserError(what, f"search.k_prime={config.search.k_prime}", f"type {tokens} or less")


def _fitting(config: XTRConfig, vectors: TokenVectors) -> SearchConfig:
    """Search settings without the other k' that are more than there are tokens."""
    fitting = tuple(k for k in config.search.sweep if k <= len(vectors.values))
    if left_out := [k for k in config.search.sweep if k not in fitting]:
        names = ", ".join(map(str, left_out))
        note(f"search.sweep={names}: left out, the passages have only {len(vectors.values):,} tokens")
    return replace(config.search, sweep=fitting)


def _few(config: XTRConfig, prepared: Prepared) -> Prepared:
    """Some queries and few passages, all that answer them among these; the same at every step."""
    queries = prepared.queries.draw(config.watch.queries, config.seed)
    whole = Collection(prepared.passages, queries, queries, "watch")
    passages, fewer = whole.part(queries, config.watch.passages, config.seed)
    places = {id: number for number, id in enumerate(prepared.queries.ids)}
    return replace(
        prepared,
        passages=passages,
        queries=fewer,
        passage_rows=[prepared.passage_rows[prepared.passages.number_of[id]] for id in passages.ids],
        query_rows=[prepared.query_rows[places[id]] for id in queries.ids],
    )


def _vectors(config: XTRConfig, prepared: Prepared, model: Any) -> tuple[TokenVectors, TokenVectors]:
    """Those of the queries and of the passages; of an encoder that nothing has trained they are kept."""
    options: dict[str, Any] = {
        "device": prepared.device, "batch_tokens": config.encoder.batch_tokens, "dtype": STORED
    }  # fmt: skip
    rows = (prepared.query_rows, prepared.passage_rows)
    if prepared.pairs is None:
        queries, passages = (encode_once(model, part, what="token-vectors", **options) for part in rows)
    else:
        queries, passages = (encode(model, part, **options) for part in rows)
    return queries, passages


def _pooled_rankings(config: XTRConfig, prepared: Prepared, model: Any) -> list[Ranking]:
    """Passages by the cosine of mean vectors; a linear map of a mean is the mean of what it maps."""
    tokens = config.encoder.batch_tokens
    vectors = []
    for rows in (prepared.query_rows, prepared.passage_rows):
        means = embed_rows(model.encoder, rows, device=prepared.device, batch_tokens=tokens)
        with torch.no_grad():
            vectors.append(normalize(model.projection(means.to(prepared.device)), dim=-1).cpu())
        check_finite(vectors[-1].numpy())
    count = min(config.search.depth, len(prepared.passages))
    best = nearest(vectors[0], vectors[1], count, device=prepared.device)
    return [by_scores(row, values) for row, values in zip(best.indices.numpy(), best.scores.numpy(), strict=True)]


RECIPE = XTRRecipe
