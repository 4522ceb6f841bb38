"""Ranking by letters as an experiment: a model learns from lists, orders the candidates of queries, and is measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from recipes.core.errors import UserError
from recipes.core.evaluation.curves import regular_steps
from recipes.core.evaluation.heatmaps import heatmap_example
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.messages import note
from recipes.core.models.adapters import with_adapters
from recipes.core.models.dropout import evaluation
from recipes.core.models.run_models import describer
from recipes.core.models.sentences import load_sentence_encoder
from recipes.core.models.text import build_language_model, context
from recipes.core.models.vision_language import TextModel
from recipes.core.recipe import Evaluation
from recipes.core.search.collection import Collection, Passages
from recipes.core.search.load import load_collection
from recipes.core.search.measures import add_measures
from recipes.core.search.rankings import FILE, Ranking, write_run
from recipes.core.training.task import Training
from recipes.core.training.toys.config import ToyLMConfig
from recipes.core.training.toys.frozen import build_tokenizer, model_where
from recipes.core.training.toys.language import ToyLM
from recipes.core.training.trainer import check_one_batch
from recipes.retrieval.config import FirstStageConfig
from recipes.retrieval.first_stage import Candidates, candidates, rank_without_model
from recipes.retrieval.letters.config import LettersRunConfig
from recipes.retrieval.letters.lists import ListItems, list_collate, teach
from recipes.retrieval.letters.objective import Listwise, list_scores
from recipes.retrieval.letters.orders import kendall_tau
from recipes.retrieval.letters.prompts import Asked, LetterPrompts
from recipes.retrieval.letters.reading import Ordered, last_logits, order_lists
from recipes.retrieval.listwise import chat_frame, cut_words
from recipes.retrieval.reranked import RERANKED, write_reranked

HINT = "A passage weighs n times the probability of its name among the n names, in one forward."


@dataclass(frozen=True)
class Prepared:
    """What a run needs.

    Attributes:
        collection: What is searched.
        candidates: Of the queries that everything is measured on.
        device: Where the run computes.
        load: Makes the model as it is before it is tuned; None where no model is asked.
        prompts: Of that model.
        train: Lists that it learns from; None where it learns nothing.
        held_out: The first candidates of the queries that are measured, as lists; None where no model is asked.
    """

    collection: Collection
    candidates: Candidates
    device: str
    load: Callable[[], TextModel] | None = None
    prompts: LetterPrompts | None = None
    train: ListItems | None = None
    held_out: ListItems | None = None

    @property
    def tokenizer(self) -> Any:
        """Of the model."""
        assert self.prompts is not None
        return self.prompts.frame.reader.tokenizer


class LettersRecipe:
    """Orders candidates by letters. A recipe overrides where its method differs."""

    def prepare(self, config: LettersRunConfig, device: str) -> Prepared:
        """Collection, candidates, lists with the teacher's order. Raises UserError."""
        collection = load_collection(config.data)
        chosen = candidates(config.first_stage, collection, collection.test, config.data.queries, config.seed, device)
        prepared = Prepared(collection, chosen, device)
        if not config.asks:
            return prepared
        load, prompts = _model(config)
        passages = collection.passages
        note_cuts(passages, chosen.given, config.prompt.words)
        size = min(config.first_stage.candidates, config.prompt.window)
        heads = [ranking.first(size) for ranking in chosen.given]
        held_out = ListItems(teach(config.tuning, chosen.queries, passages, heads, device), prompts)
        train = _train_lists(config, collection, prompts, device) if config.tunes else None
        return replace(prepared, load=load, prompts=prompts, held_out=held_out, train=train)

    def build(self, config: LettersRunConfig, prepared: Prepared) -> Training | None:
        """The model and its lists; None where it is taken as it is."""
        if prepared.train is None:
            return None
        assert prepared.load is not None and prepared.prompts is not None and prepared.held_out is not None
        model = with_adapters(prepared.load(), config.lora, config.seed)
        objective = Listwise(config.tuning, prepared.prompts.tokens(prepared.train.largest), config.trainer.max_steps)
        steps = regular_steps(config.trainer.max_steps, config.evaluation.watch_every)
        rows: Any = prepared.train
        describe = describer(model, prepared.tokenizer)
        return Training(model, objective, rows, list_collate, {}, steps, objective.before_step, describe)

    def watch(self, config: LettersRunConfig, prepared: Prepared, model: Any) -> Scores:
        """Losses and first names of held-out lists."""
        assert prepared.held_out is not None and prepared.prompts is not None
        names = prepared.prompts.tokens(prepared.held_out.largest)
        return list_scores(model, prepared.held_out, names, config.prompt.batch_size, prepared.device)

    def evaluate(
        self, config: LettersRunConfig, prepared: Prepared, model: Any, curve: dict[int, Scores]
    ) -> Evaluation:
        """Order the candidates of all queries; measure, write the run."""
        scores = Scores()
        ordered: Sequence[Ordered] | None = None
        if config.asks:
            model = model or _frozen(prepared)
            scores = curve[max(curve)] if curve else self.watch(config, prepared, model)
            ordered = self.order(config, prepared, model)
            rankings = [
                given.reordered(each.order, -np.arange(len(given), dtype=np.float64))
                for given, each in zip(prepared.candidates.given, ordered, strict=True)
            ]
        else:
            load = partial(load_sentence_encoder, config.tuning.encoder, "tuning.encoder", prepared.device)
            rankings = rank_without_model(config.ranking.by, prepared.candidates, prepared.collection.passages, load)
        chosen, passages = prepared.candidates, prepared.collection.passages
        add_measures(scores, config.data.measures, rankings, chosen.queries, passages)
        if ordered is not None:
            _add_work(scores, prepared, ordered)
            _add_teacher(scores, prepared, ordered)
        self.add_scores(config, prepared, scores, rankings, model)
        files = {
            FILE: partial(write_run, rankings=rankings, queries=chosen.queries, passages=passages, tag=config.variant),
            RERANKED: partial(write_reranked, chosen=chosen, passages=passages, rankings=rankings),
        }
        shown = _heatmap(config, prepared, model) if ordered is not None else None
        return Evaluation(scores.overall(), scores, shown, self.plots(config, scores), files=files)

    def add_scores(
        self, config: Any, prepared: Prepared, scores: Scores, rankings: Sequence[Ranking], model: Any
    ) -> None:
        """What a recipe measures besides.

        Args:
            config: The run's.
            prepared: Its data.
            scores: Where to.
            rankings: Candidates of each query in their new order.
            model: The `TextModel` that ordered them; None where none did.
        """

    def plots(self, config: Any, scores: Scores) -> Sequence[Plot]:
        """What the report of a recipe draws besides."""
        return ()

    def order(self, config: LettersRunConfig, prepared: Prepared, model: Any) -> list[Ordered]:
        """The order of all candidates of each query, by the model."""
        assert prepared.prompts is not None
        passages, chosen, prompt = prepared.collection.passages, prepared.candidates, config.prompt
        asked = [
            Asked(text, [passages.titled(each) for each in ranking.passages.tolist()])
            for text, ranking in zip(chosen.queries.texts, chosen.given, strict=True)
        ]
        size = (prompt.window, prompt.stride, prompt.batch_size)
        return order_lists(model.language_model, prepared.prompts, asked, config.ranking, *size)


