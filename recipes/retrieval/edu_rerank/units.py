"""Parts of a text that a plan chooses from: sentences, and elementary discourse units (EDUs) by rules.

Source: arXiv 2305.17779 uses a neural parser; the rules here need no model.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from recipes.core.search.leads import sentences

FEWEST_WORDS = 5  # of an EDU, unless its whole sentence is shorter
OPENERS = (
    *("and", "but", "because", "which", "that", "when", "while", "if", "although", "or", "so", "where", "as", "for"),
    *("to", "with", "by"),
)


@dataclass(frozen=True)
class Units:
    """What a text is divided into.

    Attributes:
        sentences: Its sentences.
        edus: Its EDUs, in order.
        owner: Number of the sentence that each EDU is part of.
        is_whole: Whether nothing of the text is left out.
    """

    sentences: tuple[str, ...]
    edus: tuple[str, ...]
    owner: tuple[int, ...]
    is_whole: bool = True

    def texts(self, unit: str) -> tuple[str, ...]:
        """Its EDUs ("edu") or sentences ("sentence")."""
        return self.edus if unit == "edu" else self.sentences

    def as_edus(self, plan: Sequence[int], unit: str) -> tuple[int, ...]:
        """A plan of sentences as the EDUs in them; a plan of EDUs as it is."""
        if unit == "edu":
            return tuple(plan)
        chosen = set(plan)
        return tuple(number for number, sentence in enumerate(self.owner) if sentence in chosen)


def divide(parts: Sequence[str], longest: int | None = None) -> Units:
    """The sentences and EDUs of a text.

    Args:
        parts: Its sentences.
        longest: EDUs that are kept; what follows the last whole sentence among them is left out, or of the first
            sentence what is beyond them. None: all.
    """
    whole, edus, owner, is_whole = list[str](), list[str](), list[int](), True
    for sentence in parts:
        pieces = split_sentence(sentence)
        if longest is not None and len(edus) + len(pieces) > longest:
            is_whole = False
            if whole:
                break
            pieces = pieces[:longest]
            sentence = " ".join(pieces)
        owner += [len(whole)] * len(pieces)
        edus += pieces
        whole.append(sentence)
    return Units(tuple(whole), tuple(edus), tuple(owner), is_whole)


def divide_text(text: str, longest: int | None = None) -> Units:
    """The sentences and EDUs of running text."""
    return divide(sentences(text), longest)


def split_sentence(sentence: str) -> list[str]:
    """EDUs of a sentence: split behind a comma, semicolon or colon, and before a word that opens a clause.

    A split stays if five words stand on both of its sides, so that a shorter piece goes with its neighbour.
    """
    words = sentence.split()
    pieces, start = list[str](), 0
    for place in range(1, len(words)):
        splits = words[place - 1][-1] in ",;:" or re.sub(r"\W", "", words[place]).lower() in OPENERS
        if splits and place - start >= FEWEST_WORDS <= len(words) - place:
            pieces.append(" ".join(words[start:place]))
            start = place
    return [*pieces, " ".join(words[start:])]
