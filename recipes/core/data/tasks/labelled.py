"""Texts with a label each, from a package or a user's file, split by document: what probes and classifiers learn."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np

from recipes.core.data.files.data_files import split_to_test_on
from recipes.core.data.files.json_records import Bad, excerpt, is_unicode
from recipes.core.data.files.records import judge, open_records
from recipes.core.data.files.tables import Record, Table
from recipes.core.data.tasks.labelled_config import (
    LabelledConfig,
    LabelledTextsConfig,
    ReviewSentimentConfig,
    WikiTopicsConfig,
)
from recipes.core.data.tasks.reviews import ASSET, read_reviews
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.storage.assets import asset_path
from recipes.core.storage.files import sha256_json

TEST_FRACTION = 0.25
TEXT_COLUMNS = ("text", "content", "document", "sentence")
LABEL_COLUMNS = ("label", "class")
FEWEST = 2  # documents of a class: one to train on, one to test on
NO_TOPIC = "Uncategorized"


class Nouns(NamedTuple):
    """What messages call an example, and what must not stand on both sides of a split."""

    example: str
    document: str


TEXTS = Nouns("text", "document")


@dataclass(frozen=True)
class LabelledText:
    """One text.

    Attributes:
        id: Unique in its set.
        text: Never blank.
        label: Name of its class.
        document: What must not stand on both sides of a split.
        source: Who it comes from; empty where nobody says.
    """

    id: str
    text: str
    label: str
    document: str
    source: str = ""


@dataclass(frozen=True)
class LabelledSet:
    """Labelled texts to train and to test on; no document stands on both sides.

    Attributes:
        name: What it is called.
        train, test: Both have every class.
    """

    name: str
    train: Sequence[LabelledText]
    test: Sequence[LabelledText]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, sorted; a label's number is its place here."""
        return tuple(sorted({each.label for each in self.train}))

    def numbers(self, part: Sequence[LabelledText]) -> np.ndarray:
        """int64 [texts] the number of each text's label."""
        number_of = {name: number for number, name in enumerate(self.classes)}
        return np.array([number_of[each.label] for each in part], np.int64)

    def counts(self, part: Sequence[LabelledText]) -> dict[str, int]:
        """Texts of each class, in the order of `classes`."""
        counter = Counter(each.label for each in part)
        return {name: counter[name] for name in self.classes}

    @property
    def fingerprint(self) -> str:
        """Hash of all texts, labels and documents, and of which of them are tested on."""
        return sha256_json(
            [[[each.text, each.label, each.document] for each in part] for part in (self.train, self.test)]
        )


def load_labelled(config: LabelledConfig, key: str = "data") -> LabelledSet:
    """The labelled set that a config describes.

    Args:
        config: Which set.
        key: That it stands under, for messages.

    Raises:
        UserError: it cannot be read, has rows that cannot be used (with on_error=fail), fewer than two classes, or a
            class with too few texts.
    """
    if isinstance(config, LabelledTextsConfig):
        return _read_rows(config, key)
    if isinstance(config, WikiTopicsConfig):
        texts = list(_wiki_topics())
    else:
        assert isinstance(config, ReviewSentimentConfig)
        texts = list(_review_sentiment(config.neutral))
    return split_labelled(config.name, texts, config, f"{key}={config.name}")


def split_labelled(
    name: str, texts: Sequence[LabelledText], config: LabelledConfig, where: str, nouns: Nouns = TEXTS
) -> LabelledSet:
    """Draw texts and keep a share of the documents of each class for testing.

    Args:
        name: What the set is called.
        texts: All texts; a document is of the class of its first text.
        config: How many, which share, and the seed.
        where: The data, for messages.
        nouns: For messages.

    Raises:
        UserError: there are fewer than two classes, or one has fewer than two texts or documents.
    """
    _check_classes(texts, where, nouns)
    texts = draw_texts(texts, config.texts, config.seed)
    fraction = TEST_FRACTION if config.test_fraction is None else config.test_fraction
    label_of = _labels_of_documents(texts)
    held_out: set[str] = set()
    for number, label in enumerate(sorted(set(label_of.values()))):
        documents = [document for document, its in label_of.items() if its == label]
        count = min(max(round(fraction * len(documents)), 1), len(documents) - 1)
        order = np.random.default_rng([config.seed, number]).permutation(len(documents))
        held_out |= {documents[i] for i in order[:count]}
    train, test = ([each for each in texts if (each.document in held_out) == side] for side in (False, True))
    _check_sides(train, test, where, nouns)
    return LabelledSet(name, train, test)