def note_cuts(passages: Passages, rankings: Sequence[Ranking], words: int) -> None:
    """Tell how many candidates are longer than what a prompt holds of one."""
    numbers = sorted({int(number) for ranking in rankings for number in ranking.passages})
    texts = [passages.titled(number) for number in numbers]
    if long := sum(any(len(cut_words(each, words)) < len(each.strip()) for each in pair) for pair in texts):
        note(f"{long:,} of {len(numbers):,} candidates are cut to {words} words in a prompt (prompt.words)")


def _heatmap(config: LettersRunConfig, prepared: Prepared, model: Any) -> dict[str, Any] | None:
    """Content of `heatmap.json`: the passages of some queries, shaded by the probability of their names."""
    assert prepared.held_out is not None and prepared.prompts is not None
    items, prompts = prepared.held_out, prepared.prompts
    count = min(config.evaluation.shown, len(items))
    if not count:
        return None
    with torch.no_grad(), evaluation(model):
        logits = last_logits(model.language_model, items.prompts[:count])
    examples = []
    for each, row in zip(items.lists[:count], logits, strict=True):
        n = len(each.ranks)
        weights = n * row[prompts.tokens(n)].softmax(0).double().numpy(force=True)
        texts = [
            f"[{name}] ({rank} by the teacher) {' '.join((title + ' ' + text).split())}\n"
            for name, rank, (title, text) in zip(prompts.names(n), each.ranks, each.asked.passages, strict=True)
        ]
        examples.append(heatmap_example(each.asked.text, texts, weights, np.zeros(n)))
    return {"hint": HINT, "examples": examples}


