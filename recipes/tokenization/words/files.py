"""What people look at: words of held-out text with their bits, and how a model goes on."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recipes.core.evaluation.heatmaps import heatmap_example
from recipes.core.storage.files import write_text
from recipes.tokenization.words.corpus import hierarchy_batch, words_of
from recipes.tokenization.words.measures import Stretch
from recipes.tokenization.words.model import WordModel
from recipes.tokenization.words.reading import Reader, WordBits
from recipes.tokenization.words.units import Units

WORDS = "words.jsonl"
HINT = "A word weighs its bits per byte under the model that the run leaves; marked: words that it predicts wholly."


def write_words(
    path: Path, parts: Sequence[Stretch], read: Sequence[WordBits], continued: Sequence[str] | None
) -> None:
    """Each text: its words, bits of each, which are predicted wholly; and what the model writes behind its context."""
    rows = []
    for number, (part, one) in enumerate(zip(parts, read, strict=True)):
        row: dict[str, Any] = {
            "id": part.window.id,
            "domain": part.window.domain,
            "bits_per_byte": float(one.bits.sum()) / sum(map(len, one.words)),
            "words": [word.decode(errors="replace") for word in one.words],
            "bits": [round(value, 3) for value in one.bits.tolist()],
            "right": one.right.tolist(),
        }
        if continued and number < len(continued):
            row |= {"before": part.before, "text": part.text, "continued": continued[number]}
        rows.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_text(path, "".join(rows))


def heatmap(parts: Sequence[Stretch], read: Sequence[WordBits], shown: int) -> dict[str, Any]:
    """Content of `heatmap.json`: the first texts, their words shaded by bits per byte."""
    examples = [
        heatmap_example(
            part.window.id,
            [word.decode(errors="replace") for word in one.words],
            one.bits / np.array([len(word) for word in one.words]),
            one.bits * np.log(2),
            ["right" if right else None for right in one.right],
        )
        for part, one in list(zip(parts, read, strict=True))[:shown]
    ]
    return {"examples": examples, "hint": HINT}


@torch.no_grad()
def continue_text(reader: Reader, before: str, count: int) -> str:
    """The words that a hierarchy writes behind a text, each unit the likeliest, until a document ends.

    Source:
        arXiv 2501.10322, inference: the backbone reads whole words; the decoder spells the next until it ends it.
    """
    options, units = reader.config.words, reader.units
    spelt = units.spell(words_of(before, options))
    first = len(spelt)
    for _ in range(count):
        word = greedy_word(reader.model, units, spelt, options.most)
        if units.stop in word:
            break
        spelt.append(word)
    space = b" " if options.normalise else b""  # the end of a word is one
    return b"".join(units.bytes_of(word) + space for word in spelt[first:]).decode(errors="replace")


def greedy_word(model: WordModel, units: Units, spelt: Sequence[Sequence[int]], longest: int) -> list[int]:
    """Units of the likeliest word behind others, at most so many; the end of a document is one of its own."""
    device = model.first.device
    # What the hint for a word says comes from those before it, whatever stands in its place.
    batch = hierarchy_batch([[*spelt, [units.stop]]], units)
    words, lengths, sequence = (batch[name].to(device) for name in ("words", "lengths", "sequence"))
    hint = model.hints(model.encode(words, lengths), sequence)[:, -1]
    word = list[int]()
    while len(word) < longest:
        logits = model.logits(torch.tensor([word], dtype=torch.long, device=device), hint)
        unit = int(logits[0, -1].argmax())
        if unit == units.end and word:
            break
        word.append(unit)
        if unit == units.stop:
            break
    return word
