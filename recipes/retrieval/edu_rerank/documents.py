"""Documents with a summary: docstrings of SymPy, or a user's rows."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from recipes.core.data.files.json_records import Bad, excerpt, is_unicode
from recipes.core.data.files.records import BadRow, judge, open_records
from recipes.core.data.text.domains import domain_documents
from recipes.core.data.text.splits import TEST, TRAIN, split_of
from recipes.core.errors import UserError
from recipes.core.messages import note
from recipes.core.search.leads import sentences
from recipes.retrieval.edu_rerank.config import DocstringSummariesConfig, SummariesConfig
from recipes.retrieval.edu_rerank.oracles import grams_of
from recipes.retrieval.edu_rerank.units import Units, divide

DOCUMENTS, SUMMARIES = ("document", "text", "article", "source"), ("summary", "highlights", "abstract", "target")
RANK = "rank"  # the part that a re-ranker learns from
PARTS = (TRAIN, RANK, TEST)
LISTS = {"see also", "references"}  # sections without sentences
_UNDERLINE = re.compile(r"^[=\-~^]{3,}$")
_PARAMETER = re.compile(r"^([\w`*, ]+ : |[a-z_*][\w*]*(, [\w*]+)*: )")
_WORD = re.compile(r"[^\W\d_]{2,}")
FEWEST_WORDS = 3  # of a sentence, or it is a formula


@dataclass(frozen=True)
class Document:
    """A text and what somebody says in short of it.

    Attributes:
        id: What it is called.
        units: Its sentences and EDUs.
        reference: The summary.
        sentences: Of the whole text, those that are left out included.
    """

    id: str
    units: Units
    reference: str
    sentences: int


Documents = dict[str, list[Document]]


def load_documents(config: DocstringSummariesConfig | SummariesConfig, longest: int) -> Documents:
    """Documents by part: those that the plan generator learns from, the re-ranker, and those that are measured.

    The part depends on the document alone. A document whose text or summary is that of another one is left out and
    counted, so that nothing that is measured was learned from.

    Args:
        config: Which.
        longest: EDUs of a document, at most; what follows is left out.

    Raises:
        UserError: the user's rows cannot be used, or a part is empty.
    """
    rows = list(_user_rows(config) if isinstance(config, SummariesConfig) else _docstring_rows(config))
    parts: Documents = {name: [] for name in PARTS}
    seen, short, copies = set[str](), 0, 0
    for part in (TEST, TRAIN):
        for key, rank_key, id, body, reference in rows:
            if split_of(key, config.test_fraction) != part:
                continue
            if len(body) < (config.sentences if part == TEST else config.train_sentences):
                short += 1
                continue
            text = " ".join(body)
            if not seen.isdisjoint(same := {f"text {text}", f"summary {reference.lower()}"}):
                copies += 1
                continue
            seen |= same
            into = parts[_part(part, rank_key, config.rank_fraction)]
            if config.documents is None or len(into) < config.documents:
                into.append(Document(id, divide(body, longest), reference, len(body)))
    _check_parts(config, parts, short, copies, longest)
    return parts


def _part(part: str, key: str, rank_fraction: float) -> str:
    return RANK if part == TRAIN and split_of(f"rank {key}", rank_fraction) == TEST else part


def _check_parts(config: Any, parts: Documents, short: int, copies: int, longest: int) -> None:
    """Refuse a part without documents, and say how many each has and how many are left out."""
    left_out = f"{short:,} with too few sentences, {copies:,} with a text or summary of another one"
    if empty := [name for name, those in parts.items() if not those]:
        what = f"no document is left for {' and '.join(empty)} (left out: {left_out})"
        hint = "type a smaller data.sentences and data.train_sentences, another data.test_fraction, or give more rows"
        raise UserError(what, f"data={config.name}", hint)
    every = [document for those in parts.values() for document in those]
    if cut := sum(not document.units.is_whole for document in every):
        note(f"warning: {cut:,} documents are cut to their first {longest} EDUs (plans.longest_document)")
    counts = ", ".join(f"{len(those):,} {name}" for name, those in parts.items())
    note(f"documents: {counts}; left out: {left_out}")


Row = tuple[str, str, str, Sequence[str], str]  # what decides its part, and RANK among them; id, sentences, summary


def _docstring_rows(config: DocstringSummariesConfig) -> Iterator[Row]:
    """The first paragraph of a docstring, and the sentences of all others; a source file lies in one part."""
    for document in domain_documents("docstrings"):
        reference, body = read_docstring(document.text)
        if len(_WORD.findall(reference)) > FEWEST_WORDS:
            id = document.id.partition("/")[2]
            yield document.id.rpartition(":")[0], id, id, body, reference


def read_docstring(text: str) -> tuple[str, list[str]]:
    """The first paragraph, and the sentences behind it: no examples, headings, lists of parameters or formulas."""
    first, *rest = re.split(r"\n\s*\n", text)
    body, in_list, literal = list[str](), False, False
    for paragraph in rest:
        lines = paragraph.split("\n")
        if len(lines) > 1 and _UNDERLINE.match(lines[1].strip()):
            in_list, lines = lines[0].strip().lower() in LISTS, lines[2:]
        indented = all(line[:1].isspace() for line in lines)
        if in_list or not lines or (literal and indented) or lines[0].lstrip().startswith(("..", "...", "$")):
            continue
        prose = _prose(lines)
        literal = prose.endswith("::")
        body += [one for one in sentences(prose) if len(_WORD.findall(one)) >= FEWEST_WORDS]
    return " ".join(first.split()), body


def _prose(lines: Sequence[str]) -> str:
    prose = list[str]()
    for line in map(str.strip, lines):
        if line.startswith(">>>"):
            break
        if not _PARAMETER.match(line):
            prose.append(line)
    return " ".join(" ".join(prose).split())


def _user_rows(config: SummariesConfig) -> Iterator[Row]:
    where = f"data.path={config.path}"
    table = open_records(str(config.path), format=config.format).table(config.split)
    names = [
        table.pick(config.document_column, DOCUMENTS, "data.document_column"),
        table.pick(config.summary_column, SUMMARIES, "data.summary_column"),
    ]
    bad, rows = list[str](), list[Row]()
    for number, record in enumerate(table.rows(names)):
        try:
            text, reference = _texts(record, names)
            rows.append((text, text, f"{number}", sentences(text), reference))
        except BadRow as error:
            bad.append(f"{table.place(number)}: {error}")
    judge(bad, len(rows) + len(bad), where, config.on_error)
    yield from rows


def _texts(record: Any, names: Sequence[str]) -> tuple[str, str]:
    if isinstance(record, Bad):
        raise BadRow(str(record))
    texts = []
    for name, kind in zip(names, ("document", "summary"), strict=True):
        value = record.get(name)
        if value is not None and not isinstance(value, str):
            raise BadRow(f"its {kind} is {excerpt(value)}, no text")
        if value is None or not grams_of(value).ones:
            raise BadRow(f"its {kind} is missing or has no word")
        if not is_unicode(value):
            raise BadRow(f"its {kind} holds half of a surrogate pair")
        if _is_foreign(value):
            raise BadRow(f"its {kind} is not in Latin letters; sentences and ROUGE are of these alone")
        texts.append(" ".join(value.split()))
    return texts[0], texts[1]


def _is_foreign(text: str) -> bool:
    """Whether most letters are none that ROUGE counts, which are a to z, or that end a sentence."""
    letters = [letter for letter in text if letter.isalpha()]
    return 2 * sum(letter.isascii() for letter in letters) < len(letters)
