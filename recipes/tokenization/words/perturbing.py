"""Text with errors in a share of the characters of each word."""

import random
import re
from hashlib import sha256

from recipes.tokenization.words.config import PERTURBATIONS

_WORD = re.compile(r"\S+")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def perturb(text: str, kind: str, share: float, seed: int) -> str:
    """The same text with errors.

    Args:
        text: Any text; white space stays.
        kind: "permute" (a character changes places with the next of its word), "replace" (by a small letter of the
            Latin alphabet), "delete", or "upper" (all of it in capitals, whatever the share).
        share: Chance of each character to be chosen.
        seed: Of what is drawn.

    Source:
        arXiv 2501.10322, robustness: 10% of the characters of each word, or all capitals.
    """
    if kind not in PERTURBATIONS:
        raise ValueError(f"no perturbation is called {kind}")
    if kind == "upper":
        return text.upper()
    draw = random.Random(seed)
    return _WORD.sub(lambda match: _with_errors(match[0], kind, share, draw), text)


def _with_errors(word: str, kind: str, share: float, draw: random.Random) -> str:
    """A word of which at least one character is left."""
    letters, chosen = list(word), [draw.random() < share for _ in word]
    if kind == "permute":
        for place in range(len(letters) - 1):
            if chosen[place]:
                letters[place : place + 2] = letters[place + 1], letters[place]
        return "".join(letters)
    if kind == "replace":
        return "".join(draw.choice(LETTERS) if hit else letter for letter, hit in zip(letters, chosen, strict=True))
    return "".join(letter for letter, hit in zip(letters, chosen, strict=True) if not hit) or word[0]


def text_seed(name: str) -> int:
    """The seed of a text, by its name alone: all arms and seeds see the same errors in it."""
    return int.from_bytes(sha256(name.encode()).digest()[:4], "big")
