"""Kinds of facts in Google's analogies, and how each is asked and said. Imports no torch."""

from collections.abc import Iterator
from dataclasses import dataclass

from recipes.core.config.settings import setting
from recipes.core.spelling import did_you_mean

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


@dataclass(frozen=True)
class FactsConfig:
    """Facts that ship with Google's analogies (asset gensim-texts), as questions with known answers."""

    name: str = setting("facts", help="data set", choices=("facts",))
    relations: tuple[str, ...] = setting(("capital-world", "city-in-state"), help="kinds of facts; they take turns")
    form: str = setting(
        "sentence", help="how the examples answer: in a sentence, or in a word", choices=("sentence", "short")
    )
    shots: int = setting(2, help="answered questions of the same kind before each, which are not asked", ge=0)
    limit: int | None = setting(None, help="questions over all kinds; null: all", unit="questions", ge=2)

    @property
    def description(self) -> str:
        """What a dry run announces."""
        first = "" if self.limit is None else f", {self.limit:,} questions"
        return f"facts of {', '.join(self.relations)}{first}, {self.shots} examples before each"

    def check(self) -> list[tuple[str, str]]:
        """Rules between the settings."""
        unknown = [name for name in self.relations if name not in RELATIONS]
        problems = [("relations", f"there is no {name}; {did_you_mean(name, list(RELATIONS))}") for name in unknown]
        if not self.relations or len(set(self.relations)) < len(self.relations):
            problems.append(("relations", "names no kind of facts, or one twice"))
        return problems


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
