"""A user's collection in the layout of BEIR: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv; the same on the hub."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from recipes.core.data.files.json_records import Bad, excerpt, is_unicode
from recipes.core.data.files.records import BadRow, judge, open_records
from recipes.core.data.files.tables import Table, reading
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.search.collection import Collection, Passages, Queries
from recipes.core.search.config import CollectionConfig
from recipes.core.spelling import did_you_mean
from recipes.core.storage.files import home_path

HEADER = "query-id"  # first cell of the header that BEIR's files have
LARGEST_GRADE = 1000
CORPUS, QUERIES, QRELS = "corpus", "queries", "qrels"
ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".parquet")
LAYOUT = "a collection is a folder with corpus.jsonl, queries.jsonl and qrels/test.tsv, as BEIR has them"
NUMBERS = 'ids are strings in quotes ("_id": "12"), or runs and judgements would not agree on them'
Grades = dict[str, dict[str, int]]  # query id -> passage id -> grade


def read_collection(config: CollectionConfig) -> Collection:
    """A user's passages, queries and judgements.

    Raises:
        UserError: a part is missing, or rows cannot be used (with on_error=fail).
    """
    path, where = str(config.path), f"data.path={config.path}"
    passages = _passages(_table(path, CORPUS), where, config.on_error)
    asked = _queries(_table(path, QUERIES), where, config.on_error)
    splits = _splits(path, where)
    train = config.train_split or ("train" if "train" in splits and config.split != "train" else None)
    if splits and (wrong := next((each for each in (config.split, train) if each and each not in splits), None)):
        hint = f"type data.split=NAME; {did_you_mean(wrong, splits)}"
        raise UserError(f"has no judgements {QRELS}/{wrong}.tsv", where, hint)
    test = _judged(_grades(path, config.split, where, config.on_error), asked, passages, config, config.split)
    others = {} if train is None else _grades(path, train, where, config.on_error)
    others = _untested(others, asked, test, where)
    rest = _judged(others, asked, passages, config, train or "") if train else Queries([], [], [])
    if not len(test):
        raise UserError("has no judged query", f"{where}, split {config.split}", LAYOUT)
    collection = Collection(passages, test, rest, where)
    collection.check()
    return collection


def _table(path: str, part: str) -> Table:
    """The rows of one part."""
    root = home_path(path)
    if not root.exists():
        return open_records(f"{path}:{part}").table(part)
    files = [root / f"{part}{ending}" for ending in ENDINGS if (root / f"{part}{ending}").is_file()]
    if not files:
        raise UserError(f"has no {part}.jsonl", f"data.path={path}", LAYOUT)
    return open_records(str(files[0]), key="data.path").table("train")


def _passages(table: Table, where: str, on_error: str) -> Passages:
    ids, titles, texts, bad = list[str](), list[str](), list[str](), list[str]()
    places: dict[str, str] = {}
    for number, record in enumerate(table.rows(("_id", "title", "text"))):
        place = table.place(number)
        try:
            row = _row(record)
            id, title, text = _id(row, places), _text(row.get("title"), "title"), _text(row.get("text"), "text")
            if not f"{title}{text}".strip():
                raise BadRow("is empty")
        except BadRow as error:
            bad.append(f"{place}: {error}")
            continue
        places[id] = place
        ids.append(id)
        titles.append(title)
        texts.append(text)
    judge(bad, len(ids) + len(bad), where, on_error, "passages")
    if copies := len(ids) - len(set(zip(titles, texts, strict=True))):
        note(f"warning: {where}: {copies:,} of {len(ids):,} passages say what another one says")
    return Passages(ids, titles, texts)


def _queries(table: Table, where: str, on_error: str) -> dict[str, str]:
    """Id -> text."""
    texts, bad, places = dict[str, str](), list[str](), dict[str, str]()
    for number, record in enumerate(table.rows(("_id", "text"))):
        place = table.place(number)
        try:
            row = _row(record)
            id, text = _id(row, places), _text(row.get("text"), "text")
            if not text.strip():
                raise BadRow("asks nothing")
        except BadRow as error:
            bad.append(f"{place}: {error}")
            continue
        places[id], texts[id] = place, text
    judge(bad, len(texts) + len(bad), where, on_error, "queries")
    return texts


def _judged(
    grades: Grades, asked: Mapping[str, str], passages: Passages, config: CollectionConfig, split: str
) -> Queries:
    """Queries with a relevant passage; judgements of what is not there, and queries without, are refused or counted."""
    where, bad = f"data.path={config.path}", list[str]()
    ids, rows = list[str](), list[dict[int, int]]()
    for id, judged in grades.items():
        if id not in asked:
            bad.append(f"{QRELS}/{split}: judges the query {id!r}, which is not there")
            continue
        known = {passages.number_of[each]: grade for each, grade in judged.items() if each in passages.number_of}
        missing = [each for each in judged if each not in passages.number_of]
        bad += [f"{QRELS}/{split}: judges the passage {each!r} for {id!r}, which is not there" for each in missing]
        if any(grade > 0 for grade in known.values()):
            ids.append(id)
            rows.append(known)
        elif not missing:
            bad.append(f"{QRELS}/{split}: no passage is relevant to {id!r}")
    if config.split == split and (left := len(asked.keys() - grades.keys())):
        note(f"{where}: {left:,} of {len(asked):,} queries are not judged in {QRELS}/{split}, and are not asked")
    total = sum(map(len, grades.values()))
    judge(bad, max(total, len(bad) + bool(ids)), where, config.on_error, "judgements")
    return Queries(ids, [asked[id] for id in ids], rows)


def _untested(others: Grades, asked: Mapping[str, str], test: Queries, where: str) -> Grades:
    """What is tested on is not trained on, even where two splits share a query, or two queries ask the same."""
    ids, texts = set(test.ids), {_plain(text) for text in test.texts}
    untested = {id: grades for id, grades in others.items() if id not in ids and _plain(asked.get(id, id)) not in texts}
    if left := len(others) - len(untested):
        note(f"{where}: {left:,} of {len(others):,} queries to train on ask what is tested on, and are left out")
    return untested


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _splits(path: str, where: str) -> list[str]:
    """Names of the judgements of a folder; empty for a name of the hub, which says itself what it lacks."""
    root = home_path(path)
    if not root.exists():
        return []
    files = sorted((root / QRELS).glob("*.tsv"))
    if not files:
        raise UserError(f"has no {QRELS}/*.tsv", where, LAYOUT)
    return [file.stem for file in files]


def _grades(path: str, split: str, where: str, on_error: str) -> Grades:
    """The judgements of a split."""
    root, grades, bad, rows = home_path(path), dict[str, dict[str, int]](), list[str](), 0
    lines = _lines(root / QRELS / f"{split}.tsv") if root.exists() else _hub_lines(path, split)
    for place, cells in lines:
        rows += 1
        if len(cells) == 4:  # TREC: query, iteration, passage, grade
            cells = [cells[0], *cells[2:]]
        if len(cells) != 3:
            bad.append(f"{place}: has {len(cells)} cells; query, passage and grade are meant")
            continue
        query, passage, grade = cells
        try:
            value = int(grade)
            if abs(value) > LARGEST_GRADE:
                raise ValueError
        except ValueError:
            bad.append(f"{place}: its grade is {excerpt(grade)}, no whole number up to {LARGEST_GRADE:,}")
            continue
        if grades.setdefault(query, {}).setdefault(passage, value) != value:
            bad.append(f"{place}: judges {passage!r} for {query!r} a second time, and otherwise")
    judge(bad, rows, where, on_error, "judgements")
    return grades


def _lines(file: Path) -> Iterator[tuple[str, list[str]]]:
    """(place, cells) of the lines of a file; BEIR's header is left out."""
    with reading(file):
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    for number, line in enumerate(lines, 1):
        cells = line.split("\t") if "\t" in line else line.split()
        if cells and not (number == 1 and cells[0].strip() == HEADER):
            yield f"{file.parent.name}/{file.name} line {number}", [cell.strip() for cell in cells]


def _hub_lines(path: str, split: str) -> Iterator[tuple[str, list[str]]]:
    table = open_records(f"{path}-{QRELS}").table(split)
    for number, record in enumerate(table.rows(("query-id", "corpus-id", "score"))):
        row = {} if isinstance(record, Bad) else record
        yield table.place(number), [str(row.get(name)) for name in ("query-id", "corpus-id", "score")]


def _row(record: Any) -> dict[str, Any]:
    if isinstance(record, Bad):
        raise BadRow(str(record))
    return record


def _id(row: Mapping[str, Any], places: Mapping[str, str]) -> str:
    id = row.get("_id")
    if not isinstance(id, str):
        raise BadRow("has no _id" if id is None else f"its _id is {excerpt(id)}, no text; {NUMBERS}")
    if id.split() != [id]:
        raise BadRow(f"its _id {id!r} is empty or has a space; a TREC run parts its columns by spaces")
    if id in places:
        raise BadRow(f"has the _id {id!r} of {places[id]}")
    return id


def _text(value: Any, column: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRow(f"its {column} is no text: {excerpt(value)}")
    if not is_unicode(value):
        raise BadRow(f"its {column} holds half of a surrogate pair")
    return value
