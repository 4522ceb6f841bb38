"""The same text cut by several tokenizers, and which boundaries of its tokens move where it is read badly."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recipes.core.data.text.text_ids import TextIds
from recipes.core.data.text.windows import Window, random_of
from recipes.core.evaluation.cuts import Cut, Cuts, CutText
from recipes.tokenization.config import NoiseConfig
from recipes.tokenization.edits import aligned_places
from recipes.tokenization.measures import agreement
from recipes.tokenization.noise import edited

CHARACTERS = 240  # of a text that is shown
HINT = (
    "Each token has its own background; a dot is a token that holds part of a character. Below each text is the same "
    "text, misread. A red bar: a token starts here in only one of the two."
)


@dataclass(frozen=True)
class Tokens:
    """A text in tokens.

    Attributes:
        ids: Of each token.
        places: First and one past the last character of each.
    """

    ids: list[int]
    places: list[tuple[int, int]]

    @property
    def starts(self) -> list[int]:
        """First character of each token."""
        return [start for start, _ in self.places]

    def texts(self, text: str) -> list[str]:
        """What each token stands for, white space between tokens included: joined they are the text.

        Of several tokens of one character the first has it, and the others are empty.
        """
        ends, last = list[int](), 0
        for _, end in self.places:
            last = max(last, end)
            ends.append(last)
        if ends:
            ends[-1] = len(text)  # what a tokenizer leaves out at the end
        return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def tokens_of(tokenizer: Any, texts: Sequence[str]) -> list[Tokens]:
    """Texts in tokens, nothing added before or behind them. Raises UserError: the tokenizer knows no places."""
    return [Tokens(list(ids), list(places)) for ids, places in TextIds(tokenizer).with_offsets(texts)]


def cut_texts(
    windows: Sequence[Window], tokenizers: Mapping[str, Any], noise: NoiseConfig, seed: int, shown: int
) -> Cuts | None:
    """The first texts, each as every tokenizer cuts it and its noisy copy; None where none is to be shown.

    Args:
        windows: Texts.
        tokenizers: Name for people -> tokenizer.
        noise: What happens to the copy.
        seed: Of the noise.
        shown: How many texts.
    """
    texts = []
    for window in in_turn(windows)[:shown]:
        clean = window.text[:CHARACTERS]
        noisy = edited(clean, noise.rate, noise.kinds, random_of(seed, f"picture of {window.id}"))
        cuts = [cut for name, one in tokenizers.items() for cut in _both(name, one, clean, noisy)]
        texts.append(CutText(window.id, cuts))
    return Cuts(texts, HINT) if texts else None


def in_turn(windows: Sequence[Window]) -> list[Window]:
    """Texts of all domains in turn: the first of each, the second of each."""
    counts, keyed = Counter[str](), list[tuple[int, Window]]()
    for window in windows:
        keyed.append((counts[window.domain], window))
        counts[window.domain] += 1
    return [window for _, window in sorted(keyed, key=lambda each: each[0])]


def _both(name: str, tokenizer: Any, clean: str, noisy: str) -> list[Cut]:
    """A text and its noisy copy, cut by one tokenizer."""
    pair = clean, noisy
    read = tokens_of(tokenizer, pair)
    starts = [side[one.starts].tolist() for side, one in zip(aligned_places(*pair), read, strict=True)]
    shared = set(starts[0]) & set(starts[1])
    notes = [
        f"{len(one.ids)} tokens, {len(one.ids) / max(len(text), 1):.2f} a character"
        for text, one in zip(pair, read, strict=True)
    ]
    notes[1] += f"; {agreement(*starts):.0%} of the places where a token starts in either text are common to both"
    labels = name, f"{name}, misread"
    return [
        Cut(label, note, one.texts(text), [place not in shared for place in places])
        for label, note, one, text, places in zip(labels, notes, read, pair, starts, strict=True)
    ]
