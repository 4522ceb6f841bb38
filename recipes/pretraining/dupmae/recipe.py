"""DupMAE as an experiment: an encoder pre-trained on text, then equal fine-tuning, and search of a collection."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from recipes.core.data.text.text_ids import TextIds
from recipes.core.errors import UserError
from recipes.core.evaluation.curves import regular_steps
from recipes.core.evaluation.plots import Plot
from recipes.core.evaluation.scores import Scores
from recipes.core.messages import note
from recipes.core.models.run_models import describer
from recipes.core.models.small_encoder import build_encoder_tokenizer, check_known, special_tokens
from recipes.core.recipe import Evaluation
from recipes.core.search.load import load_collection
from recipes.core.search.pairs import training_pairs, training_queries
from recipes.core.search.rankings import FILE, write_run
from recipes.core.storage.files import sha256_json
from recipes.core.training.task import Training
from recipes.pretraining.dupmae.config import RECALL, DupMAEConfig
from recipes.pretraining.dupmae.items import MaskedPieces, cut_pieces, read_texts
from recipes.pretraining.dupmae.measuring import (
    Searched,
    add_bags,
    measure_after,
    measure_before,
    measure_bm25,
    write_retrieved,
)
from recipes.pretraining.dupmae.model import NAMES, DuplexAutoEncoder, DuplexLoss, as_transformers, build_masked_lm
from recipes.pretraining.masked_rows import Pieces

RETRIEVED = "retrieved.jsonl"


@dataclass(frozen=True)
class Prepared:
    """What the arms of a seed share.

    Attributes:
        pieces: Ids of the texts of pre-training; None where nothing is pre-trained.
        searched: Collection, queries, pairs, tokenizer.
    """

    pieces: Pieces | None
    searched: Searched


class DupMAERecipe:
    """An encoder with two weak decoders, judged by the retriever that fine-tuning makes of it."""

    def prepare(self, config: DupMAEConfig, device: str) -> Prepared:
        """Collection, tokenizer, ids of all texts, pairs. Raises UserError: any of them cannot be had."""
        collection = load_collection(config.data)
        queries = collection.test.draw(config.data.queries, config.seed)
        passages, queries = collection.part(queries, config.evaluation.passages, config.seed)
        train = training_queries(config.pairs, collection, config.seed)
        if len(train) == 1 and not config.pairs.negatives:
            what = "has one query to train on, whose passage would be chosen from itself"
            raise UserError(what, collection.where, "give more, or type pairs.negatives=1")
        every, length, most = collection.passages, config.pretraining.length, config.fine_tuning.query_tokens
        wholes = [every.whole(number) for number in range(len(every))]
        texts = wholes if config.pretraining.path is None else read_texts(config.pretraining.path)
        tokenizer = build_encoder_tokenizer(config.model, lambda: texts, sha256_json(texts))
        ids = TextIds(tokenizer)
        cut = ids.batch(wholes)
        text_ids = cut if texts is wholes or not config.trains else ids.batch(texts)
        pieces = cut_pieces(tokenizer, text_ids, length) if config.trains else None
        rows = _rows(tokenizer, cut, length, "passages")
        train_rows, query_rows = (
            _rows(tokenizer, ids.batch(list(asked.texts)), most, what)
            for asked, what in ((train, "queries to train on"), (queries, "queries"))
        )
        pairs = training_pairs(config.pairs, collection, train, train_rows, rows, config.seed)
        passage_rows = [rows[every.number_of[id]] for id in passages.ids]
        special = special_tokens(tokenizer)
        searched = Searched(passages, queries, passage_rows, query_rows, pairs, tokenizer, special, device)
        return Prepared(pieces, searched)

    def build(self, config: DupMAEConfig, prepared: Prepared) -> Training | None:
        """Encoder and decoders; all arms of a seed share the encoder's first weights, texts and masks."""
        if prepared.pieces is None:
            return None
        tokenizer, trainer, part = prepared.searched.tokenizer, config.trainer, config.pretraining
        lm = build_masked_lm(config.model, tokenizer, config.seed)
        size = trainer.max_steps * trainer.batch_size
        items: Any = MaskedPieces(prepared.pieces, size, part, tokenizer, config.seed)
        return Training(
            DuplexAutoEncoder(lm, part, config.seed),
            DuplexLoss(part.bow_weight),
            items,
            items.collate,
            watch_steps=regular_steps(trainer.max_steps, config.evaluation.watch_every),
            describe=describer(lm, tokenizer, view=as_transformers(lm), prefixes=NAMES),
        )

    def watch(self, config: DupMAEConfig, prepared: Prepared, model: Any) -> Scores:
        """Bags of words of passages."""
        scores = Scores()
        add_bags(scores, config, prepared.searched, model.lm)
        return scores

    def evaluate(self, config: DupMAEConfig, prepared: Prepared, model: Any, curve: dict[int, Scores]) -> Evaluation:
        """Search before and after fine-tuning, and by BM25."""
        scores, searched = Scores(), prepared.searched
        lm = build_masked_lm(config.model, searched.tokenizer, config.seed) if model is None else model.lm
        add_bags(scores, config, searched, lm)
        plots = [measure_before(scores, config, searched, lm)]
        retrieved = measure_after(scores, config, searched, lm)
        measure_bm25(scores, config, searched)
        shares = {float(step): measured.overall().get(RECALL) for step, measured in sorted(curve.items())}
        points = [(step, share) for step, share in shares.items() if share is not None]  # None: no passage has a word
        if points:
            title = f"Words of passages among the {config.evaluation.terms} largest entries of mu"
            plots.append(Plot("bags", title, "steps", "share", {RECALL: points}))
        files = {
            RETRIEVED: partial(write_retrieved, searched=searched, retrieved=retrieved),
            FILE: partial(
                write_run,
                rankings=retrieved.rankings,
                queries=searched.queries,
                passages=searched.passages,
                tag=config.variant,
            ),
        }
        return Evaluation(scores.overall(), scores, plots=plots, files=files)


def _rows(tokenizer: Any, texts: Sequence[Sequence[int]], longest: int, what: str) -> list[list[int]]:
    """Ids of texts with [CLS] and [SEP]; what is too long is cut, and counted."""
    check_known(tokenizer, texts, f"the {what}")
    room = longest - 2
    if long := sum(len(ids) > room for ids in texts):
        note(f"{long:,} of {len(texts):,} {what} are cut to {longest} tokens")
    return [[tokenizer.cls_token_id, *ids[:room], tokenizer.sep_token_id] for ids in texts]


RECIPE = DupMAERecipe
