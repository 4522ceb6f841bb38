"""TILDEv2 as an experiment: candidates ordered by weighed terms, beside uniform weights, TILDE, BM25 and an encoder."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from recipes.core.errors import UserError
from recipes.core.evaluation.curves import regular_steps
from recipes.core.evaluation.scores import Scores
from recipes.core.models.dropout import evaluation
from recipes.core.models.run_models import describer
from recipes.core.recipe import Evaluation
from recipes.core.search.collection import Collection, Queries
from recipes.core.search.load import load_collection
from recipes.core.search.measures import add_measures
from recipes.core.search.pairs import TrainingPairs, pair_collate, targets, training_pairs, training_queries
from recipes.core.search.rankings import FILE, best, by_scores, write_run
from recipes.core.training.task import Training
from recipes.core.training.trainer import check_one_batch
from recipes.retrieval.encoders import load_encoder, text_rows
from recipes.retrieval.first_stage import Candidates, candidates
from recipes.retrieval.reranked import RERANKED, write_reranked
from recipes.retrieval.tildev2.config import DEPTH, INDEXED, TILDE, TildeV2Config
from recipes.retrieval.tildev2.expansion import Texts, read_texts, tilde_of
from recipes.retrieval.tildev2.index import FILE as INDEX
from recipes.retrieval.tildev2.index import TermIndex
from recipes.retrieval.tildev2.measures import add_costs, add_coverage, add_expansion, time_scores
from recipes.retrieval.tildev2.rankers import ByBM25, ByEncoder, ByLikelihood, LookUp, Ranker, weigh_passages
from recipes.retrieval.tildev2.showing import WRITTEN, learning, matched_terms, shaded
from recipes.retrieval.tildev2.terms import TermLoss, TermWeights, token_classifier
from recipes.retrieval.tildev2.tilde import Tilde

WHOLE, WHOLE_FILE = "whole/", "whole.trec"


@dataclass(frozen=True)
class Prepared:
    """What a run needs.

    Attributes:
        collection: What is searched.
        candidates: Of the queries that everything is measured on.
        asked: As many queries, whether or not they have a relevant candidate, for rankings of the whole collection.
        device: Where to compute.
        body: The encoder; None: no terms are read.
        texts: Passages as ids; None: no terms are read.
        pairs: What is learnt from; None: nothing is.
        held_out: What the learning curve is measured on, where something is learnt.
        weights: What weighs terms without being trained; None: what is trained does, or nothing.
        tilde: The TILDE that ranks; None: something else does.
    """

    collection: Collection
    candidates: Candidates
    asked: Queries
    device: str
    body: Any = None
    texts: Texts | None = None
    pairs: TrainingPairs | None = None
    held_out: TrainingPairs | None = None
    weights: TermWeights | None = None
    tilde: Tilde | None = None


class TildeV2Recipe:
    """Ranks by terms; weights are trained where the scorer has some."""

    def prepare(self, config: TildeV2Config, device: str) -> Prepared:
        """Collection, candidates, expanded passages and training pairs. Raises UserError."""
        collection = load_collection(config.data)
        chosen = candidates(config.first_stage, collection, collection.test, config.data.queries, config.seed, device)
        asked = collection.test.draw(config.data.queries, config.seed)
        if config.terms.scorer not in (*INDEXED, TILDE):
            return Prepared(collection, chosen, asked, device)
        check_queries(config, collection)
        body, weights = None, None
        if config.terms.model is None:
            body, tokenizer = load_encoder(config.model, config.encoder.trainable_layers)
        else:
            weights, tokenizer = TermWeights.load(config.terms.model)
            body = weights.body
        texts = read_texts(config, collection, body, tokenizer, device)
        pairs, held_out = _pairs(config, collection, body, texts) if config.learns else (None, None)
        ranks = config.terms.scorer == TILDE
        tilde = tilde_of(config, collection, texts.plain, texts.tokenizer, texts.words) if ranks else None
        return Prepared(collection, chosen, asked, device, body, texts, pairs, held_out, weights, tilde)

    def build(self, config: TildeV2Config, prepared: Prepared) -> Training | None:
        """Weights of terms; all arms of a seed share initialisation, pairs and their order."""
        if not config.learns:
            return None
        assert prepared.texts is not None and prepared.pairs is not None
        model = TermWeights(prepared.body)
        loss = _loss(config, prepared)
        names = [("body.", "bert."), ("head.", "classifier.")]
        view, tokenizer = token_classifier(prepared.body.config), prepared.texts.tokenizer
        return Training(
            model,
            loss,
            prepared.pairs,  # type: ignore[arg-type]
            pair_collate,
            {"head.": config.terms.learning_rate},
            regular_steps(config.trainer.max_steps, config.watch.every),
            before_step=loss.before_step,
            describe=describer(model, tokenizer, view=view, prefixes=names),
        )

    def watch(self, config: TildeV2Config, prepared: Prepared, model: Any) -> Scores:
        """The loss of queries that are not trained on, as of one batch, and how often their passage is first."""
        pairs, scores = prepared.held_out, Scores()
        assert pairs is not None
        batch = pair_collate([pairs[number] for number in range(len(pairs))])
        tensors = {name: values.to(prepared.device) for name, values in batch.items() if name != "ids"}
        loss = _loss(config, prepared)
        with evaluation(model), torch.no_grad():
            losses, right = loss.losses(loss.encode_batch(model, tensors), *targets(tensors))
        scores.define("watch/loss", "cross-entropy of held-out queries among the passages of all", False)
        scores.define("watch/accuracy", "held-out queries whose passage is first of those of all", True)
        for id, value, first in zip(pairs.ids, losses.tolist(), right["accuracy"].tolist(), strict=True):
            scores.add("watch/loss", id, id, value)
            scores.add("watch/accuracy", id, id, first)
        return scores

    def evaluate(self, config: TildeV2Config, prepared: Prepared, model: Any, curve: dict[int, Scores]) -> Evaluation:
        """Order the candidates of all queries, and where all passages are weighed the whole collection; measure."""
        chosen, passages = prepared.candidates, prepared.collection.passages
        weights, ranker = _ranker(config, prepared, model or prepared.weights)
        timed = time_scores(ranker, chosen)
        rankings = [by_scores(given.passages, values) for given, values in zip(chosen.given, timed.scores, strict=True)]
        scores, tag = Scores(), config.variant
        add_measures(scores, config.data.measures, rankings, chosen.queries, passages)
        files: dict[str, Any] = {
            FILE: partial(write_run, rankings=rankings, queries=chosen.queries, passages=passages, tag=tag),
        }
        more = partial(matched_terms, ranker) if isinstance(ranker, LookUp) else None
        files[RERANKED] = partial(
            write_reranked, chosen=chosen, passages=passages, rankings=rankings, first=WRITTEN, more=more
        )
        if config.terms.passages == "all":
            whole = [best_of(ranker, text) for text in prepared.asked.texts]
            add_measures(scores, config.data.measures, whole, prepared.asked, passages, prefix=WHOLE)
            files[WHOLE_FILE] = partial(write_run, rankings=whole, queries=prepared.asked, passages=passages, tag=tag)
        extra = add_costs(scores, timed, ranker)
        shown = None
        if isinstance(ranker, LookUp) and prepared.texts is not None:
            files[INDEX] = partial(ranker.index.save, ids=passages.ids)
            add_coverage(scores, config, prepared.texts, prepared.asked)
            extra |= add_expansion(scores, ranker.index, prepared.texts, list(weights))
            shown = shaded(config.terms.shown, prepared.texts, chosen, rankings, weights)
        return Evaluation(scores.overall() | extra, scores.without_empty_rows(), shown, learning(curve), files=files)


def best_of(ranker: Ranker, text: str) -> Any:
    """The first passages of the whole collection; of equal scores the first of the collection."""
    values = ranker.scores(text)
    if isinstance(ranker, LookUp | ByBM25):
        return best(values, DEPTH)
    return by_scores(np.arange(len(values)), values).first(DEPTH)


def check_queries(config: TildeV2Config, collection: Collection) -> None:
    """Refuse what cannot be trained before anything is. Raises UserError."""
    if not config.learns and not (config.needs_tilde and config.expansion.steps):
        return
    try:
        count = len(training_queries(config.pairs, collection, config.seed))
    except UserError as error:
        hint = f"{error.hint}; or train nothing: type terms.model=RUN expansion.name=none"
        raise UserError(error.what, error.where, hint) from error
    if config.learns:
        check_one_batch(count - held_out_count(config, count), config.trainer)


def _loss(config: TildeV2Config, prepared: Prepared) -> TermLoss:
    assert prepared.texts is not None
    stop = torch.zeros(int(prepared.body.config.vocab_size), dtype=torch.bool)
    stop[sorted(prepared.texts.stop)] = True
    return TermLoss(stop, config.terms.scorer == "unicoil")


def _pairs(
    config: TildeV2Config, collection: Collection, body: Any, texts: Texts
) -> tuple[TrainingPairs, TrainingPairs]:
    """What is trained on, and what is held out of it; of fewer than four queries all are both."""
    asked = training_queries(config.pairs, collection, config.seed)
    queries = text_rows(body, texts.tokenizer, asked.texts, config.encoder.query_tokens, "queries")
    pairs = training_pairs(config.pairs, collection, asked, queries, texts.rows, config.seed)
    order = np.random.default_rng(config.seed).permutation(len(pairs))
    count = held_out_count(config, len(pairs))
    return _part(pairs, order[count:]), _part(pairs, order[: count or len(pairs)])


def held_out_count(config: TildeV2Config, queries: int) -> int:
    """How many of the queries to train on are held out."""
    return min(config.watch.queries, queries // 4)


def _part(pairs: TrainingPairs, numbers: np.ndarray) -> TrainingPairs:
    rows = sorted(numbers.tolist())
    ids, queries, relevant = ([part[row] for row in rows] for part in (pairs.ids, pairs.queries, pairs.relevant))
    return replace(pairs, ids=ids, queries=queries, shown=pairs.shown[rows], relevant=relevant)  # type: ignore[arg-type]


def _ranker(config: TildeV2Config, prepared: Prepared, model: Any) -> tuple[dict[int, np.ndarray], Ranker]:
    """Weights of the tokens of passages, where there are such, and what ranks."""
    passages, device, scorer = prepared.collection.passages, prepared.device, config.terms.scorer
    numbers = _numbers(config, prepared)
    if scorer == "bm25":
        return {}, ByBM25(passages, config.first_stage.k1, config.first_stage.b)
    if scorer == "encoder":
        return {}, ByEncoder(passages, numbers, device)
    texts, encoder = prepared.texts, config.encoder
    assert texts is not None
    if prepared.tilde is not None:
        asked = [*prepared.candidates.queries.texts, *prepared.asked.texts]
        return {}, ByLikelihood(
            prepared.tilde,
            texts,
            numbers,
            asked,
            config.terms.alpha,
            encoder.query_tokens,
            device,
            encoder.batch_tokens,
        )
    weights = weigh_passages(model, texts, numbers, device, encoder.batch_tokens)
    nothing: tuple[Sequence[int], np.ndarray] = ([], np.zeros(0))
    count = range(len(passages))
    rows = ((texts.rows[number], weights[number]) if number in weights else nothing for number in count)
    index = TermIndex.build(rows, texts.stop)
    if config.terms.quantise == "int8":
        index = index.quantise()
    weigh = partial(query_weights, model, device) if scorer == "unicoil" else None
    return weights, LookUp(index, texts, encoder.query_tokens, len(numbers), weigh)


@torch.no_grad()
def query_weights(model: Any, device: str, ids: Sequence[int]) -> np.ndarray:
    """[tokens] weights of the tokens of a query."""
    asked = torch.tensor([list(ids)], device=device)
    weights: np.ndarray = model.eval()(asked, torch.ones_like(asked))[0, :, 0].float().cpu().numpy()
    return weights


def _numbers(config: TildeV2Config, prepared: Prepared) -> list[int]:
    """Passages that are weighed."""
    if config.terms.passages == "all":
        return list(range(len(prepared.collection.passages)))
    return sorted({int(number) for ranking in prepared.candidates.given for number in ranking.passages})


RECIPE = TildeV2Recipe
