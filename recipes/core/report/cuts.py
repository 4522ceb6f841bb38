"""Texts in tokens on a page: each token on a ground of its own, what cannot be seen as a sign."""

from dataclasses import replace
from pathlib import Path

from recipes.core.evaluation.cuts import Cut, Cuts, read_cuts
from recipes.core.report.heatmap import PICTURES

SIGNS = PICTURES | {ord("\n"): "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}", ord("\t"): "\N{RIGHTWARDS ARROW TO BAR}"}
PART = "\N{MIDDLE DOT}"  # a token that ends inside the character which the token before it began


def legible_cuts(folder: Path) -> Cuts | None:
    """The cut texts of a run with signs for what cannot be seen (spaces, line ends, parts of characters), for its page.

    Args:
        folder: Of the run.

    Returns:
        None if the run left no such texts.
    """
    cuts = read_cuts(folder)
    if cuts is None:
        return None
    return replace(cuts, texts=[replace(text, cuts=[_legible(cut) for cut in text.cuts]) for text in cuts.texts])


def _legible(cut: Cut) -> Cut:
    """A cut whose tokens can all be seen."""
    return replace(cut, tokens=[token.translate(SIGNS) or PART for token in cut.tokens])
