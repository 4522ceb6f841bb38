"""Text as scanners and hasty fingers leave it: characters taken for others that look like them, left out, put in."""

from collections.abc import Sequence

import numpy as np

from recipes.tokenization.config import (
    DELETE,
    INSERT,
    SPACE,
    SUBSTITUTE,
)

# Characters that recognition takes for each other; a character may stand in several rows.
ALIKE = (
    *("0OoQD", "1lIi|!", "5Ss$", "8B&", "2Zz", "6bG", "9gq", "ceo", "uv", "nhr", "ft", "ij", "mn", "EF", "PR", "UV"),
    *("CG", "MN", "ao", "dc", ".,", ":;", "-_", "'`", "xk", "yv", "pq", "TI", "HN", "3E", "4A", "7T"),
)
LIKE = {
    letter: "".join(sorted({each for row in ALIKE if letter in row for each in row} - {letter}))
    for letter in sorted(set("".join(ALIKE)))
}


def substituted(text: str, rate: float, draw: np.random.Generator) -> str:
    """A text of which characters are replaced, each with this chance, by one that looks like it.

    A letter that nothing looks like is replaced by a letter of the text, so that texts in all scripts are misread.
    White space and other marks stay. The text stays as long as it is.
    """
    letters = _letters(text)
    hit = draw.random(len(text)) < rate
    return "".join(_other(each, letters, draw) if at else each for each, at in zip(text, hit.tolist(), strict=True))


def edited(text: str, rate: float, kinds: Sequence[str], draw: np.random.Generator) -> str:
    """A text in which something happens to each character with this chance: one of the kinds, drawn equally.

    Args:
        text: The text.
        rate: The chance.
        kinds: Of `NOISES`. substitute: as `substituted`; delete: it is left out; insert: a letter of the text comes
            before it; space: a space comes before it, or it is left out if it is one.
        draw: What is drawn from.
    """
    letters, parts = _letters(text), list[str]()
    hit = draw.random(len(text)) < rate
    for each, at in zip(text, hit.tolist(), strict=True):
        kind = str(kinds[int(draw.integers(len(kinds)))]) if at else ""
        if kind == SUBSTITUTE:
            parts.append(_other(each, letters, draw))
        elif kind == INSERT:
            parts += [_drawn(letters or " ", draw), each]
        elif kind == SPACE:
            parts.append("" if each == " " else f" {each}")
        elif kind != DELETE:
            parts.append(each)
    return "".join(parts)


def _letters(text: str) -> str:
    return "".join(sorted({each for each in text if each.isalpha()}))


def _other(character: str, letters: str, draw: np.random.Generator) -> str:
    if character in LIKE:
        return _drawn(LIKE[character], draw)
    others = letters.replace(character, "") if character.isalpha() else ""
    return _drawn(others, draw) if others else character


def _drawn(characters: str, draw: np.random.Generator) -> str:
    return characters[int(draw.integers(len(characters)))]
