"""What replaces a token: another of its surface class, of the vocabulary, or what the model itself expects there.

A sampler is a function of uniform numbers, so that the same numbers give the same text in any batch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from recipes.attribution.reagent.config import CLASS, LM_ARGMAX, LM_SAMPLE, UNIFORM
from recipes.attribution.reagent.reader import Reader
from recipes.core.data.text.text_ids import control_ids

Replace = Callable[[Tensor, Tensor], Tensor]  # (text of each row [n], uniform numbers [n, t]) -> ids [n, t]
SPACES = ("\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}", "\N{LOWER ONE EIGHTH BLOCK}", " ")  # marks of a word's begin
NO_CLASS = -1


def surface_class(piece: str) -> str:
    """Class of a piece: whether a space leads, and whether it is lower case, capital, digits or punctuation."""
    leads = piece.startswith(SPACES)
    text = piece[1:] if leads else piece
    if text.isdigit():
        kind = "digit"
    elif text.isalpha():
        kind = "capital" if text[0].isupper() else "lower"
    else:
        kind = "other" if not text or any(sign.isalnum() for sign in text) else "punctuation"
    return f"{'space ' if leads else ''}{kind}"


class Classes:
    """Classes of the tokens of a vocabulary.

    Args:
        classes: Of each token its class; None: it is never drawn, and never replaced.
        device: Where ids lie.
    """

    def __init__(self, classes: Sequence[str | None], device: torch.device | str = "cpu") -> None:
        names = {name: number for number, name in enumerate(sorted({name for name in classes if name is not None}))}
        kinds = torch.tensor([NO_CLASS if name is None else names[name] for name in classes])
        known = (kinds != NO_CLASS).nonzero()[:, 0]
        # Members of all classes, class after class, in the order of their ids.
        members = known[kinds[known].argsort(stable=True)]
        sizes = torch.bincount(kinds[known], minlength=len(names))
        starts = sizes.cumsum(0) - sizes
        place = torch.zeros(len(classes), dtype=torch.int64)
        place[members] = torch.arange(len(members)) - starts[kinds[members]]
        self._kinds, self._members, self._sizes, self._starts, self._place = (
            table.to(device) for table in (kinds, members, sizes, starts, place)
        )

    def draw(self, ids: Tensor, chances: Tensor) -> Tensor:
        """Another token of each one's class by uniform numbers in [0, 1); itself where it is alone or has none."""
        kinds = self._kinds[ids]
        others = self._sizes[kinds.clamp_min(0)] - 1
        # One of the others: those behind the token itself move up by one.
        place = (chances.to(ids.device).double() * others).long().clamp_min(0)
        place = place + (place >= self._place[ids])
        is_drawn = (kinds != NO_CLASS) & (others > 0)
        return torch.where(is_drawn, self._members[self._starts[kinds.clamp_min(0)] + place * is_drawn], ids)


def vocabulary_classes(tokenizer: Any, rows: int, uniform: bool, device: torch.device | str = "cpu") -> Classes:
    """Classes of all tokens of a tokenizer; control tokens and rows of the model without a token have none.

    Args:
        tokenizer: The model's.
        rows: Embeddings that the model has.
        uniform: Put all into one class.
        device: Where ids lie.
    """
    control, count = control_ids(tokenizer), min(len(tokenizer), rows)
    pieces = tokenizer.convert_ids_to_tokens(list(range(count)))
    classes = [
        None if number in control or piece is None else "any" if uniform else surface_class(piece)
        for number, piece in enumerate(pieces)
    ]
    return Classes(classes + [None] * (rows - count), device)


class Expectations:
    """What a model expects at each place of texts; at the first place the token stays, and where a text is padded.

    Args:
        reader: The model.
        ids: [texts, t]
        lengths: [texts] tokens of each.
        control: Tokens that never replace others.
        greedy: Take the likeliest token, which may be the one that stands there; else draw one of the others.
    """

    def __init__(self, reader: Reader, ids: Tensor, lengths: Tensor, control: Sequence[int], greedy: bool) -> None:
        self._ids, self._greedy = ids, greedy
        texts = [row[:length] for row, length in zip(ids, lengths.tolist(), strict=True)]
        self._tables = [self._column(reader.along(text), text, control, greedy) for text in texts]

    @staticmethod
    def _column(distributions: Tensor, ids: Tensor, control: Sequence[int], greedy: bool) -> Tensor:
        """Of one text [t - 1] the likeliest tokens, or [t - 1, V] running sums of probabilities."""
        chances = distributions[:-1].clone()
        chances[:, [*control]] = 0
        if greedy:
            return chances.argmax(-1)
        chances.scatter_(1, ids[1:, None], 0.0)
        return chances.cumsum(-1)

    def draw(self, texts: Tensor, chances: Tensor) -> Tensor:
        """[n, t] replacements of the texts with these numbers [n], by uniform numbers [n, t]."""
        drawn = self._ids[texts].clone()
        for text in texts.unique().tolist():
            rows, table = texts == text, self._tables[text]
            length = len(table) + 1
            if self._greedy:
                drawn[rows, 1:length] = table
                continue
            wanted = (chances[rows, 1:length].to(table) * table[:, -1]).T.contiguous()
            places = torch.searchsorted(table, wanted, right=True).T
            drawn[rows, 1:length] = places.clamp_max(table.shape[-1] - 1)
        return drawn


def build_sampler(
    name: str, reader: Reader, ids: Tensor, lengths: Tensor, tokenizer: Any, tables: dict[str, Classes]
) -> Replace:
    """The sampler of a config, for some texts.

    Args:
        name: `class`, `uniform`, `lm_sample` or `lm_argmax`.
        reader: The model.
        ids: [texts, t]
        lengths: [texts] tokens of each.
        tokenizer: Its tokenizer.
        tables: Classes that were made before, by name; one that is made here is added.
    """
    if name in (LM_SAMPLE, LM_ARGMAX):
        rows = len(reader.model.get_input_embeddings().weight)
        control = [token for token in control_ids(tokenizer) if token < rows]
        return Expectations(reader, ids, lengths, control, name == LM_ARGMAX).draw
    assert name in (CLASS, UNIFORM)
    if name not in tables:
        rows = len(reader.model.get_input_embeddings().weight)
        tables[name] = vocabulary_classes(tokenizer, rows, name == UNIFORM, ids.device)
    return lambda texts, chances: tables[name].draw(ids[texts], chances)
