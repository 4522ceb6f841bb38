"""Leads of Wikipedia as a collection: each is asked for by its description, its first sentence or its title.

The first sentence says what the description says, so it is no part of the passage.
"""

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from recipes.core.data.text.splits import TEST, TRAIN, split_of
from recipes.core.errors import UserError
from recipes.core.search.collection import Collection, Passages, Queries
from recipes.core.search.config import WikiSearchConfig
from recipes.core.storage.assets import asset_path

# A sentence ends at a point behind a word of at least two small letters or a closing bracket ("Dr." and "B." do not).
_END = re.compile(r"(?<=[a-z0-9)\]\"]{2}[.!?])\s+(?=[A-Z\"(])")


class Lead(NamedTuple):
    """An article.

    Attributes:
        title: Its title.
        description: A few words on it; may be empty.
        sentences: Its first paragraph.
    """

    title: str
    description: str
    sentences: list[str]


def wiki_search(config: WikiSearchConfig) -> Collection:
    """The collection; titles are hidden in passages and queries, or they would be found by their name.

    Raises:
        UserError: the asset cannot be had.
    """
    ids, texts = list[str](), list[str]()
    asked_of: dict[str, list[tuple[str, str, dict[int, int]]]] = {TRAIN: [], TEST: []}
    for lead in _leads(config.sentences):
        asked, passage = _pair(lead, config.query)
        if asked and passage:
            number, id = len(ids), lead.title.replace(" ", "_")
            ids.append(id)
            texts.append(passage)
            asked_of[split_of(lead.title, config.test_fraction)].append((f"q:{id}", asked, {number: 1}))
    where = f"data={config.name}"
    if not asked_of[TEST]:
        what = f"has no lead of {config.sentences} sentences that is tested on"
        raise UserError(what, where, "type a smaller data.sentences, or a larger data.test_fraction")
    columns = ([*map(list, zip(*asked_of[split], strict=True))] or [[], [], []] for split in (TEST, TRAIN))
    test, train = (Queries(*each) for each in columns)
    return Collection(Passages(ids, [""] * len(ids), texts), test, train, where)


def sentences(text: str) -> list[str]:
    """A text in sentences, cut behind points that end one."""
    return [part for part in _END.split(" ".join(text.split())) if part]


def hide(title: str, text: str) -> str:
    """A text whose title is called "it", wherever it stands as a word of its own; so is the title without brackets."""
    for name in (title, re.sub(r"\s*\([^)]*\)$", "", title)):
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "it", text, flags=re.IGNORECASE) if name else text
    return text


def _leads(fewest: int) -> Iterator[Lead]:
    """An article that is listed under several names comes once."""
    file = asset_path("wiki-leads") / "summaries_en-us.json"
    titles: set[str] = set()
    for article in json.loads(file.read_text(encoding="utf-8")).values():
        lead = Lead(article["title"], " ".join((article["description"] or "").split()), sentences(article["extract"]))
        if lead.title not in titles and len(lead.sentences) >= fewest:
            titles.add(lead.title)
            yield lead


def _pair(lead: Lead, query: str) -> tuple[str, str]:
    """What is asked, and the passage that answers it; empty if the article has no such thing."""
    first, *rest = [hide(lead.title, sentence) for sentence in lead.sentences]
    asked = {"first_sentence": first, "title": lead.title, "description": hide(lead.title, lead.description)}
    return asked[query], " ".join(rest)
