"""In-context re-ranking as an experiment: candidates ordered by attention, beside letters, an encoder and BM25."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from recipes.core.errors import UserError
from recipes.core.evaluation.heatmaps import heatmap_example
from recipes.core.evaluation.scores import Scores
from recipes.core.models.sentences import load_sentence_encoder
from recipes.core.models.text import context
from recipes.core.recipe import Evaluation, Untrained
from recipes.core.search.collection import Collection
from recipes.core.search.load import load_collection
from recipes.core.search.measures import add_measures
from recipes.core.search.rankings import FILE, Ranking, by_scores, write_run
from recipes.core.training.toys.frozen import load_frozen, model_where
from recipes.retrieval.first_stage import Candidates, candidates, rank_without_model
from recipes.retrieval.icr.config import ICRConfig
from recipes.retrieval.icr.method import calibrate, contrastive_heads, passage_scores, retrieval_heads
from recipes.retrieval.icr.reading import (
    LAST,
    NOTHING,
    QUERY,
    SPAN,
    Attention,
    Prompts,
    attention_once,
    letter_orders,
)  # fmt: skip
from recipes.retrieval.letters.prompts import Asked
from recipes.retrieval.listwise import chat_frame
from recipes.retrieval.reranked import RERANKED, write_reranked

HINT = "A token of a passage weighs the more, up to 16, the more of the query's attention it moved to the passage."
OCTAVES = 4
ASKS_MODEL = ("attention", "letters")
HEAD_SEED = 1_000_003  # apart from that of the shuffled order


@dataclass(frozen=True)
class Prepared:
    """What a run needs.

    Attributes:
        model: A `TextModel` on its device, or None where no language model is asked.
        tokenizer: Its tokenizer, or None.
        collection: What is searched.
        candidates: Of the queries that everything is measured on.
        labelled: Of those that heads are chosen by, or None.
    """

    model: Any
    tokenizer: Any
    collection: Collection
    candidates: Candidates
    labelled: Candidates | None


class ICRRecipe(Untrained):
    """Orders candidates of queries; nothing is trained."""

    def prepare(self, config: ICRConfig, device: str) -> Prepared:
        """Collection, candidates and the model. Raises UserError."""
        collection = load_collection(config.data)
        chosen = candidates(config.first_stage, collection, collection.test, config.data.queries, config.seed, device)
        labelled = None
        if config.scoring.name == "attention" and config.scoring.heads in ("retrieval", "contrastive"):
            labelled = _labelled(config, collection, device)
        asks_model = config.scoring.name in ASKS_MODEL
        model, tokenizer = load_frozen(config, device) if asks_model else (None, None)
        return Prepared(model, tokenizer, collection, chosen, labelled)

    def evaluate(self, config: ICRConfig, prepared: Prepared, model: object, curve: dict[int, Scores]) -> Evaluation:
        """Order the candidates of all queries; measure, write the run, show what moved passages."""
        chosen, passages = prepared.candidates, prepared.collection.passages
        rankings, costs, read = _rank(config, prepared)
        scores = Scores()
        add_measures(scores, config.data.measures, rankings, chosen.queries, passages)
        scores.define("tokens_read", "tokens that the language model reads for a query", False)
        for id, cost in zip(chosen.queries.ids, costs, strict=True):
            scores.add("tokens_read", id, id, cost)
        files = {
            FILE: partial(write_run, rankings=rankings, queries=chosen.queries, passages=passages, tag=config.variant),
            RERANKED: partial(write_reranked, chosen=chosen, passages=passages, rankings=rankings),
        }
        shown = _heatmap(config, prepared, rankings, read) if read else None
        return Evaluation(scores.overall(), scores, shown, files=files)


def _labelled(config: ICRConfig, collection: Collection, device: str) -> Candidates:
    """Queries that are not tested on, each with one relevant passage among its candidates, to choose heads by."""
    if not len(collection.train):
        what = f"scoring.heads={config.scoring.heads} needs queries that are not tested on, and there are none"
        raise UserError(what, collection.where, "type data.train_split=NAME, or scoring.heads=all")
    required = replace(config.first_stage, gold="required")
    return candidates(required, collection, collection.train, config.scoring.labelled, config.seed, device)


def _rank(config: ICRConfig, prepared: Prepared) -> tuple[list[Ranking], list[int], dict[int, Attention]]:
    """Rankings, tokens read for each query, and what was read of those that were asked about."""
    chosen, name = prepared.candidates, config.scoring.name
    free: list[int] = [0] * len(chosen.queries)
    if name not in ASKS_MODEL:
        load = partial(load_sentence_encoder, None, "model")
        return rank_without_model(name, chosen, prepared.collection.passages, load), free, {}
    if name == "letters":  # whose windows go from the last candidate to the first, the first one being [A]
        config = replace(config, prompt=replace(config.prompt, order="forward"))
    asked, numbers = _asked(config, prepared, chosen)
    prompts, language_model = _prompts(config, prepared), prepared.model.language_model
    rankings, costs = list(chosen.given), free
    if name == "letters":
        for number, (order, cost) in zip(numbers, letter_orders(language_model, prompts, asked), strict=True):
            places = [_place(config, place, len(rankings[number])) for place in order]
            rankings[number] = rankings[number].reordered(places, -np.arange(len(places)))
            costs[number] = cost
        return rankings, costs, {}
    heads = _heads(config, prepared, prompts)
    read = dict(zip(numbers, attention_once(prepared.model, prompts, asked), strict=True))
    for number, attention in read.items():
        values = _scores(config, attention, heads)
        rankings[number] = by_scores(rankings[number].passages, _by_candidate(config, values))
        costs[number] = attention.read
    return rankings, costs, read


def _scores(config: ICRConfig, attention: Attention, heads: np.ndarray | None) -> np.ndarray:
    """[n] scores of the passages, in the order of the prompt."""
    if heads is not None:
        return _paid(config, attention)[heads].sum(0)
    return passage_scores(_token_scores(config, attention), _spans(config, attention), config.scoring.mask)


def _paid(config: ICRConfig, attention: Attention) -> np.ndarray:
    """[heads, n] what each head pays to each passage, in the order of the prompt."""
    heads = attention.heads.astype(np.float64)
    return calibrate(heads[QUERY], heads[NOTHING], config.scoring.calibration)


def _token_scores(config: ICRConfig, attention: Attention) -> np.ndarray:
    tokens = attention.tokens[SPAN if config.scoring.tokens == "span" else LAST].astype(np.float64)
    return calibrate(tokens[QUERY], tokens[NOTHING], config.scoring.calibration)


def _spans(config: ICRConfig, attention: Attention) -> list[tuple[int, int]]:
    first = 0 if config.prompt.span == "with_marker" else 1
    return [(int(span[first]), int(span[2])) for span in attention.spans]


def _heads(config: ICRConfig, prepared: Prepared, prompts: Prompts) -> np.ndarray | None:
    """Numbers of the heads that count; None: all."""
    options, model = config.scoring, prepared.model
    text = model.language_model.config.get_text_config()
    total = text.num_hidden_layers * text.num_attention_heads
    if options.heads != "all" and options.head_count > total:
        what = f"the model has {total:,} heads, fewer than {options.head_count:,}"
        raise UserError(what, f"scoring.head_count={options.head_count}", f"type {total} or less")
    if options.heads == "all":
        return None
    if options.heads == "random":
        return np.sort(np.random.default_rng([config.seed, HEAD_SEED]).permutation(total)[: options.head_count])
    assert prepared.labelled is not None
    asked, numbers = _asked(config, prepared, prepared.labelled)
    read = attention_once(model, prompts, asked)
    paid = [_paid(config, each) for each in read]  # [heads, n] each
    right = [_right(config, prepared.labelled, number) for number in numbers]
    if options.heads == "retrieval":
        gold = np.stack([each[:, places].sum(1) for each, places in zip(paid, right, strict=True)])
        return retrieval_heads(gold, options.head_count)
    return contrastive_heads(paid, [places[0] for places in right], options.temperature, options.head_count)


def _right(config: ICRConfig, chosen: Candidates, number: int) -> list[int]:
    """Places of the relevant passages of a query in its prompt."""
    relevant, given = set(chosen.queries.relevant(number)), chosen.given[number].passages
    return [_place(config, place, len(given)) for place, passage in enumerate(given) if int(passage) in relevant]


def _asked(config: ICRConfig, prepared: Prepared, chosen: Candidates) -> tuple[list[Asked], list[int]]:
    """Queries that have candidates, these in the order of the prompt, and the numbers of the queries."""
    passages, asked, numbers = prepared.collection.passages, list[Asked](), list[int]()
    for number, (text, ranking) in enumerate(zip(chosen.queries.texts, chosen.given, strict=True)):
        if len(ranking):
            order = [int(ranking.passages[_place(config, place, len(ranking))]) for place in range(len(ranking))]
            asked.append(Asked(text, [passages.titled(each) for each in order]))
            numbers.append(number)
    return asked, numbers


def _place(config: ICRConfig, place: int, count: int) -> int:
    """Where in the prompt the candidate at a place stands, and the other way round."""
    return count - 1 - place if config.prompt.order == "reverse" else place


def _by_candidate(config: ICRConfig, values: np.ndarray) -> np.ndarray:
    """[n] values of passages in the order of the candidates, from those in the order of the prompt."""
    return values[::-1] if config.prompt.order == "reverse" else values


def _prompts(config: ICRConfig, prepared: Prepared) -> Prompts:
    longest, where = context(prepared.model), model_where(config.model)
    return Prompts(chat_frame(prepared.tokenizer), config.prompt, config.scoring.query_span, longest, where)


def _heatmap(
    config: ICRConfig, prepared: Prepared, rankings: Sequence[Ranking], read: dict[int, Attention]
) -> dict[str, Any] | None:
    """Content of `heatmap.json`: the first passages of some queries, shaded by what moved them."""
    examples, chosen, tokenizer = [], prepared.candidates, prepared.tokenizer
    for number in list(read)[: config.prompt.shown]:
        attention, given = read[number], chosen.given[number].passages
        values = _token_scores(config, attention)
        largest = max((float(np.abs(values[start:end]).max()) for start, end in _spans(config, attention)), default=0.0)
        for rank, passage in enumerate(rankings[number].passages[:3], 1):
            place = int(np.flatnonzero(given == passage)[0])
            _, start, end = attention.spans[_place(config, place, len(given))]
            weights = 2.0 ** (OCTAVES * values[start:end] / (largest or 1.0))
            texts = [tokenizer.decode([int(token)]) for token in attention.ids[start:end]]
            grade = " (relevant)" if chosen.queries.grades[number].get(int(passage), 0) > 0 else ""
            name = f"{chosen.queries.texts[number]}: from {place + 1} to {rank}{grade}"
            examples.append(heatmap_example(name, texts, weights, np.zeros(len(texts))))
    return {"hint": HINT, "examples": examples} if examples else None


RECIPE = ICRRecipe