def _model(config: LettersRunConfig) -> tuple[Callable[[], TextModel], LetterPrompts]:
    """What makes the model, and its prompts. A toy is trained if no run has done so before."""
    tokenizer = build_tokenizer(config)
    if isinstance(config.model, ToyLMConfig):
        load: Callable[[], TextModel] = ToyLM(config.model, config.trainer, config.seed).load
    else:
        load = partial(build_language_model, config.model, tokenizer, config.seed)
    prompt, where = config.prompt, model_where(config.model)
    return load, LetterPrompts(chat_frame(tokenizer), prompt.words, context(load()), where, prompt.names)


def _frozen(prepared: Prepared) -> TextModel:
    assert prepared.load is not None
    return prepared.load().requires_grad_(False).eval().to(prepared.device)


def _train_lists(config: LettersRunConfig, collection: Collection, prompts: LetterPrompts, device: str) -> ListItems:
    """Lists of queries that nothing is measured on, each with a relevant passage among the first of BM25."""
    if not len(collection.train):
        what = "has no queries to learn from"
        hint = "type data.train_split=NAME of other judgements, or tuning.objective=none"
        raise UserError(what, collection.where, hint)
    tuning, stage = config.tuning, config.first_stage
    bm25 = FirstStageConfig(
        candidates=tuning.passages, order=tuning.order, gold="required", k1=stage.k1, b=stage.b, seed=stage.seed
    )
    chosen = candidates(bm25, collection, collection.train, tuning.lists, config.seed, device)
    items = ListItems(teach(tuning, chosen.queries, collection.passages, chosen.given, device), prompts)
    check_one_batch(len(items), config.trainer)
    return items


def _add_work(scores: Scores, prepared: Prepared, ordered: Sequence[Ordered]) -> None:
    """What the orders took, of each query."""
    scores.define("prefills", "forwards over a prompt, for a query", False)
    scores.define("decode_steps", "forwards over one token more, for a query", False)
    scores.define("forwards", "forwards of the language model, for a query", False)
    scores.define("tokens_read", "tokens that the language model reads, for a query", False)
    scores.define("malformed", "windows whose answer names not each passage once, for a query", False)
    scores.define("ms", "time of the language model for a query, on this machine (ms)", False)
    for id, each in zip(prepared.candidates.queries.ids, ordered, strict=True):
        work = each.work
        scores.add("prefills", id, id, work.prefills)
        scores.add("decode_steps", id, id, work.decode_steps)
        scores.add("forwards", id, id, work.prefills + work.decode_steps)
        scores.add("tokens_read", id, id, work.tokens)
        scores.add("malformed", id, id, work.malformed)
        scores.add("ms", id, id, 1000 * work.seconds)


def _add_teacher(scores: Scores, prepared: Prepared, ordered: Sequence[Ordered]) -> None:
    """Agreement of the orders with the teacher's, where all candidates of a query are one list."""
    assert prepared.held_out is not None
    taught = {each.id: each for each in prepared.held_out.lists}
    scores.define("teacher_tau", "Kendall's tau between the order and the teacher's", True)
    for id, each in zip(prepared.candidates.queries.ids, ordered, strict=True):
        if id in taught and len(taught[id].ranks) == len(each.order):
            scores.add("teacher_tau", id, id, kendall_tau(each.order, taught[id].order))