def published_labelled(
    name: str,
    train: Sequence[LabelledText],
    test: Sequence[LabelledText],
    config: LabelledConfig,
    where: str,
    nouns: Nouns = TEXTS,
) -> LabelledSet:
    """Texts that are split already: those to train on are drawn, without documents that are tested on.

    Args:
        name: What the set is called.
        train: Texts to train on.
        test: Texts to test on, which all are.
        config: How many to train on, and the seed.
        where: The data, for messages.
        nouns: For messages.

    Raises:
        UserError: as `split_labelled`, or a class stands on one side only.
    """
    _check_sides(train, test, where, nouns)
    train = _without_documents_of(test, train, where, nouns)
    _check_sides(train, test, where, nouns)
    _check_classes([*train, *test], where, nouns)
    return LabelledSet(name, draw_texts(train, config.texts, config.seed), test)


def draw_texts(texts: Sequence[LabelledText], most: int | None, seed: int) -> list[LabelledText]:
    """At most so many texts, of each class its share and no fewer than `FEWEST` documents, in their order.

    Documents are drawn whole, in random order, and counted with all their texts; a document is of the class of its
    first text. One that would go beyond the share of its class is passed over. Where `FEWEST` documents of each class
    hold more texts than asked for, these are drawn.
    """
    if most is None or len(texts) <= most:
        return list(texts)
    sizes, label_of = Counter(each.document for each in texts), _labels_of_documents(texts)
    chosen: set[str] = set()
    for number, label in enumerate(sorted(set(label_of.values()))):
        documents = [document for document, its in label_of.items() if its == label]
        share = sum(sizes[document] for document in documents) * most / len(texts)
        taken = drawn = 0
        for i in np.random.default_rng([seed, number, 1]).permutation(len(documents)):
            if drawn >= FEWEST and taken + sizes[documents[i]] > share:
                continue
            chosen.add(documents[i])
            taken, drawn = taken + sizes[documents[i]], drawn + 1
    return [each for each in texts if each.document in chosen]


def _labels_of_documents(texts: Sequence[LabelledText]) -> dict[str, str]:
    """The class of each document: that of its first text."""
    label_of: dict[str, str] = {}
    for each in texts:
        label_of.setdefault(each.document, each.label)
    return label_of


def _check_classes(texts: Sequence[LabelledText], where: str, nouns: Nouns) -> None:
    rows = Counter(each.label for each in texts)
    documents = Counter(label for _, label in {(each.document, each.label) for each in texts})
    if len(rows) < 2:
        example = nouns.example
        label = f"all {example}s are of the class {next(iter(rows))!r}" if rows else f"no {example} has a class"
        raise UserError(f"{label}, and two classes are the least", where, f"give {example}s of several labels")
    if scarce := sorted(label for label in rows if documents[label] < FEWEST):
        more = f" and {len(scarce) - 1} more classes" if len(scarce) > 1 else ""
        count = f"{rows[scarce[0]]} {nouns.example}{'s' * (rows[scarce[0]] > 1)}"
        count += f" of {documents[scarce[0]]} {nouns.document}"
        raise UserError(
            f"class {excerpt(scarce[0])!r} has {count}{more}, too few to train and to test",
            where,
            f"take such classes out, or join them; {FEWEST} different {nouns.document}s of each are the least",
        )


def _check_sides(train: Sequence[LabelledText], test: Sequence[LabelledText], where: str, nouns: Nouns) -> None:
    """Both sides need every class."""
    sides = [{each.label for each in part} for part in (train, test)]
    for missing, name in ((sides[1] - sides[0], "train"), (sides[0] - sides[1], "test")):
        if missing:
            raise UserError(
                f"class {excerpt(min(missing))!r} has no {nouns.example} to {name} on",
                where,
                f"take it out, or give it more {nouns.document}s",
            )


