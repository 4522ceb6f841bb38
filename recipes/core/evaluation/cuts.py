"""Texts as several tokenizers cut them, for a report to show below each other."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from recipes.core.storage.files import read_json, write_json

FILE = "cuts.json"


@dataclass(frozen=True)
class Cut:
    """A text in tokens.

    Attributes:
        label: Which tokenizer, and of what.
        note: What stands below: how many tokens.
        tokens: What each token stands for; joined they are the text.
        marked: Of each token whether where it starts is marked.
    """

    label: str
    note: str
    tokens: Sequence[str]
    marked: Sequence[bool]


@dataclass(frozen=True)
class CutText:
    """A text, cut in several ways."""

    id: str
    cuts: Sequence[Cut]


@dataclass(frozen=True)
class Cuts:
    """Texts to look at, and a sentence on what is marked."""

    texts: Sequence[CutText]
    hint: str


def write_cuts(folder: Path, cuts: Cuts) -> None:
    """Write `cuts.json`."""
    write_json(folder / FILE, asdict(cuts))


def read_cuts(folder: Path) -> Cuts | None:
    """The texts of a run; None if it has none."""
    if not (folder / FILE).exists():
        return None
    tree = read_json(folder / FILE)
    texts = [CutText(text["id"], [Cut(**cut) for cut in text["cuts"]]) for text in tree["texts"]]
    return Cuts(texts, tree["hint"])
