"""Passages with terms that they do not say: likely ones by TILDE, drawn ones, frequent ones, those of the user."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recipes.core.data.files.json_records import Bad
from recipes.core.data.files.records import BadRow, judge, open_records
from recipes.core.data.text.text_ids import TextIds
from recipes.core.errors import UserError
from recipes.core.search.collection import Collection, id_seed
from recipes.core.search.pairs import training_queries
from recipes.retrieval.encoders import text_rows
from recipes.retrieval.tildev2.config import TildeV2Config
from recipes.retrieval.tildev2.method import expand, missing_terms
from recipes.retrieval.tildev2.stopwords import bad_ids, stop_ids
from recipes.retrieval.tildev2.tilde import Pairs, Tilde, frequencies, likely_once, load_tilde, marked, train_tilde

KEY = "expansion.path"


@dataclass(frozen=True)
class Texts:
    """Passages and stop words as ids.

    Attributes:
        tokenizer: Of the encoder.
        plain: Of each passage the ids of its text, CLS and SEP included.
        rows: The same with its expansion.
        stop: Ids that count nowhere.
        words: Ids that are no terms, whether or not they count.
    """

    tokenizer: Any
    plain: Sequence[list[int]]
    rows: Sequence[list[int]]
    stop: frozenset[int]
    words: frozenset[int]

    def query(self, text: str, longest: int) -> list[int]:
        """Ids of a query, CLS and SEP included."""
        return TextIds(self.tokenizer).with_special_tokens([text], longest)[0]


def read_texts(config: TildeV2Config, collection: Collection, body: Any, tokenizer: Any, device: str) -> Texts:
    """The passages of a collection as a config expands them. Raises UserError."""
    passages = collection.passages
    texts = [passages.whole(number) for number in range(len(passages))]
    words = stop_ids(tokenizer, config.terms.pieces)
    stop = words if config.terms.drop_stop else frozenset(tokenizer.all_special_ids)
    longest = config.encoder.passage_tokens
    text_rows(body, tokenizer, [], longest, "passages")  # refuses more tokens than the encoder has positions
    plain = text_rows(body, tokenizer, texts, config.passage_tokens, "passages")
    rows = plain
    if config.expands:
        terms = _terms(config, collection, plain, tokenizer, words, device)
        rows = [expand(row, terms(number), longest) for number, row in enumerate(plain)]
    return Texts(tokenizer, plain, rows, stop, words)


def tilde_of(
    config: TildeV2Config, collection: Collection, plain: Sequence[list[int]], tokenizer: Any, words: frozenset[int]
) -> Tilde:
    """The user's TILDE, or the one that runs with this collection share, trained if need be. Raises UserError."""
    options = config.expansion
    model = load_tilde(config.model, options, tokenizer)
    if not options.steps:
        return model.requires_grad_(False)
    asked = training_queries(config.pairs, collection, options.seed)
    queries = text_rows(model.body, tokenizer, asked.texts, config.encoder.query_tokens, "queries")
    numbers = [asked.relevant(number)[0] for number in range(len(asked))]
    pairs = Pairs(marked(tokenizer, queries, "query"), marked(tokenizer, plain, "passage"), numbers)
    return train_tilde(model, options, config.trainer, pairs, words)


def _terms(
    config: TildeV2Config,
    collection: Collection,
    plain: Sequence[list[int]],
    tokenizer: Any,
    words: frozenset[int],
    device: str,
) -> Callable[[int], list[int]]:
    """From the number of a passage to what is appended to it."""
    options, bad = config.expansion, bad_ids(tokenizer, words)
    if options.name == "file":
        return _of_file(config, collection, plain, tokenizer, bad)
    model = tilde_of(config, collection, plain, tokenizer, words)
    rows = marked(tokenizer, plain, "passage")
    likely = likely_once(model, rows, options.top, device, config.encoder.batch_tokens)

    def by_tilde(number: int) -> list[int]:
        return missing_terms(likely[number].tolist(), plain[number], bad)

    if options.name == "tilde":
        return by_tilde
    order = _control_order(config, collection, tokenizer, bad)

    def as_many(number: int) -> list[int]:
        count = len(by_tilde(number))
        return missing_terms(order(collection.passages.ids[number]), plain[number], bad)[:count]

    return as_many


def _control_order(
    config: TildeV2Config, collection: Collection, tokenizer: Any, bad: frozenset[int]
) -> Callable[[str], list[int]]:
    """From the id of a passage to terms, of which it gets the first: drawn, or by frequency in training queries."""
    terms = np.array(sorted(set(tokenizer.get_vocab().values()) - bad))
    if config.expansion.name == "frequent":
        asked = training_queries(config.pairs, collection, config.expansion.seed)
        counts = frequencies(TextIds(tokenizer).batch(asked.texts), int(terms.max()) + 1)[terms]
        frequent = terms[np.argsort(-counts, kind="stable")].tolist()
        return lambda id: frequent
    enough = 2 * config.expansion.top + config.encoder.passage_tokens

    def drawn(id: str) -> list[int]:
        random = np.random.default_rng([config.expansion.seed, id_seed(id)])
        return random.choice(terms, min(enough, len(terms)), replace=False).tolist()  # type: ignore[no-any-return]

    return drawn


def _of_file(
    config: TildeV2Config, collection: Collection, plain: Sequence[list[int]], tokenizer: Any, bad: frozenset[int]
) -> Callable[[int], list[int]]:
    """What the user's file has for each passage; several lines of a passage are joined. Raises UserError."""
    path, known = str(config.expansion.path), collection.passages.number_of
    where, texts, wrong, rows = f"{KEY}={path}", dict[int, list[str]](), list[str](), 0
    table = open_records(path, key=KEY).table("train")
    for number, record in enumerate(table.rows(("_id", "text"))):
        rows += 1
        try:
            row = _row(record)
            if row["_id"] not in known:
                raise BadRow(f"expands the passage {row['_id']!r}, which is not there")
            texts.setdefault(known[row["_id"]], []).append(row["text"])
        except BadRow as error:
            wrong.append(f"{table.place(number)}: {error}")
    judge(wrong, rows, where, config.expansion.on_error, "expansions")
    if not texts:
        raise UserError("expands no passage", where, 'each line is {"_id": passage, "text": what it is expanded by}')
    numbers = list(texts)
    ids = TextIds(tokenizer).batch([" ".join(texts[number]) for number in numbers])
    terms = dict(zip(numbers, (list(dict.fromkeys(each)) for each in ids), strict=True))
    return lambda number: missing_terms(terms.get(number, []), plain[number], bad)[: config.expansion.top]


def _row(record: Any) -> dict[str, str]:
    if isinstance(record, Bad):
        raise BadRow(str(record))
    for name in ("_id", "text"):
        if not isinstance(record.get(name), str):
            raise BadRow(f"has no {name} that is text: {json.dumps(record.get(name))[:60]}")
    row: dict[str, str] = record
    return row