def _wiki_topics() -> Iterator[LabelledText]:
    """An article that is listed under several names comes once, under the topic of the first of them."""
    root = asset_path("wiki-leads")
    leads, topics = (
        json.loads((root / f"{kind}_en-us.json").read_text(encoding="utf-8")) for kind in ("summaries", "titles")
    )
    titles: set[str] = set()
    for name, article in leads.items():
        title, text = article["title"], article["extract"]
        if title not in titles and text.strip() and topics.get(name, NO_TOPIC) != NO_TOPIC:
            titles.add(title)
            yield LabelledText(f"wiki-en/{title}", text, topics[name], title)


def _review_sentiment(neutral: float) -> Iterator[LabelledText]:
    for review in read_reviews(asset_path(ASSET) / "movieReviewSnippets_GroundTruth.txt"):
        if abs(review.score) >= neutral and review.score:
            yield LabelledText(
                review.id, review.text, "positive" if review.score > 0 else "negative", text_digest(review.text)
            )


def _read_rows(config: LabelledTextsConfig, key: str) -> LabelledSet:
    """The user's rows: split as they are published, or by the seed of the config."""
    where = f"{key}.path={config.path}"
    records = open_records(str(config.path), f"{key}.path", config.format)
    train, bad = _texts(config, records.table(config.split), "", key)
    total = len(train) + len(bad)
    test_split = split_to_test_on(records, config.split, config.test_split, config.test_fraction)
    test: list[LabelledText] = []
    if test_split is not None:
        test, worse = _texts(config, records.table(test_split, "test_split"), "test-", key)
        bad, total = bad + worse, total + len(test) + len(worse)
    judge(bad, total, where, config.on_error)
    if test_split is None:
        return split_labelled(config.name, train, config, where)
    return published_labelled(config.name, train, test, config, where)


def _without_documents_of(
    test: Sequence[LabelledText], train: Sequence[LabelledText], where: str, nouns: Nouns
) -> list[LabelledText]:
    """Training texts whose document is not tested on."""
    tested = {each.document for each in test}
    rest = [each for each in train if each.document not in tested]
    if left := len(train) - len(rest):
        what = f"{left:,} of {len(train):,} training {nouns.example}s"
        note(f"warning: {where}: {what} are tested on, too, and are left out")
    return rest


def _texts(config: LabelledTextsConfig, table: Table, prefix: str, key: str) -> tuple[list[LabelledText], list[str]]:
    """The texts of a table, and what is wrong with rows that are none."""
    text = table.pick(config.text_column, TEXT_COLUMNS, f"{key}.text_column")
    label = table.pick(config.label_column, LABEL_COLUMNS, f"{key}.label_column")
    names: list[str | None] = [text, label, None, None]
    for place, name in ((2, "document_column"), (3, "source_column")):
        if (column := getattr(config, name)) is not None:
            names[place] = table.pick(column, (), f"{key}.{name}")
    texts, bad = [], []
    for index, record in enumerate(table.rows([name for name in names if name is not None])):
        row = record if isinstance(record, Bad) else _text(record, names)
        if isinstance(row, LabelledText):
            texts.append(replace(row, id=f"{prefix}row-{index}"))
        else:
            bad.append(f"{table.place(index)}{'' if isinstance(row, Bad) else ':'} {row}")
    return texts, bad


def _text(record: Record, names: Sequence[str | None]) -> LabelledText | str:
    """A row as a text, or what is wrong with it; columns of text, label, document and source, None where none is."""
    text, label, document, source = (None if name is None else record.get(name) for name in names)
    if not isinstance(text, str) or not text.strip():
        return "its text is missing or blank" if text is None or isinstance(text, str) else f"no text: {excerpt(text)}"
    if not is_unicode(text):
        return "its text holds half of a surrogate pair"
    name = label_name(label)
    if name is None:
        return f"its label is {excerpt(label)}, no word and no whole number"
    parts = [text_digest(text) if names[2] is None else label_name(document)]
    parts.append("" if names[3] is None else label_name(source))
    for part, value, what in zip(parts, (document, source), ("document", "source"), strict=True):
        if part is None:
            return f"its {what} is {excerpt(value)}, no word and no whole number"
    return LabelledText("", text, name, *map(str, parts))


def text_digest(text: str) -> str:
    """The document of a text of which no more is known: the same for texts that differ in white space only."""
    return sha256(" ".join(text.split()).encode()).hexdigest()[:16]


def label_name(value: Any) -> str | None:
    """The name of a class or document: words, truth values, whole numbers (1.0, too); None for anything else."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(int(value)) if isinstance(value, int | np.integer) else None
