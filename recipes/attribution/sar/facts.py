"""Kinds of facts in Google's analogies, and how each is asked and said. Imports no torch."""

from collections.abc import Iterator
from dataclasses import dataclass

FILE = "questions-words.txt"
OTHER_NAMES = {"Kiev": ("Kyiv",), "Astana": ("Nur-Sultan",)}  # by which models call what the file names so


@dataclass(frozen=True)
class Relation:
    """A kind of facts: pairs (a, b) of a section of the file.

    Attributes:
        section: Its heading in the file.
        asks: The question, of {a} or {b}.
        says: A sentence that answers it.
        answer: "a" or "b".
    """

    section: str
    asks: str
    says: str
    answer: str


RELATIONS = {
    "capital-world": Relation("capital-world", "What is the capital of {b}?", "The capital of {b} is {a}.", "a"),
    "capital-of": Relation("capital-world", "{a} is the capital of which country?", "{a} is the capital of {b}.", "b"),
    "city-in-state": Relation("city-in-state", "In which state is {a}?", "{a} is in {b}.", "b"),
    "currency": Relation("currency", "What is the currency of {a}?", "The currency of {a} is the {b}.", "b"),
    "nationality": Relation(
        "gram6-nationality-adjective", "What is somebody from {a} called?", "Somebody from {a} is called {b}.", "b"
    ),
    "comparative": Relation(
        "gram3-comparative", "What is the comparative of {a}?", "The comparative of {a} is {b}.", "b"
    ),
    "plural": Relation("gram8-plural", "What is the plural of {a}?", "The plural of {a} is {b}.", "b"),
}


def pairs(text: str, section: str) -> list[tuple[str, str]]:
    """The distinct pairs of a section, in the order in which they appear.

    Args:
        text: Of the file: lines of two pairs each, below headings that begin with a colon.
        section: Which one.
    """
    return list(dict.fromkeys(_pairs(text, section)))


def _pairs(text: str, section: str) -> Iterator[tuple[str, str]]:
    inside = False
    for line in text.splitlines():
        if line.startswith(":"):
            inside = line[1:].strip() == section
        elif inside:
            a, b, c, d = (word.replace("_", " ") for word in line.split())
            yield a, b
            yield c, d
